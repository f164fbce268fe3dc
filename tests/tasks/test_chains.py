"""Chains keep exact ids: of texts, of conversations, of what a model wrote."""

import pytest
import torch

import digsite
from architectures import CONFIGS, randomised
from byte_tokenizer import CHATML, N_IDS, byte_tokenizer
from digsite._core.errors import BadInput
from digsite.circuits import eap, evaluate_circuit
from digsite.models.generate import Sampling
from digsite.models.tokens import grid
from digsite.patching import chain_patching
from digsite.tasks import Chain, chain_task


@pytest.fixture(scope="module")
def model():
    config = CONFIGS["llama"]()
    config.vocab_size, config.max_position_embeddings = N_IDS, 256
    return digsite.load(
        randomised(config), tokenizer=byte_tokenizer(template=CHATML, merges=(("5", "6"),)), verify=False
    )


def test_a_chain_has_the_tokens_of_its_whole_text(model):
    made = Chain.of(model, {"question": "2+3?5", "work": "6two and three", "cue": " is"}, " 5")
    whole = model.tokens(["2+3?56two and three is 5"])
    assert [*made.ids, *made.answer] == whole.ids[0].tolist()
    assert made.bos == whole.bos == "added by the tokenizer"
    # 56 is one token, which begins in the question.
    assert made.spelled(made.steps["question"]) == "<s>2+3?56"
    assert made.spelled(made.steps["work"]) == "two and three"
    assert made.spelled(made.answer) == " 5"


def test_an_answer_inside_a_token_is_refused(model):
    with pytest.raises(BadInput, match="The answer merges with the text before it"):
        Chain.of(model, {"question": "is it 5"}, "6")


def conversation(model, question, work, answer):
    chat = model.chat([{"role": "user", "content": question}], add_generation_prompt=True)
    return chat, Chain.of(model, {"chat": chat, "work": work, "cue": " so"}, answer)


def test_a_conversation_keeps_its_template_and_its_turns_are_steps(model):
    chat, made = conversation(model, "2+3?", "add them", " 5")
    assert list(made.steps) == ["user", "generation", "work", "cue"]
    assert list(made.ids)[: len(chat.ids[0])] == chat.ids[0].tolist()
    assert made.spelled(made.steps["generation"]) == "<|im_start|>assistant\n"


def test_what_a_model_wrote_is_a_chain_of_its_very_tokens(model):
    chat, _ = conversation(model, "2+3?", "x", " 5")
    other, _ = conversation(model, "what is 3+4?", "x", " 5")
    prompts = grid(
        [chat.ids[0].tolist(), other.ids[0].tolist()], padding="left", turns=(*chat.turns, *other.turns),
        tokenizer=model.tokenizer,
    )  # fmt: skip
    wrote = model.generate(prompts, max_new_tokens=12, stop_at=None, sample=Sampling())
    for row, prompt in enumerate((chat, other)):
        text = wrote.texts[row]
        made = Chain.written(wrote, row, rf"(?P<work>.{{{len(text) - 2}}})(?P<answer>.)")
        assert [*made.ids] == [*prompt.ids[0].tolist(), *wrote.generated[row]][: len(made.ids)]
        assert list(made.steps) == ["user", "generation", "work"]
        assert made.spelled(made.answer) == text[-2]
    with pytest.raises(BadInput, match="does not give the steps of a chain"):
        Chain.written(wrote, 0, "(?P<work>nothing like it)(?P<answer>at all)")


def chats(model):
    sides = [("2+3?", "add", " 56"), ("4+4?", "sum", " 8")], [("9+1?", "mul", " 70"), ("1+2?", "all", " 331")]
    return chain_task(model, *([conversation(model, *one)[1] for one in side] for side in sides))


def test_circuit_methods_read_late_answers_behind_a_chat_template(model):
    task = chats(model)
    assert task.keep == 4 and task.spans["work"].tolist() != [[0, 0]] * 2
    clean, corrupt = (task.metric(model.run(tokens, logits=task.keep).logits) for tokens in (task.clean, task.corrupt))
    scores = eap(model, task, at=["user", "work"])
    assert scores.scores.abs().max() > 0
    space = scores.space
    ends = evaluate_circuit(model, task, torch.stack([torch.zeros_like(space.real), space.real]))
    torch.testing.assert_close(ends, torch.stack([corrupt, clean]).float(), rtol=1e-3, atol=1e-3)
    # A position in the part that was written after the template: patching it is one edit by hand.
    found = digsite.activation_patching(model, task, "layers.1.resid_pre", at=["work"], direction="noise")
    donor = model.run(task.corrupt, read=["layers.1.resid_pre"])
    at = task.row_spans("work")[:, :1] + torch.arange(3)
    logits = model.run(task.clean, edits=[digsite.patch("layers.1.resid_pre", donor, at=at)], logits=task.keep).logits
    torch.testing.assert_close(found.patched[0], task.metric(logits).float(), rtol=1e-4, atol=1e-4)
    assert chain_patching(model, task, anew=True).anew.shape == (4, 2)
