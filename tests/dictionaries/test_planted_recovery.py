"""Trained dictionaries find features that were planted, where they may fire as often as the features do."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from digsite.dictionaries import BatchTopK, Recipe, TopK, sae, train
from digsite.dictionaries.classical import classical
from digsite.dictionaries.recipes import BATCHTOPK, JUMPRELU_SHORT, TOPK
from digsite.scoreboard import judge_dictionary
from digsite.store import Held
from digsite.toys.planted import Planted, planted_batch

PLANTED = Planted(features=48, d_model=32, density=3 / 48)
SEEN, HELD_OUT = planted_batch(PLANTED, 0, examples=16384), planted_batch(PLANTED, 1, examples=4096)


def judged(dictionary):
    with torch.no_grad():
        latents = dictionary.encode({"x": HELD_OUT.x})[0].dense()
    return judge_dictionary(dictionary.directions("x").detach(), PLANTED, latents, HELD_OUT.features)


WAYS: dict[str, tuple[Any, Recipe]] = {
    "TopK": (TopK(k=3), replace(TOPK, rate=1e-2)),
    "BatchTopK": (BatchTopK(k=3), replace(BATCHTOPK, rate=1e-2)),
    "JumpReLU": (JUMPRELU_SHORT.activation, replace(JUMPRELU_SHORT, rate=3e-2, l0=3.0)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WAYS)
def test_planted_features_are_found(name):
    activation, recipe = WAYS[name]
    made = train(Held({"x": SEEN.x}), sae({"x": 32}, 64, activation), recipe, batch=512, rows=400_000).dictionary
    found = judged(made)
    assert found.active == pytest.approx(3, rel=0.1), "the L0 is right"
    assert found.recovered.float().mean() >= 0.9 and found.cosine_of_features >= 0.95


def test_all_of_a_few_features_are_found():
    few = Planted(features=16, d_model=24, density=0.1)
    seen = planted_batch(few, 0, examples=4096).x
    recipe = replace(JUMPRELU_SHORT, rate=3e-2, l0=1.6)
    made = train(Held({"x": seen}), sae({"x": 24}, 24, recipe.activation), recipe, batch=256, rows=80_000).dictionary
    held_out = planted_batch(few, 1, examples=2000)
    with torch.no_grad():
        latents = made.encode({"x": held_out.x})[0].dense()
    found = judge_dictionary(made.directions("x").detach(), few, latents, held_out.features)
    assert found.recovered.float().mean() >= 0.9 and found.cosine_of_features >= 0.95


@pytest.mark.parametrize("method", ["PCA", "ICA"])
def test_linear_methods_do_not_find_more_features_than_dimensions(method):
    assert judged(classical({"x": SEEN.x[:2048]}, method, 48)).recovered.float().mean() < 0.6
