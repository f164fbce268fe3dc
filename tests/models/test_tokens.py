"""Token truth: which ids, which BOS and from whom, which position is which column, which turn lies where."""

import pytest
import torch

from architectures import CONFIGS, randomised
from byte_tokenizer import CHATML, N_IDS, byte_tokenizer
from digsite._core.errors import BadInput
from digsite.models.load import wrap
from digsite.models.tokens import Turn, given, grid

# As reasoning models do it: the thinking of turns before the last user turn is dropped.
THINKING = (
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.index0 < ns.last %}{{ m.content.split('</think>')[-1] }}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}"
# As Llama 2 and Gemma do it: the system message is a part of the user's turn.
FOLDED = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content + '\n' %}{% set rest = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
    "{% if not rest %}{{ raise_exception('a user turn is needed') }}{% endif %}"
    "{% for m in rest %}<|im_start|>{{ m.role }}\n{% if loop.first %}{{ system }}{% endif %}{{ m.content }}<|im_end|>\n"
    "{% endfor %}"
)


@pytest.fixture(scope="module")
def bare():
    config = CONFIGS["llama"]()
    config.vocab_size = N_IDS
    return randomised(config)


def with_tokenizer(bare, tokenizer):
    return wrap(bare, tokenizer, name="llama", revision=None, attention="eager")


@pytest.fixture
def model(bare):
    return with_tokenizer(bare, byte_tokenizer())


# -- BOS -----------------------------------------------------------------------------------------------------------
def test_who_put_the_bos_there(bare, model):
    tokens = model.tokens(["ab", "c"])
    assert tokens.ids[:, 0].tolist() == [0, 0]
    assert tokens.bos == "added by the tokenizer"
    assert tokens.strings == [["<s>", "a", "b"], ["<s>", "c"]]
    assert tokens.texts == ("ab", "c")
    assert model.tokens(["ab"], special=True).bos == "added by the tokenizer"
    none = model.tokens(["ab"], special=False)
    assert (none.bos, none.strings) == ("none", [["a", "b"]])
    inside = model.tokens(["<s>ab"], special=False)
    assert (inside.bos, inside.strings) == ("in the text", [["<s>", "a", "b"]])
    assert model.tokens([[0, 9, 8]]).bos == "as given"
    without = with_tokenizer(bare, byte_tokenizer(bos=False)).tokens(["ab"])
    assert (without.bos, without.strings) == ("none (the tokenizer has no BOS)", [["a", "b"]])
    silent = with_tokenizer(bare, byte_tokenizer(adds=False))
    assert silent.tokens(["ab"]).bos == "none"
    assert silent.tokens(["<s>ab"]).bos == "in the text"


def test_two_bos_tokens_are_refused(model):
    with pytest.raises(BadInput, match="Row 1 starts with two BOS tokens") as caught:
        model.tokens(["ab", "<s>ab"])
    assert "one from the tokenizer and one in the text" in str(caught.value)
    assert "pass special=False" in str(caught.value)


def test_a_bare_string_shows_what_to_write(model):
    with pytest.raises(BadInput, match=r"model\.tokens\(\['ab'\]\)"):
        model.tokens("ab")


def test_empty_prompts(bare, model):
    assert model.tokens([""]).strings == [["<s>"]], "a BOS alone is a prompt"
    for tokens in ([""], ["ab", ""]):
        with pytest.raises(BadInput, match="A prompt is empty"):
            model.tokens(tokens, special=False)
    with pytest.raises(BadInput, match="no token in row 1"):
        model.tokens([[5], []])
    for nothing in ([], [[]], torch.zeros(2, 0, dtype=torch.long), torch.zeros(0, 3, dtype=torch.long)):
        with pytest.raises(BadInput, match=r"empty|at least one row"):
            model.tokens(nothing)


def test_tensors_are_ids_and_nothing_else(model):
    assert model.tokens(torch.tensor([[5, 6]], dtype=torch.int32)).ids.tolist() == [[5, 6]]
    for wrong in (torch.tensor(5), torch.tensor([5, 6]), torch.ones(2, 2, 2).long(), torch.tensor([[1.0, 2.0]])):
        with pytest.raises(BadInput, match=r"Token ids in a tensor are integers \[batch, pos\]"):
            given(wrong, None)


def test_ids_outside_the_vocabulary(model):
    with pytest.raises(BadInput, match="Token id 110 is not in the vocabulary") as caught:
        model.tokens([[5, 110]])
    assert "0 to 109" in str(caught.value)
    for run in (lambda: model.tokens([[-1, 4]]), lambda: model.run(torch.tensor([[-1, 4]]))):
        with pytest.raises(BadInput, match="Token id -1 is not in the vocabulary"):
            run()


