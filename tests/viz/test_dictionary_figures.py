"""Judgements of dictionaries find their figure, which shows their numbers and their controls without an overlap."""

from functools import cache

import numpy as np
import polars as pl
import pytest
import torch
from drawn import collisions, outside, texts

import digsite
from architectures import tiny
from digsite._core.cost import Cost
from digsite._core.errors import BadInput
from digsite._core.provenance import record
from digsite.dictionaries import (
    HeadShares,
    JacobianFaithfulness,
    ModelDiff,
    SparseProbing,
    TopK,
    compare,
    evaluate,
    geometry,
    initialise,
    match,
    sae,
)
from digsite.models.tokens import grid
from digsite.viz import Dot, Pile, density_figure, histogram, loss_figure, scatter

MADE = {"provenance": record("digsite.some_method(model, task)", model="toy"), "cost": Cost()}
SITE = "layers.1.resid_post"


@cache
def evaluations():
    model = digsite.load(tiny("llama"), verify=False)
    drawn = torch.Generator().manual_seed(0)
    text = grid([torch.randint(3, 97, (12,), generator=drawn).tolist() for _ in range(12)])
    found = {}
    for k in (2, 8):
        new = initialise(sae({SITE: 64}, 200, TopK(k=k)), seed=0)
        found[f"k={k}"] = evaluate(model, new, text, rows=6, retrain=lambda _, new=new: new)
    return found


def sound(figure):
    return not collisions(figure) and not outside(figure)


@pytest.mark.slow
def test_an_evaluation_shows_everything_judged_and_names_what_is_too_far_off():
    result = evaluations()["k=8"]
    figure = result.figure()
    assert sound(figure) and "evaluate(model, dictionary, corpus" in figure.svg()
    fvu = dict(zip(result.judged, result.fvu().tolist(), strict=True))
    shown = set(figure.data["name"].to_list())
    assert shown == {name for name, value in fvu.items() if value <= 1.25 or name == "dictionary"}
    assert all(name in figure.caption for name in result.judged if name not in shown)


def test_the_loss_lies_between_the_model_and_ablation():
    result = evaluations()["k=8"]
    figure = loss_figure(result)
    assert sound(figure)
    names = set(figure.data["name"].to_list())
    assert {"dictionary", "PCA", "mean ablation", "zero ablation"} <= names and "random-weights model" not in names
    with pytest.raises(BadInput, match="Nothing was spliced in at layers"):
        loss_figure(result, "layers.0.resid_post")


def test_densities_count_every_latent_that_fires():
    result = evaluations()["k=8"]
    figure = density_figure(result)
    assert sound(figure)
    assert figure.data["latents"].sum() == int((result.density > 0).sum())
    assert f"{int((result.density == 0).sum())} of 200 latents never fire" in figure.caption


def test_the_frontier_has_dictionaries_in_colour_and_baselines_in_grey():
    figure = compare(evaluations()).figure()
    assert sound(figure)
    assert set(figure.data.filter(~figure.data["control"])["name"]) <= {"k=2", "k=8"}
    assert any(text.startswith("PCA (k=") for text in texts(figure))


def test_geometry_and_matches_stand_beside_random_directions():
    one = initialise(sae({SITE: 64}, 100, TopK(k=4)), seed=0)
    for result in (geometry(one), match(one, initialise(sae({SITE: 64}, 100, TopK(k=4)), seed=1))):
        figure = result.figure()
        assert sound(figure) and figure.data["latents"].sum() == 200


def test_heads_probes_jacobians_and_differences_find_their_figure():
    drawn = torch.Generator().manual_seed(0)

    def rand(*shape):
        return torch.rand(shape, generator=drawn, dtype=torch.float64)

    labels = torch.arange(40) % 2 == 0
    results = [
        HeadShares(dictionary="sae", column="z", reads=rand(30, 4), writes=rand(30, 4), null=rand(30), **MADE),
        SparseProbing(
            label="is a name",
            dictionary="sae",
            probes=("1 latent", "16 latents", "1 neuron", "16 neurons", "dense probe"),
            chosen=((1,), (2,), (3,), (4,), ()),
            labels=labels,
            scores=labels + rand(5, 40),
            labels_elsewhere=labels[:0],
            scores_elsewhere=rand(5, 0),
            null=rand(5, 3),
            **MADE,
        ),
        JacobianFaithfulness(
            dictionary="clt",
            routes=("layers.10.mlp.norm → layers.10.mlp.out", "layers.11.mlp.norm → layers.11.mlp.out"),
            cosine=rand(2, 9),
            other=rand(2, 9),
            dense=rand(2, 9),
            ratio=rand(2, 9),
            tokens=4,
            probes=64,
            exact=(True, True),
            **MADE,
        ),
        ModelDiff(
            models=("base", "tuned"),
            columns=("base:x", "tuned:x"),
            norm=torch.tensor([0.0, 0.5, 0.45, 1.0, 1.0], dtype=torch.float64),
            cosine=rand(5),
            density=rand(5) + 0.01,
            error_other=torch.tensor([[0.0], [1], [1], [0.0], [0.9]], dtype=torch.float64),
            error_own=torch.ones(5, 1, dtype=torch.float64),
            written_other=torch.zeros(5, 1, dtype=torch.float64),
            written_own=torch.ones(5, 1, dtype=torch.float64),
            rows=100,
            **MADE,
        ),
    ]
    for result in results:
        figure = result.figure()
        assert sound(figure), type(result).__name__
        assert "digsite.some_method(model, task)" in figure.svg()
    diff = results[3].figure().data.group_by("kind").agg(pl.col("latents").sum())
    assert dict(diff.iter_rows()) == {"new": 2, "shared": 2, "exclusive by norm only": 1}


def test_nothing_to_show_is_said():
    with pytest.raises(BadInput, match="has nothing to show"):
        histogram(
            [Pile("latents", np.array([np.nan]))],
            title="x",
            across="y",
            bounds=(0.0, 1.0),
            ticks=[(0.0, "0")],
            counted="n",
        )
    with pytest.raises(BadInput, match="has no point to show"):
        scatter([Dot("a", np.nan, 1.0)], title="x", across="y", upward="z", unit="")


def test_points_far_apart_stand_on_a_logarithmic_scale():
    figure = scatter([Dot("a", 1.0, 0.5), Dot("b", 1000.0, 0.1)], title="x", across="L0", upward="FVU", unit="")
    assert sound(figure) and {"1", "1,000"} & set(texts(figure))
