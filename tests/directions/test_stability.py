"""A direction is followed: it stays in a copy, moves slowly in fine-tuning, and shares nothing between seeds."""

import copy

import pytest
import torch

import digsite
from digsite._core.errors import BadInput, ShapeMismatch
from digsite.artifacts import load_result
from digsite.directions import Direction, task_rows
from digsite.directions.probes import mean_difference
from digsite.directions.steering import stability
from digsite.models import made_by, untrained
from digsite.sites import Site
from digsite.tasks.same_meaning import who_receives

SITE = "layers.2.resid_post"


@pytest.fixture(scope="module")
def model():
    return digsite.load("digsite/tinyworld", verify=False)


@pytest.fixture(scope="module")
def tuned(model):
    """Two checkpoints of a short training on Tavi alone, which moves the weights and keeps what they know."""
    hf = copy.deepcopy(model.hf)
    ids = who_receives(model, 24, seed=5)["tavi"].clean
    hf.requires_grad_(True)
    optimiser = torch.optim.Adam(hf.parameters(), lr=2e-4)
    checkpoints = {}
    for step in range(1, 9):
        kwargs = model.inputs(ids)
        loss = hf(**kwargs, labels=kwargs["input_ids"]).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        if step in (2, 8):
            done = copy.deepcopy(hf).eval()
            checkpoints[f"step {step}"] = digsite.load(done, tokenizer=model.tokenizer, verify=False)
    return checkpoints


def halves(model):
    task = who_receives(model, 40)["english"]
    return task.take(slice(20)), task.take(slice(20, 40))


def find(model, site=SITE):
    rows = task_rows(model, halves(model)[0], [site])
    fitted = mean_difference(rows.rows[site], rows.labels)
    made = made_by("find", model)
    return Direction(
        site=Site.parse(site), vector=fitted.vector, bias=fitted.bias, name="Mary receives", provenance=made
    )


def followed(models, recipe=find):
    return stability(
        models,
        recipe,
        examples=lambda model: task_rows(model, halves(model)[1], [SITE]),
        task=lambda model: halves(model)[1],
        draws=5,
    )


def test_checkpoints_of_a_short_training_keep_the_direction_and_what_it_does(model, tuned):
    result = followed({"start": model, **tuned})
    rows = result.to_frame().to_dicts()
    cosines = [row["cosine"] for row in rows]
    assert cosines[0] == pytest.approx(1.0) and 1 > cosines[1] > cosines[2] > 0.8
    for row in rows:
        assert row["first_auroc"] > 0.95 and row["own_auroc"] > 0.95
        assert row["first_effect"] > row["null_effect_max"] and row["own_effect"] > row["null_effect_max"]
    assert "no closer than random" not in result.verdict and "not readable" not in result.verdict


def test_two_seeds_share_no_direction_though_each_can_be_read(model):
    """Random networks still tell the receivers' sentences apart by the words in them, each along axes of its own."""
    seeds = {f"seed {seed}": untrained(model, seed=seed) for seed in range(4)}
    result = followed(seeds)
    rows = result.to_frame().to_dicts()
    lost = [row["model"] for row in rows[1:] if abs(row["cosine"]) < result.null_cosine]
    assert lost and all(abs(row["cosine"]) < 2 * result.null_cosine for row in rows[1:])
    assert all(row["own_auroc"] > 0.75 for row in rows)
    assert f"no closer than random vectors in {', '.join(lost)}" in result.verdict


def test_the_null_of_the_cosine_is_that_of_random_vectors(model, tmp_path):
    result = followed({"one": model, "again": model})
    x = torch.randn(20_000, 2, model.d_model, generator=torch.Generator().manual_seed(0))
    cosines = torch.cosine_similarity(x[:, 0], x[:, 1], dim=1).abs()
    assert result.null_cosine == pytest.approx(float(cosines.quantile(0.95)), rel=0.03)
    assert torch.allclose(result.first, result.own) and torch.allclose(
        result.first_effect, result.own_effect, atol=1e-4
    )
    assert load_result(result.save(tmp_path / "stability")).verdict == result.verdict


def test_bad_input_says_what_is_wrong(model):
    with pytest.raises(BadInput, match=r"two models or more(.|\n)*Found: 1"):
        followed({"one": model})
    sites = iter(("layers.1.resid_post", SITE))
    with pytest.raises(BadInput, match=r"at one site(.|\n)*layers.1.resid_post, and layers.2.resid_post in two"):
        followed({"one": model, "two": model}, lambda m: find(m, next(sites)))
    widths = iter((128, 64))

    def narrow(model):
        return Direction(site=Site.parse(SITE), vector=torch.ones(next(widths)), provenance=made_by("x", model))

    with pytest.raises(ShapeMismatch, match=r"another width(.|\n)*128 and 64"):
        followed({"one": model, "two": model}, narrow)