def test_rows_longer_than_the_context(model):
    assert model.tokens([[5] * 64]).lengths == [64]
    with pytest.raises(BadInput, match=r"longer than the model's context.\nFound: 65 tokens.\nPossible: at most 64"):
        model.tokens([[5] * 65])
    wide = grid([[5] * 60, [6] * 3], padding="left")
    assert model.run(wide, logits=1).logits.shape == (2, 1, 110)


def test_strings_need_a_tokenizer(bare):
    with pytest.raises(BadInput, match="has no tokenizer"):
        with_tokenizer(bare, None).tokens(["ab"])
    assert with_tokenizer(bare, None).tokens([[7, 8]]).strings == [["7", "8"]]


# -- padding and places --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("padding", ["left", "right"])
def test_padding(model, padding):
    tokens = model.tokens(["abcd", "x", "yz"], padding=padding)
    assert tokens.lengths == [5, 2, 3]
    assert tokens.padded
    assert tokens.starts == ([0, 3, 2] if padding == "left" else [0, 0, 0])
    assert (tokens.ids[~tokens.mask] == 4).all(), "the tokenizer's pad id"
    for row, (start, length) in enumerate(zip(tokens.starts, tokens.lengths, strict=True)):
        assert tokens.positions[row, start : start + length].tolist() == list(range(length))
        assert tokens.mask[row].tolist() == [start <= c < start + length for c in range(5)]
    left = tokens.padded_left()
    assert left.starts == [0, 3, 2]
    assert left.strings == tokens.strings
    assert not model.tokens(["ab", "cd"]).padded
    with pytest.raises(BadInput, match="padding='middle' is not a side"):
        model.tokens(["ab"], padding="middle")


def test_rows_are_cut_to_what_they_need(model):
    for padding in ("left", "right"):
        tokens = model.tokens(["abcd", "x", "yz"], padding=padding)
        two = tokens[1:]
        assert (two.ids.shape, two.texts, two.strings) == ((2, 3), ("x", "yz"), tokens.strings[1:])
        one = tokens[-1]
        assert (one.ids.shape, len(one)) == ((1, 3), 1)
        assert [len(part) for part in tokens.batches(2)] == [2, 1]
        assert [part.ids.shape[1] for part in tokens.batches(2)] == [5, 3]
        assert tokens[[2, 0]].strings == [tokens.strings[2], tokens.strings[0]]


def test_a_fingerprint_is_of_ids_and_mask(model):
    tokens = model.tokens(["abcd", "x"])
    same = model.tokens([row[mask].tolist() for row, mask in zip(tokens.ids, tokens.mask, strict=True)])
    assert tokens.fingerprint == same.fingerprint
    assert tokens.fingerprint != model.tokens(["abcd", "y"]).fingerprint
    assert tokens.fingerprint != tokens[:1].fingerprint
    assert len(tokens.fingerprint) == 16


def test_places_are_cells_of_the_grid(model):
    tokens = model.tokens(["abcd", "x", "yz"], padding="left")

    def cells(at):
        places = tokens.places(at)
        return list(zip(places.rows.tolist(), places.columns.tolist(), strict=True)), places.per_row

    assert cells(0) == ([(0, 0), (1, 3), (2, 2)], 1)
    assert cells(-1) == ([(0, 4), (1, 4), (2, 4)], 1)
    assert cells([0, -1]) == ([(0, 0), (0, 4), (1, 3), (1, 4), (2, 2), (2, 4)], 2)
    assert cells(slice(1, None)) == ([(0, 1), (0, 2), (0, 3), (0, 4), (1, 4), (2, 3), (2, 4)], None)
    assert cells(torch.tensor([2, 0, 1])) == ([(0, 2), (1, 3), (2, 3)], 1)
    assert cells(None)[1] is None
    with pytest.raises(BadInput, match="Position 2 is outside row 1") as caught:
        tokens.places(2)
    assert "2 real tokens" in str(caught.value)
    assert "0 to 1, or -2 to -1 from the end" in str(caught.value)
    with pytest.raises(BadInput, match="2 of them for 3 rows"):
        tokens.places(torch.tensor([0, 1]))


def test_the_repr_shows_the_exact_tokens(model):
    shown = repr(model.tokens(["a b\nc", "x"]))
    assert "Tokens: 2 rows, 6 columns; BOS added by the tokenizer" in shown
    assert "<s>│a│·│b│⏎│c  (6 tokens)" in shown
    assert "… 3 more rows" in repr(model.tokens(["x"] * 7))


def test_strings_keep_leading_spaces_and_newlines(model):
    assert model.tokens(["a  b\n\nc"]).strings == [["<s>", "a", " ", " ", "b", "\n", "\n", "c"]]


# -- conversations -------------------------------------------------------------------------------------------------
CHAT = [
    {"role": "system", "content": "be"},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "yo"},
    {"role": "user", "content": "ok"},
]


def turns_of(tokens, row):
    assert tokens.turns is not None
    return tokens.turns[row]


