"""What becomes of a text example: exact ids, or a reason that is counted."""

import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from digsite._core.errors import BadInput
from digsite.tasks.build import build, option_text
from digsite.tasks.encoding import Encoded, Refused, encode
from digsite.tasks.examples import Example
from digsite.tasks.families import FAMILIES, usual_options
from digsite.tasks.words import FEMALE, NAMES

WORDS = "Mary John gave a book to the one two three in . ,"

OTHERS = {"corruption": "abc", "language": "tavi", "distractor": "any", "relation": "color", "modulus": 5}
OTHERS |= {"names": NAMES[:9], "female": FEMALE[:9], "male": NAMES[:9], "words": NAMES[:20], "sequences": ("months",)}
OTHERS |= {"templates": ["{A} and {B} met, and {C} gave it to"]}


def example(**parts: Any) -> Example:
    given: dict[str, Any] = {"clean": "Mary gave a book to", "corrupt": "John gave a book to"}
    given |= {"right": " John", "wrong": " Mary"} | parts
    for side in ("right", "wrong"):
        given[side] = (given[side],) if isinstance(given[side], str) else given[side]
    return Example(**given)


@pytest.fixture
def model(word_model):
    return word_model(WORDS)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_task_says_what_its_family_was_asked_for(name, model, monkeypatch):
    """Every option of every family: one that was forgotten would make two questions look like one."""
    any_task, seen = build(model, "meeting", "Whom?", [example()], 1, seed=0), []

    def asked(**options: Any) -> dict[str, str]:
        FAMILIES[name](model, n=2, seed=5, **options)
        return {option: option_text(value) for option, value in seen[-1].get("options", {}).items()}

    monkeypatch.setattr(
        sys.modules[FAMILIES[name].__module__], "build", lambda *_, **told: seen.append(told) or any_task
    )
    assert asked() == usual_options(name)
    for option, usual in usual_options(name).items():
        one = {option: OTHERS[option]}
        assert asked(**one)[option] != usual and asked(**one) | {option: usual} == usual_options(name)


def test_a_task_keeps_the_options_of_its_family(model):
    told = {"corruption": "abc", "words": ["a", "b"], "modulus": 7, "templates": None}
    made = build(model, "meeting", "Whom?", [example()], 1, seed=0, options=told)
    assert made.options == made.take([0]).options == {name: option_text(value) for name, value in told.items()}
    assert {name: made.options[name] for name in ("corruption", "modulus", "templates")} == {
        "corruption": "abc",
        "modulus": "7",
        "templates": "None",
    }
    assert len(made.options["words"]) == 16 and made.options["words"] != option_text(["b", "a"])


def one(model, **parts) -> Any:
    return encode(model, [example(**parts)])[0]


def test_ids_are_the_tokenizers_own(model):
    coded = one(model, right=(" John", " one two"), wrong=())
    ids = model.tokenizer.convert_tokens_to_ids
    assert isinstance(coded, Encoded)
    assert coded.clean == tuple(ids(["<s>", "Mary", "gave", "a", "book", "to"]))
    assert coded.corrupt == tuple(ids(["<s>", "John", "gave", "a", "book", "to"]))
    assert coded.right == {" John": (ids("John"),), " one two": tuple(ids(["one", "two"]))}
    assert coded.wrong == {} and coded.answer_width == 2


@pytest.mark.parametrize(
    ("parts", "reason", "found"),
    [
        ({"clean": "Mary gave the the book to"}, "clean and corrupt differ in token count",
         "clean has 7 tokens, corrupt has 6"),
        ({"corrupt": "Mary gave a  book to"}, "clean and corrupt are the same tokens", "Mary gave"),
        ({"right": " Anna"}, "an answer is not in the vocabulary", "' Anna' holds the unk token"),
        ({"right": " John Anna"}, "an answer is not in the vocabulary", "' John Anna' holds the unk token"),
        ({"corrupt": "Anna gave a book to"}, "a word of the prompt is not in the vocabulary", "the corrupt prompt"),
        ({"right": "ward"}, "the answer merges with the end of the prompt", "'ward' after 've a book to'"),
        ({"right": "John", "wrong": " John"}, "the answer merges with the end of the prompt", "'John' after"),
        ({"right": " John", "wrong": "  John"}, "a right and a wrong answer are the same tokens", "ids ["),
        ({"right": " John", "wrong": " John two"}, "one answer begins another", "begin ["),
        ({"right": (" one", " one two"), "wrong": ()}, "one answer begins another", "begin ["),
        ({"clean": "Mary " * 70, "corrupt": None}, "more tokens than the context", "71 tokens, the model takes 64"),
        ({"clean": "Mary " * 63, "corrupt": None, "right": " one two"}, "more tokens than the context", "65 tokens"),
        ({"clean": "Mary , gave to a one", "corrupt": "one, gave to a two"}, None, ""),
        ({"clean": "Mary gave a book, one", "corrupt": "John, gave a book one"},
         "a word lies at other positions in the corrupt prompt", "'gave' at 2 in clean, at 3 in corrupt"),
        ({"spans": {"gap": (4, 5)}}, "a span covers no token", "span gap (' ')"),
    ],
)  # fmt: skip
def test_each_reason_is_given_for_its_own_fault(model, parts, reason, found):
    outcome = one(model, **parts)
    if reason is None:
        assert isinstance(outcome, Encoded)
    else:
        assert isinstance(outcome, Refused)
        assert outcome.reason == reason
        assert found in outcome.found


