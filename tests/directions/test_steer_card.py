"""A steer card says what a steering does, what it costs, and what a random direction of the same size does."""

import dataclasses
import math

import numpy as np
import pytest
import torch

import digsite
from digsite._core.errors import BadInput, NotFinite
from digsite.artifacts import load_result
from digsite.directions.steering import (
    actadd,
    difference,
    equally_large,
    log_odds,
    probe_target,
    steer_card,
    task_target,
    token_target,
)
from digsite.directions.steering.price import cross_entropy, distinct, price
from digsite.directions.steering.target import token_ids

SITE = "layers.1.resid_post"
SHE, HE = [" she", " She"], [" he", " He"]


@pytest.fixture(scope="module")
def model():
    return digsite.load("digsite/tinyworld", verify=False)


@pytest.fixture(scope="module")
def task(model):
    return digsite.tasks.gendered_pronoun(model, n=48)


@pytest.fixture(scope="module")
def neutral(model):
    return digsite.tasks.subject_verb_agreement(model, n=12).clean


@pytest.fixture(scope="module")
def female(model, task, neutral):
    hers = torch.tensor([right[0].strip().lower() == "she" for right in task.right.texts])
    first = torch.arange(len(task)) < 24
    return difference(model, task.clean[first & hers], task.clean[first & ~hers], SITE, text=neutral, name="female")


@pytest.fixture(scope="module")
def target(model, task):
    return token_target(model, task.clean[24:], SHE, against=HE)


@pytest.fixture(scope="module")
def card(model, female, target, neutral):
    grid = (0.25, -0.25, 0.1, -0.1, 1.0)
    return steer_card(model, female, target=target, neutral=neutral, coefficients=grid, draws=3, new_tokens=4)


# -- definitions -----------------------------------------------------------------------------------------------------
def test_log_odds_are_their_formula():
    logits = torch.randn(3, 9, generator=torch.Generator().manual_seed(0))
    p = logits.softmax(-1)[:, [2, 5]].sum(-1)
    torch.testing.assert_close(log_odds(logits, [2, 5]), p.log() - (1 - p).log())
    q = logits.softmax(-1)[:, [1]].sum(-1)
    torch.testing.assert_close(log_odds(logits, [2, 5], [1]), p.log() - q.log())
    sure = torch.tensor([[60.0, 0.0, 0.0]])
    assert float(log_odds(sure, [0])) == pytest.approx(60 - math.log(2)), "1 - p is 0 in float32"


def test_tokens_are_spelled_as_they_follow_a_word(model):
    ids = token_ids(model, [" she", " She", "."])
    assert model.tokens(["Mary saw that she"]).ids[0, -1] == ids[0]
    assert len(set(ids)) == 3 and model.tokens(["Mary."]).ids[0, -1] == ids[2]
    for wrong, message in ((" the store", "is not one token"), (" zzzz", "each once|not one token")):
        with pytest.raises(BadInput, match=message):
            token_ids(model, [wrong, wrong])
    with pytest.raises(BadInput, match="one bare string"):
        token_ids(model, " she")
    with pytest.raises(BadInput, match="both sides"):
        token_target(model, model.tokens(["Mary"]), SHE, against=[" she"])


def test_distinct_counts_different_pairs():
    assert distinct([1, 2, 1, 2, 1]) == 2 / 4
    assert distinct([1, 2, 3, 4]) == 1
    assert distinct([7] * 11) == 1 / 10
    assert distinct([1]) == 1


def test_prices_are_those_of_each_row_by_itself_whatever_its_padding(model, female):
    texts = ["Mary gave the book to John", "Where is the key", "The cat sat"]
    edit = female.add(0.5, "norm")
    for padding in ("left", "right"):
        found = price(model, model.tokens(texts, padding=padding), [[edit]])
        for row, text in enumerate(texts):
            tokens = model.tokens([text])
            p, q = (model.run(tokens, edits=edits).logits[0].double().log_softmax(-1) for edits in ((), [edit]))
            assert float(found.kl[0, row]) == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-3)
            own = -q[:-1].gather(1, tokens.ids[0, 1:, None]).mean()
            assert float(found.loss[0, row]) == pytest.approx(float(own), rel=1e-4)
    alone = model.tokens([[5]])
    assert cross_entropy(model.run(alone).logits.log_softmax(-1), alone).isnan().all()


