"""A plan says what a training will do, and changes nothing."""

from dataclasses import replace

import pytest
import torch

from digsite._core.errors import BadInput
from digsite.dictionaries import TopK, sae, train
from digsite.dictionaries import planning as planned
from digsite.dictionaries.planning import plan_training
from digsite.dictionaries.recipes import JUMPRELU_SHORT, TOPK
from digsite.store import Held


def source(rows=600):
    return Held({"x": torch.randn(rows, 8, generator=torch.Generator().manual_seed(0))})


def pairs():
    one, two = (sae({"x": 8}, 16, TopK(k=2)) for _ in range(2))
    return {
        "one": (one, TOPK),
        "two": (two, TOPK),
        "three": (sae({"x": 8}, 32, JUMPRELU_SHORT.activation), JUMPRELU_SHORT),
    }


def test_numbers_are_those_of_the_training_that_follows():
    wanted = pairs()
    plan = plan_training(source(), wanted, rows=1500, batch=64, buffer=100)
    made = train(source(), wanted, rows=1500, batch=64, buffer=100)
    assert plan.steps == made.steps == 25 and plan.rows == 1500
    assert plan.parameters == {
        name: sum(x.numel() for x in one.parameters()) for name, one in made.dictionaries.items()
    }
    assert plan.parameters["one"] == 2 * 16 * 8 + 16 + 8
    assert plan.memory == 16 * sum(plan.parameters.values()) + 100 * 8 * 4 + 8 * 64 * 32
    assert plan.reading > 0 and plan.learning > 0 and plan.seconds == plan.reading + plan.learning
    assert (
        plan.verdict.startswith("3 dictionaries of 1,") and "1,500 rows (2.5 times the 600 there are)" in plan.verdict
    )
    assert plan.notes == ("600 rows are little text: judge on other text",)


def test_the_dictionaries_stay_empty():
    wanted = pairs()
    plan_training(source(), wanted, batch=64)
    assert not any(
        x.any() for one, _ in wanted.values() for name, x in one.named_parameters() if "threshold" not in name
    )


def test_one_rehearses_for_all_that_are_alike(monkeypatch):
    asked = []
    monkeypatch.setattr(planned, "_rehearse", lambda one, recipe, *_, **__: asked.append(recipe.name) or 2.0)
    plan = plan_training(source(), pairs(), rows=640, batch=64)
    assert asked == ["TopK", "JumpReLU short"] and plan.learning == plan.steps * 3 * 2.0


def test_what_training_would_refuse_is_refused_before():
    with pytest.raises(BadInput, match="The dictionary needs the column y"):
        plan_training(source(), {"one": (sae({"y": 8}, 16, TopK(k=2)), TOPK)})
    with pytest.raises(BadInput, match="wishes an L0"):
        plan_training(source(), {"one": (sae({"x": 8}, 16, TopK(k=2)), replace(TOPK, l0=3.0))})