def test_spans_are_positions_that_count_the_bos(word_model):
    text = "Mary , John gave a book"
    parts = {
        "clean": text,
        "corrupt": None,
        "spans": {"who": (0, 4), "both": (0, 11), "part of a word": (8, 9), "rest": (11, 23)},
    }
    expected = {"who": (0, 1), "both": (0, 3), "part of a word": (2, 3), "rest": (3, 6)}
    assert one(word_model(WORDS, bos=False), **parts).spans == expected
    moved = {name: (start + 1, stop + 1) for name, (start, stop) in expected.items()}
    assert one(word_model(WORDS), **parts).spans == moved


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from(WORDS.split()), min_size=1, max_size=12), st.data())
def test_a_span_holds_exactly_the_words_it_covers(word_model, words, data):
    first = data.draw(st.integers(0, len(words) - 1))
    last = data.draw(st.integers(first, len(words) - 1))
    text = " ".join(words)
    start = len(" ".join([*words[:first], ""]))
    coded = one(
        word_model(WORDS),
        clean=text,
        corrupt=None,
        spans={"s": (start, start + len(" ".join(words[first : last + 1])))},
    )
    begin, stop = coded.spans["s"]
    inside = [WORDS.split()[i - 4] for i in coded.clean[begin:stop]]
    assert inside == words[first : last + 1]


def test_of_several_answers_those_that_cannot_be_used_are_left_out_on_request(model):
    several = example(right=(" John", " Anna", "ward", " one"), wrong=(" Zoe", " two"))
    outcomes: list[Any] = encode(model, [several]) + encode(model, [several], spare=True)
    assert outcomes[0].reason == "an answer is not in the vocabulary"
    assert list(outcomes[1].right) == [" John", " one"] and list(outcomes[1].wrong) == [" two"]
    left_out = "one of several answers left out: "
    task = build(model, "giving", "", [several, example(right=(" Zoe", " Anna"))], 2, seed=0)
    assert dict(task.dropped) == {
        left_out + "an answer is not in the vocabulary": 2,
        left_out + "the answer merges with the end of the prompt": 1,
        "an answer is not in the vocabulary": 1,  # an example with no answer left
    }


def stream(*wanted):
    """Endless examples of the given kinds, each different."""
    kinds = {
        "short": lambda: {"right": " one"},
        "long": lambda: {"right": " one two"},
        "bad": lambda: {"right": " Anna"},
    }
    for kind in wanted:
        yield example(**kinds[kind]())


def test_n_examples_are_kept_and_the_rest_is_counted(model):
    candidates = stream("bad", "short", "bad", "short", "short", "short")
    task = build(model, "giving", "What does {model} do?", candidates, 3, seed=7)
    assert (len(task), task.seed, dict(task.dropped)) == (3, 7, {"an answer is not in the vocabulary": 2})
    assert task.question == f"What does {model.name} do?"
    assert len(list(candidates)) == 1  # no more was read than needed


@pytest.mark.parametrize(
    ("kinds", "rows", "examples"),
    [
        (["long", "short", "short", "short"], 2, 2),  # the short ones reach n first
        (["long", "short", "long", "short"], 4, 2),  # the long ones do, and take the short one along
        (["long", "short", "bad"], 1, 1),  # none does: a tie goes to one-token answers
        (["short", "long", "long"], 4, 2),
        (["bad", "long"], 2, 1),
    ],
)
def test_one_token_answers_are_preferred(model, kinds, rows, examples):
    task = build(model, "giving", "", stream(*kinds), 2, seed=0)
    assert (len(task), len(task.clean)) == (examples, rows)
    assert (task.keep == 1) == (rows == examples)
    if task.keep == 1:
        assert task.dropped["an answer takes several tokens, and enough others take one"] == 1


def test_nothing_usable_is_an_error_that_counts_the_reasons(model):
    with pytest.raises(BadInput) as error:
        build(model, "giving", "", [*stream("bad", "bad"), example(right="x")], 5, seed=0)
    assert "The task giving has no example that the tokenizer of" in str(error.value)
    assert "2 × an answer is not in the vocabulary; 1 × the answer merges" in str(error.value)
    with pytest.raises(BadInput, match=r"A task of 0 examples is no task"):
        build(model, "giving", "", [], 0, seed=0)
    with pytest.raises(BadInput, match=r"no candidates"):
        build(model, "giving", "", [], 1, seed=0)


def test_pairs_and_single_prompts_do_not_mix(model):
    with pytest.raises(BadInput, match=r"Some examples have a corrupt prompt and others have none"):
        build(model, "giving", "", [example(), example(corrupt=None)], 2, seed=0)


def test_a_model_without_tokenizer_is_refused(model):
    from digsite.models import load

    bare = load(model.hf)
    with pytest.raises(BadInput, match=r"This model has no tokenizer"):
        encode(bare, [example()])


def test_a_tokenizer_that_cuts_words_loses_no_token(stories):
    """Prompt ids and answer ids, put together, are the ids of the whole text."""
    candidates = [
        Example(
            f"One day, {a} met {b}.", f"One day, {b} met {a}.", (f" {a}",), (f" {b}", " The"), {"a": (9, 9 + len(a))}
        )
        for a, b in [("Lily", "Tim"), ("Tom", "Sue"), ("Anna", "Ben"), ("Max", "Mia")]
    ]
    usable = [coded for coded in encode(stories, candidates) if isinstance(coded, Encoded)]
    assert usable
    for coded in usable:
        for text, ids in (coded.right | coded.wrong).items():
            whole = stories.tokens([coded.example.clean + text])
            assert whole.ids[0].tolist() == [*coded.clean, *ids]
        start, stop = coded.spans["a"]
        strings = stories.tokens([coded.example.clean]).strings[0]
        assert "".join(strings[start:stop]).strip() == coded.example.part("a")
    task = build(stories, "met", "", candidates, 4, seed=0)
    assert torch.equal(task.right.mask.any(-1), torch.ones(len(task), 1, dtype=torch.bool))