@pytest.mark.parametrize("how", ["add", "set", "cap", "scale", "actadd", "head"])
def test_the_control_is_as_large_at_every_place_as_the_edit(model, female, how):
    edits = {
        "add": female.add(-1.5),
        "set": female.set(2.0, "sd", at=slice(1, None)),
        "cap": female.cap(0.0),
        "scale": female.scale_by(3.0, at=-1),
        "actadd": actadd(model, "Mary was", "John was", SITE).add(2.0),
        "head": digsite.add("layers.1.attn.z[2]", torch.ones(model.d_head)),
    }
    edit, tokens = edits[how], model.tokens(["Mary gave the book", "Where is the key near Tom"], padding="left")
    site = edit.site
    x, own, other = (
        model.run(tokens, read=[site], edits=some, logits=None)[site] for some in ((), [edit], [equally_large(edit, 5)])
    )
    moved = (other - x)[tokens.mask]
    torch.testing.assert_close(moved.norm(dim=-1), (own - x)[tokens.mask].norm(dim=-1), atol=1e-4, rtol=1e-4)
    units = moved[moved.norm(dim=-1) > 1e-3]
    units = units / units.norm(dim=-1, keepdim=True)
    assert torch.allclose(units, units[:1].expand_as(units), atol=1e-3), "one direction at every place"


# -- the card --------------------------------------------------------------------------------------------------------
def test_the_effect_is_the_measured_intervention(model, card, female, target):
    assert card.coefficients.tolist() == pytest.approx([-0.25, -0.1, 0.1, 0.25, 1.0])
    plain = log_odds(model.run(target.prompts).logits[:, -1], token_ids(model, SHE), token_ids(model, HE))
    for at in (0, 3):
        edit = female.add(float(card.coefficients[at]), "norm")
        logits = model.run(target.prompts, edits=[edit]).logits[:, -1]
        found = log_odds(logits, token_ids(model, SHE), token_ids(model, HE))
        torch.testing.assert_close(card.effect[at], found - plain, atol=1e-3, rtol=1e-3)


def test_the_card_of_gender_stands_against_its_control(card):
    assert card.chosen is not None and not card.failures
    row = card.to_frame().row(card.chosen, named=True)
    assert row["coefficient"] == 0.25 and row["low"] > 5 > 1 > row["random_most"] and row["wrong_way"] == 0
    assert card.monotone == pytest.approx(1) and card.cost.forwards > 0
    assert "[·Lily]" in card.at or "[·" in card.at
    assert len(card.samples) == 8 and "chosen on other prompts" in card.verdict


def test_one_half_chooses_and_the_other_reports(card):
    assert int(card.choosing.sum()) == 12 and len(card.choosing) == 24
    better = card.effect.clone()
    better[3, ~card.choosing] = -5.0
    other = dataclasses.replace(card, effect=better)
    assert other.chosen == card.chosen, "prompts that report have no say"
    row = other.to_frame().row(other.chosen, named=True)
    assert row["effect"] == pytest.approx(-5) and row["wrong_way"] == 1
    assert "not told from zero" in other.verdict and "a random direction does as much" in other.verdict
    cheap = dataclasses.replace(card, most_kl=0.0)
    assert cheap.chosen is None and "no coefficient raises" in cheap.verdict


def test_the_front_holds_what_no_other_coefficient_beats(card):
    effect, cost = card.reported.mean(1).numpy(), card.cost_reported.mean(1).numpy()
    for at in range(len(effect)):
        beaten = any(
            effect[o] >= effect[at] and cost[o] <= cost[at] and (effect[o] > effect[at] or cost[o] < cost[at])
            for o in range(len(effect))
        )
        assert bool(card.front[at]) != beaten


def test_a_random_direction_fails_its_own_card(model, female, target, neutral):
    noise = torch.randn(model.d_model, generator=torch.Generator().manual_seed(11))
    random = dataclasses.replace(female, vector=noise, name="noise")
    found = steer_card(model, random, target=target, neutral=neutral, coefficients=(-0.5, 0.5), draws=5, new_tokens=0)
    if found.chosen is not None:
        assert "a random direction does as much" in found.verdict
    assert found.distinct.shape == (2, 0)


