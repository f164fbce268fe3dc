"""Answers that come late: chains as tasks, patching along them, and whether an answer is copied."""

import pytest
import torch
from reasoners import ASKED, chain, reasoner, reasoning_task

import digsite
from architectures import tiny
from digsite._core.errors import BadInput
from digsite.models.load import wrap
from digsite.patching import chain_patching, copy_test
from digsite.patching.places import span_positions
from digsite.tasks import Chain, chain_task
from slowly import slow_but

PADDED = [(name, one) for name in ("llama", "gpt2", "gemma2", "olmo2", "mistral_sliding") for one in ((1, 1), (3, 2))]


@pytest.mark.parametrize(("name", "copied", "computed"), [("copies", 1, 0), ("computes", 0, 1), ("hides", 0, 1)])
def test_a_model_that_copies_and_models_that_compute_are_told_apart(name, copied, computed):
    model = reasoner(name)
    found = copy_test(model, reasoning_task(model), draws=2)
    assert (found.copied[0], found.computed[0]) == (copied, computed)
    assert found.copied[2] - found.copied[1] < 0.2
    assert found.turned_by_chance[0] == 0
    assert ("is copied from the text" if copied else "is computed from the question") in found.verdict


WRITTEN = {"copies": "stated answer", "computes": "question", "hides": "question"}
STATE = {"copies": {"stated answer", "cue"}, "computes": {"question", "cue"}, "hides": {"question", "work", "cue"}}
"""The steps whose state holds the answer: where it is read, where hidden work is done, and where it is given."""


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("direction", ["noise", "denoise"])
def test_all_of_the_effect_is_at_the_step_that_the_program_reads(name, direction):
    model = reasoner(name)
    found = chain_patching(model, reasoning_task(model), direction=direction, anew=True)
    assert list(found.steps) == ["question", "work", "stated answer", "cue"]
    for row in found.to_frame().to_dicts():
        holds = float(row["step"] in STATE[name])
        assert round(row["written"], 3) == float(row["step"] == WRITTEN[name])
        assert (round(row["state"], 3), row["turned"]) == (holds, holds)
        # Left alone after the question, the model that copies writes no text that it could copy from.
        if name != "copies" or row["step"] in STATE[name]:
            assert (row["anew"], row["alone"]) == (holds, 0)


def test_words_of_a_step_are_the_text_with_its_tokens_exchanged():
    model = reasoner("copies")
    task = chain_task(model, [chain(model, "p")], [chain(model, "q")])
    found = chain_patching(model, task)
    other = chain_task(model, [chain(model, "p", stated="b", answer="a")], [chain(model, "q")])
    at = found.steps.index("stated answer")
    torch.testing.assert_close(found.written[at], task.metric(model.run(other.clean, logits=1).logits))


def random_chains(n, widths, seed=0, answers=(1, 1)):
    """Pairs of chains of random ids, with steps and answers of various lengths."""
    generator = torch.Generator().manual_seed(seed)

    def draw(count):
        return torch.randint(3, 97, (count,), generator=generator).tolist()

    sides = [], []
    for i in range(n):
        for side, width in zip(sides, answers, strict=True):
            steps = {name: draw(ws[i % len(ws)]) for name, ws in widths.items()}
            side.append((steps, draw(width)))
    return sides


def model_of(name):
    return wrap(tiny(name), None, name=name, revision=None, attention="eager")


@pytest.mark.parametrize(("name", "answers"), slow_but([("llama", (1, 1)), ("mistral_sliding", (3, 2))], PADDED))
def test_padded_batches_are_what_each_text_gives_by_itself(name, answers):
    model = model_of(name)
    clean, corrupt = (
        [Chain.of(model, *one) for one in side]
        for side in random_chains(3, {"question": (2, 4, 3), "step 1": (1, 2, 1), "end": (2, 1, 1)}, answers=answers)
    )
    together = chain_patching(model, chain_task(model, clean, corrupt), anew=True)
    assert (together.state - together.base).abs().max() > 1e-3
    for i in range(3):
        alone = chain_patching(model, chain_task(model, [clean[i]], [corrupt[i]]), anew=True)
        for part in ("base", "source"):
            torch.testing.assert_close(getattr(alone, part), getattr(together, part)[i : i + 1], rtol=1e-3, atol=1e-3)
        for part in ("written", "state", "anew", "alone"):
            mine, all_ = getattr(alone, part), getattr(together, part)
            torch.testing.assert_close(mine[:, 0], all_[:, i], rtol=1e-3, atol=1e-3)