def text_of(tokens, row, turn):
    return "".join(tokens.strings[row][turn.start : turn.stop])


def test_turns_lie_where_the_template_puts_them(bare):
    model = with_tokenizer(bare, byte_tokenizer(template=CHATML))
    tokens = model.chat(CHAT, add_generation_prompt=True)
    turns = turns_of(tokens, 0)
    assert [turn.role for turn in turns] == ["system", "user", "assistant", "user", "generation"]
    assert [text_of(tokens, 0, turn) for turn in turns] == [
        "<|im_start|>system\nbe<|im_end|>\n",
        "<|im_start|>user\nhi<|im_end|>\n",
        "<|im_start|>assistant\nyo<|im_end|>\n",
        "<|im_start|>user\nok<|im_end|>\n",
        "<|im_start|>assistant\n",
    ]
    assert tokens.bos == "none", "the template has none, and none is added"
    assert [turn.role for turn in turns_of(model.chat(CHAT), 0)] == ["system", "user", "assistant", "user"]


def test_conversations_of_several_lengths_are_padded(bare):
    model = with_tokenizer(bare, byte_tokenizer(template="<s>" + CHATML))
    for padding in ("left", "right"):
        tokens = model.chat([CHAT[1:2], CHAT], padding=padding)
        assert tokens.bos == "from the chat template"
        assert [len(turns_of(tokens, row)) for row in range(2)] == [1, 4]
        assert text_of(tokens, 0, turns_of(tokens, 0)[0]) == "<s><|im_start|>user\nhi<|im_end|>\n"
        assert text_of(tokens, 1, turns_of(tokens, 1)[2]) == "<|im_start|>assistant\nyo<|im_end|>\n"
        last = turns_of(tokens, 1)[-1]
        run = model.run(tokens[1], read=["layers.0.resid_post"], at=slice(last.start, last.stop))
        assert run["layers.0.resid_post"].shape == (1, last.stop - last.start, 64)
        assert turns_of(tokens[1], 0) == turns_of(tokens, 1)


def test_thinking_is_a_part_of_its_turn(bare):
    model = with_tokenizer(bare, byte_tokenizer(template=THINKING))
    think = {"role": "assistant", "content": "<think>hm</think>yo"}
    tokens = model.chat([*CHAT[:2], think])
    assert text_of(tokens, 0, turns_of(tokens, 0)[2]) == "<|im_start|>assistant\n<think>hm</think>yo<|im_end|>\n"
    tokens = model.chat(CHAT[:2], add_generation_prompt=True)
    assert turns_of(tokens, 0)[-1].role == "generation"
    assert text_of(tokens, 0, turns_of(tokens, 0)[-1]) == "<|im_start|>assistant\n<think>\n"
    with pytest.raises(BadInput, match=r"rewrites turn 2 \(assistant\) when later turns follow"):
        model.chat([*CHAT[:2], think, CHAT[3]])
    assert len(turns_of(model.chat(CHAT), 0)) == 4, "without thinking nothing is rewritten"


def test_tokens_may_join_what_turns_separate(bare):
    """A plain template ends turns with newlines that one token may span; a turn still ends where its text does."""
    model = with_tokenizer(bare, byte_tokenizer(template=PLAIN, merges=(("Ċ", "Ċ"), ("ĊĊ", "ĊĊ"))))
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "\n\nyo"}]
    tokens = model.chat(chat)
    assert "".join(tokens.strings[0]) == "user: hi\n\nassistant: \n\nyo\n\n"
    first, second = turns_of(tokens, 0)
    assert text_of(tokens, 0, first) == "user: hi\n\n"
    assert text_of(tokens, 0, second) == "assistant: \n\nyo\n\n"


def test_a_template_that_folds_the_system_message_into_the_user_turn(bare):
    model = with_tokenizer(bare, byte_tokenizer(template=FOLDED))
    tokens = model.chat(CHAT)
    assert [turn.role for turn in turns_of(tokens, 0)] == ["system", "user", "assistant", "user"]
    assert turns_of(tokens, 0)[0] == Turn("system", 0, 0), "it has no turn of its own"
    assert text_of(tokens, 0, turns_of(tokens, 0)[1]) == "<|im_start|>user\nbe\nhi<|im_end|>\n"


def test_conversations_that_cannot_be_rendered(bare, model):
    with pytest.raises(BadInput, match="has no chat template"):
        model.chat(CHAT)
    with pytest.raises(BadInput, match="has no chat template"):
        with_tokenizer(bare, None).chat(CHAT)
    folded = with_tokenizer(bare, byte_tokenizer(template=FOLDED))
    with pytest.raises(BadInput, match="a user turn is needed"):
        folded.chat(CHAT[:1])
    for empty in ([], [[]]):
        with pytest.raises(BadInput, match="empty"):
            folded.chat(empty)
