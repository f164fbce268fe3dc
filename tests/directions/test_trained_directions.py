"""Trained directions: each loss is its formula, finds what is known to be there, and is judged fairly."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid

import digsite
from digsite._core.errors import BadInput
from digsite.artifacts import load_result
from digsite.directions import Direction, task_rows, token_direction
from digsite.directions.probes import mean_difference
from digsite.directions.steering import ReftR1, RePS, train_direction, training_passes
from digsite.directions.steering.objectives import top_readings
from digsite.directions.steering.trained import _batches
from digsite.models import made_by
from digsite.sites import Site
from digsite.tasks import Task
from digsite.tasks.pronoun import pronoun_examples

WORDS = ["Mary", "John", "gave", "the", "to", "is", "and", "went", "was", "happy", "very", "sad"]
SITE = Site.parse("layers.0.resid_post")


@pytest.fixture(scope="module")
def model():
    return digsite.load("digsite/tinyworld", verify=False)


def prompts(count, seed=0):
    drawn = np.random.default_rng(seed)
    return [" ".join(drawn.choice(WORDS, size=drawn.integers(2, 7))) for _ in range(count)]


def worded(model, right, wrong, count=6):
    some = prompts(count)
    frame = {"clean": some, "right": [right] * count, "wrong": [wrong] * count}
    return Task.from_frame(model, frame, corrupt=None)


def unembedding(model, task):
    right, wrong = (int(side.ids[0, 0, 0]) for side in (task.right, task.wrong))
    return token_direction(model, right, against=wrong)


# -- gradients -------------------------------------------------------------------------------------------------------
def rows_of(task, side, at):
    """Ids without padding (prompt, then all of the answer but its last token), and the answer."""
    row = int(side.rows[at, 0])
    answer = side.ids[at, 0][side.mask[at, 0]]
    return task.clean.ids[row][task.clean.mask[row]][None], answer


def log_p(model, ids, answer, change):
    """Mean log-probability of an answer's tokens when the first block's output is changed, by a plain hook."""
    block = model.hf.model.layers[0]
    hook = block.register_forward_hook(lambda m, a, out: change(out) if torch.is_tensor(out) else (change(out[0]),))
    logits = model.hf(ids, use_cache=False).logits[0, -len(answer) :]
    hook.remove()
    return logits.log_softmax(-1)[torch.arange(len(answer)), answer].mean()


def moved(x, shift):
    """Everything but the BOS is moved."""
    return torch.cat([x[:, :1], x[:, 1:] + shift], 1)


def dense_reft(model, task, v, top, weight):
    losses, rests = [], []
    for at in range(len(task)):
        ids, answer = rows_of(task, task.right, at)

        def change(x):
            latent = torch.relu(x[0, 1:] @ v).sort(descending=True).values
            rests.append(latent[top:].sum() / len(latent))
            return moved(x, latent[:top].mean() * v)

        losses.append(-log_p(model, ids, answer, change))
    return torch.stack(losses).mean() + weight * torch.stack(rests).mean()


def dense_reps(model, task, v, factor):
    losses = []
    for at in range(len(task)):
        with_it, without = (rows_of(task, side, at) for side in (task.right, task.wrong))
        plain = [log_p(model, *row, lambda x: x).detach() * len(row[1]) for row in (with_it, without)]
        up = [log_p(model, *row, lambda x: moved(x, factor * v)) for row in (with_it, without)]

        def nulled(x):
            return moved(x, -torch.relu(x[:, 1:] @ v)[..., None] * v / (v @ v))

        down = [log_p(model, *row, nulled) for row in (with_it, without)]
        rise, fall = max(float(plain[1] - plain[0]), 1.0), max(float(plain[0] - plain[1]), 1.0)
        losses.append(-logsigmoid(rise * up[0] - up[1]) - logsigmoid(fall * down[1] - down[0]))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("answers", [(" Mary", " John"), (" Mary and", " John")])
def test_each_loss_and_its_gradient_are_those_of_the_formula_row_by_row_without_padding(model, answers):
    task = worded(model, *answers)
    assert task.clean.padded, "rows of several lengths, so that padding is there to be left out"
    (batch,) = _batches(model, task, SITE, 16)
    for objective, dense in (
        (ReftR1(top=2, sparsity=0.5), lambda v: dense_reft(model, task, v, 2, 0.25)),
        (RePS(), lambda v: dense_reps(model, task, v, 11.0)),
    ):
        v = (0.3 * torch.randn(model.d_model, generator=torch.Generator().manual_seed(1))).requires_grad_()
        ours, wanted = objective.loss(batch, v, 0.5, None), dense(v)
        torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-5)
        gradients = [torch.autograd.grad(loss, v)[0] for loss in (ours, wanted)]
        torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)
        assert gradients[0].norm() > 1e-3


def test_padding_and_the_bos_are_never_among_the_largest_readings():
    x = torch.tensor([[[9.0], [8.0], [1.0], [3.0]], [[7.0], [2.0], [4.0], [-5.0]]])
    keep = torch.tensor([[False, False, True, True], [False, True, True, True]])
    amount, rest = top_readings(x, torch.ones(1), keep, 2)
    assert amount.tolist() == [2.0, 3.0] and rest.tolist() == [0.0, 0.0]
    amount, rest = top_readings(x, torch.ones(1), keep, 1)
    assert amount.tolist() == [3.0, 4.0] and rest.tolist() == [0.5, pytest.approx(2 / 3)]


# -- known directions ------------------------------------------------------------------------------------------------
def test_the_direction_of_the_unembedding_is_found_where_nothing_lies_between(model):
    """At the last stream only W_U[Mary] - W_U[John] makes Mary likelier than John; the rest does nothing."""
    task = worded(model, " Mary", " John", 40)
    known = unembedding(model, task)
    result = train_direction(model, task, known.site, RePS(epochs=20, batch=20), beside=[known], draws=5)
    assert result.direction.cos(known) > 0.5, "six standard deviations of a random direction of 128 numbers"
    assert result.held_out[-1] < 0.5 * result.held_out[0]
    ours, best = result.effects[0, result.chosen].mean(), result.effects[-1, result.chosen].mean()
    assert ours > 0.5 * best and ours > 3 * result.null[:, result.chosen].max()


@pytest.fixture(scope="module")
def gender(model):
    """Sentences about a boy or man, to be continued with "she" (the concept) or "he"."""
    drawn = pronoun_examples(np.random.default_rng(0))
    some = {e.clean: e for e in (next(drawn) for _ in range(800)) if e.wrong[0].strip().lower() == "she"}
    examples = list(some.values())[:96]
    frame = {
        "clean": [e.clean for e in examples],
        "corrupt": [e.corrupt for e in examples],
        "right": [e.wrong[0] for e in examples],
        "wrong": [e.right[0] for e in examples],
    }
    return model, Task.from_frame(model, frame, name="she after his name")


@pytest.fixture(scope="module")
def trained(gender):
    model, task = gender
    site = "layers.1.resid_post"
    rows = task_rows(model, task, [site])
    names = mean_difference(rows.rows[site], ~rows.labels).vector
    names = Direction(site=Site.parse(site), vector=names, name="names", provenance=made_by("names", model))
    return train_direction(model, task, site, RePS(epochs=4, batch=16), beside=[names], draws=5, lengths=(0.5, 1.0))


def test_a_trained_direction_turns_the_pronoun_on_held_out_sentences_more_than_chance(trained):
    frame = {row["direction"]: row for row in trained.to_frame().to_dicts() if row["chosen"]}
    assert frame["trained"]["n"] == 48
    assert frame["trained"]["low"] > 2 * frame["trained"]["null_max"] > 0
    # The difference of the names does this without any training: neither is far ahead of the other.
    assert 0.5 < frame["trained"]["effect"] / frame["names"]["effect"] < 1.5
    if frame["trained"]["effect"] < frame["names"]["effect"]:
        assert "training is no better than names" in trained.verdict.replace("mean difference and ", "")
    assert trained.held_out[-1] < trained.held_out[0]


def test_the_effect_is_what_adding_the_direction_does(gender, trained):
    model, task = gender
    order = np.random.default_rng([0, 0]).permutation(len(task))
    test = task.take(sorted(order[: len(task) // 2]))
    assert trained.direction.scale is not None
    edit = trained.direction.add(trained.lengths[trained.chosen], "norm", at=slice(1, None))
    before, after = (model.run(test.clean, edits=edits, logits=1).logits for edits in ([], [edit]))
    measured = test.metric(after) - test.metric(before)
    torch.testing.assert_close(measured, trained.effects[0, trained.chosen], atol=1e-3, rtol=1e-3)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_vector_and_the_cost_is_known_beforehand(model):
    task = worded(model, " Mary", " John", 12)
    for objective in (ReftR1(epochs=1, batch=3), RePS(epochs=1, batch=3)):
        one, two, other = (
            train_direction(model, task, SITE, objective, draws=1, lengths=(1.0,), seed=s) for s in (3, 3, 4)
        )
        assert torch.equal(one.vector, two.vector) and not torch.allclose(one.vector, other.vector)
        assert one.cost.backwards == len(one.losses) == 2
        assert training_passes(task, objective) == (4 if isinstance(objective, RePS) else 2)
        if isinstance(objective, ReftR1):
            assert one.vector.norm() == pytest.approx(1.0)


def test_the_result_comes_back_from_its_folder(trained, tmp_path):
    back = load_result(trained.save(tmp_path / "trained"))
    assert back.verdict == trained.verdict and "4 epochs" not in back.verdict
    assert torch.equal(back.direction.vector, trained.direction.vector)  # pyright: ignore[reportAttributeAccessIssue]


# -- bad input -------------------------------------------------------------------------------------------------------
def test_bad_input_says_what_is_wrong(model):
    task = worded(model, " Mary", " John", 12)
    with pytest.raises(BadInput, match=r"8 examples or more.\nFound: 4"):
        train_direction(model, task.take(slice(4)), SITE, ReftR1())
    with pytest.raises(BadInput, match=r"one without.\nFound: example 0 has 2 right"):
        train_direction(model, worded(model, " Mary| the", " John", 12), SITE, ReftR1())
    with pytest.raises(BadInput, match="Lengths are positive numbers, ascending"):
        train_direction(model, task, SITE, ReftR1(), lengths=(1.0, 0.5))
    with pytest.raises(BadInput, match="Factors are positive"):
        RePS(factors=(0.0, 1.0))
    known = unembedding(model, task)
    with pytest.raises(BadInput, match="Only directions at one site"):
        train_direction(model, task, SITE, ReftR1(), beside=[known])
    other = dataclasses.replace(known, provenance=dataclasses.replace(known.provenance, weights="others"))
    with pytest.raises(BadInput, match="whose weights are not those"):
        train_direction(model, task, known.site, ReftR1(), beside=[other])