def test_a_state_patch_is_one_edited_run_by_hand_and_positions_are_absolute():
    model = model_of("llama")
    sides = random_chains(2, {"question": (2, 5), "step 1": (2, 1), "end": (1, 1)}, answers=(2, 3))
    task = chain_task(model, *([Chain.of(model, *one) for one in side] for side in sides))
    found = chain_patching(model, task, steps=["step 1"])
    scores = []
    for i, (steps, _) in enumerate(sides[0]):
        start = len(steps["question"])
        places = list(range(start, start + len(steps["step 1"])))
        logits = []
        for row in (task.right.rows[i, 0], task.wrong.rows[i, 0]):
            clean, corrupt = (tokens[int(row)] for tokens in (task.clean, task.require_corrupt()))
            donor = model.run(corrupt, read=["layers.*.resid_pre", "layers.2.resid_post"])
            sites = [*(f"layers.{layer}.resid_pre" for layer in range(3)), "layers.2.resid_post"]
            edits = [digsite.patch(site, donor, at=places) for site in sites]
            logits.append(model.run(clean, edits=edits).logits[0].log_softmax(-1))
        right, wrong = (torch.tensor(side[i][1]) for side in sides)
        ends = [len(task.clean[int(side.rows[i, 0])].ids[0]) for side in (task.right, task.wrong)]
        each = [
            one[end - len(ids) : end].gather(1, ids[:, None]).sum()
            for one, ids, end in zip(logits, (right, wrong), ends, strict=True)
        ]
        scores.append(each[0] - each[1])
    torch.testing.assert_close(found.state[0], torch.stack(scores), rtol=1e-4, atol=1e-4)


def test_every_position_of_the_text_is_a_step_and_the_forced_answer_is_none():
    model = model_of("gpt2")
    sides = random_chains(2, {"question": (3,), "end": (2,)}, answers=(2, 2))
    task = chain_task(model, *([Chain.of(model, *one) for one in side] for side in sides))
    found = chain_patching(model, task, steps="each", anew=True)
    assert found.steps == ("0", "1", "2", "3", "4")
    named = chain_patching(model, task, steps=["question"])
    assert len(named.steps) == 1 and named.anew.shape == (0, 2)


def test_without_a_patch_the_model_writes_what_generate_writes():
    model = model_of("gpt2")
    texts = random_chains(2, {"question": (3, 4), "end": (2, 1)})[0]
    tokens = model.tokens([steps["question"] for steps, _ in texts])
    wrote = model.generate(tokens, max_new_tokens=4, stop_at=None).generated
    clean = [
        Chain.of(model, {"question": steps["question"], "work": ids[:3]}, ids[3:])
        for (steps, _), ids in zip(texts, wrote, strict=True)
    ]
    corrupt = [
        Chain.of(model, {"question": steps["question"][::-1], "work": [5, 6, 7]}, [(ids[3] + 1) % 97])
        for (steps, _), ids in zip(texts, wrote, strict=True)
    ]
    found = chain_patching(model, chain_task(model, clean, corrupt), anew=True)
    assert not found.alone.any()  # the base's own answer, in every text


def test_a_span_that_is_wider_in_some_rows_is_patched_whole_in_each():
    model = model_of("llama")
    sides = random_chains(2, {"question": (2, 5), "end": (1, 1)})
    task = chain_task(model, *([Chain.of(model, *one) for one in side] for side in sides))
    assert span_positions(task, "question").tolist() == [[0, 1, 1, 1, 1], [0, 1, 2, 3, 4]]
    together = digsite.activation_patching(model, task, ["layers.*.resid_pre", "layers.1.attn.z[1]"], at=["question"])
    for i in range(2):
        one = digsite.activation_patching(
            model, task.take(i), ["layers.*.resid_pre", "layers.1.attn.z[1]"], at=["question"]
        )
        torch.testing.assert_close(together.patched[:, i], one.patched[:, 0], rtol=1e-4, atol=1e-4)


def test_what_cannot_be_paired_is_refused_by_name():
    model = reasoner("copies")
    one = chain(model, "p")
    long = Chain.of(model, {"question": "q", "work": " u v", "stated answer": " b", "cue": " ="}, " b")
    with pytest.raises(BadInput, match=r"pair 1: a step has another number of tokens \(work 1 and 2\)"):
        chain_task(model, [one, one], [chain(model, "q"), long])
    with pytest.raises(BadInput, match="a right and a wrong answer are the same tokens"):
        chain_task(model, [one], [chain(model, "q", answer="a")])
    left = chain_task(model, [one, one], [chain(model, "q"), long], drop_unusable=True)
    assert len(left) == 1 and left.dropped == {"a step has another number of tokens": 1}
    with pytest.raises(BadInput, match="have the same question, so there is nothing to replace"):
        copy_test(model, chain_task(model, [one], [chain(model, "p", stated="b", answer="b")]))
    with pytest.raises(BadInput, match="answers no pair of texts right"):
        copy_test(
            model,
            chain_task(model, [chain(model, a, answer="c") for a in "pq"], [chain(model, a, answer="d") for a in "qp"]),
        )
    with pytest.raises(BadInput, match="The step 'work' of a chain has no token"):
        Chain.of(model, {"question": "p", "work": ""}, " a")
    assert ASKED[0] in one.spelled(one.ids)