def test_coefficients_that_break_the_logits_are_marked_rows(model, female, target, neutral):
    found = steer_card(
        model, female, target=target, neutral=neutral, coefficients=(0.1, 1e39), unit="raw", draws=1, new_tokens=2
    )
    assert found.finite.tolist() == [True, False]
    frame = found.to_frame()
    assert frame["finite"].to_list() == [True, False] and frame["effect"].null_count() == 1
    assert "1e+39 raw make logits NaN or infinite" in found.verdict and found.chosen == 0
    with pytest.raises(NotFinite, match=r"(?s)Every coefficient.*use smaller ones"):
        steer_card(model, female, target=target, neutral=neutral, coefficients=(1e39,), unit="raw", draws=1)


def test_any_way_to_steer_has_a_card(model, female, target, neutral, task):
    clamp = steer_card(
        model, lambda c: female.set(c, "sd"), target=target, neutral=neutral, coefficients=(-3.0, 3.0), unit="sd",
        name="held", draws=1, new_tokens=0,
    )  # fmt: skip
    assert clamp.steered == "held" and float(clamp.effect[1].mean()) > 1 + float(clamp.effect[0].mean())
    front = actadd(model, "Mary was", "John was", SITE)
    found = steer_card(
        model, front.add, target=target, neutral=neutral, coefficients=(2.0,), unit="raw", draws=1, new_tokens=3
    )
    assert found.at.splitlines()[0].startswith("[<bos>]") and "[…]" not in found.at
    own = steer_card(
        model, female, target=task_target(task), neutral=neutral, coefficients=(0.1,), draws=1, new_tokens=0
    )
    assert own.effect_unit == "logits" and own.effect.shape == (1, len(task))


def test_the_probe_of_a_later_layer_is_a_target(model, female, target, neutral):
    later = difference(model, model.tokens(["Mary was sad"]), model.tokens(["Tom was sad"]), "layers.3.resid_post")
    found = steer_card(
        model, female, target=probe_target(later, target.prompts), neutral=neutral, coefficients=(0.25,), draws=1,
        new_tokens=0,
    )  # fmt: skip
    edit = female.add(0.25, "norm")
    runs = [model.run(target.prompts, read=["layers.3.resid_post"], edits=e) for e in ((), [edit])]
    wanted = later.read(runs[1])[:, -1] - later.read(runs[0])[:, -1]
    torch.testing.assert_close(found.effect[0], wanted, atol=1e-2, rtol=1e-3)
    with pytest.raises(BadInput, match="where the steering itself is written"):
        steer_card(model, female, target=probe_target(female, target.prompts), neutral=neutral)


def test_a_card_comes_back_as_it_was(card, tmp_path):
    again = load_result(card.save(tmp_path / "card"))
    assert again.verdict == card.verdict
    assert again.to_frame().equals(card.to_frame())
    assert np.array_equal(again.effect, card.effect)  # pyright: ignore[reportAttributeAccessIssue]


def test_bad_input(model, female, target, neutral):
    ask = {"target": target, "neutral": neutral}
    for grid in ((), (0.0, 1.0), (1.0, 1.0), (math.nan,)):
        with pytest.raises(BadInput, match="A grid has one coefficient or more"):
            steer_card(model, female, coefficients=grid, **ask)
    with pytest.raises(BadInput, match=r"(?s)units of sd needs.*measured"):
        steer_card(model, dataclasses.replace(female, scale=None), unit="sd", **ask)
    with pytest.raises(BadInput, match="needs 8 prompts of each"):
        steer_card(model, female, coefficients=(0.1,), target=target, neutral=neutral[:3], draws=1, new_tokens=0)
    with pytest.raises(BadInput, match="at= is for a direction"):
        steer_card(model, female.add, at=-1, **ask)
    other = digsite.models.untrained(model, seed=3)
    with pytest.raises(BadInput, match="whose weights are not those"):
        steer_card(other, female, **ask)
