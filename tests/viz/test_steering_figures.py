"""The figures and the page of a steer card: effect beside cost, the control grey and there, what failed said."""

import dataclasses

import pytest
import torch
from drawn import collisions, outside, texts

from digsite._core.cost import Cost
from digsite._core.errors import BadInput
from digsite._core.provenance import record
from digsite.directions.steering import SteerCard
from digsite.viz import steer_curve, steer_report


@pytest.fixture(scope="module")
def card():
    draw = torch.Generator().manual_seed(0)
    grid = torch.tensor([-2.0, -1.0, -0.25, 0.25, 1.0, 2.0])

    def noise(*shape):
        return torch.randn(shape, generator=draw)

    half = torch.arange(20) < 10
    return SteerCard(
        steered="female at layers.1.resid_post",
        target="log odds of ·she against ·he",
        effect_unit="nats",
        unit="norm",
        at="[·Lily] [was] […]",
        coefficients=grid,
        effect=3 * grid[:, None] + noise(6, 20),
        kl=(0.05 * grid.square())[:, None] + 0.01 * noise(6, 20).abs(),
        loss=2 + 0.1 * noise(6, 8),
        plain_loss=torch.full((8,), 2.0),
        distinct=torch.full((6, 4), 0.9),
        plain_distinct=torch.full((4,), 1.0),
        random_effect=0.2 * noise(3, 6, 20),
        random_kl=0.03 * noise(3, 6).abs(),
        random_loss=2 + 0.01 * noise(3, 6),
        choosing=half,
        choosing_neutral=half,
        most_kl=0.1,
        samples=(("Lily was", " sad", " glad"),),
        provenance=record("digsite.directions.steering.steer_card(model, ...)", model="toy"),
        cost=Cost(),
    )


def test_the_plane_has_every_coefficient_and_every_random_direction(card):
    figure = card.figure()
    assert not collisions(figure) and not outside(figure)
    marks = list(figure.canvas.marks.values())
    assert sum("random direction" in mark for mark in marks) == 18
    assert any(mark.startswith("+1 norm: effect") for mark in marks) and len(marks) == 24
    assert "digsite.directions.steering.steer_card" in figure.svg()
    assert len(figure.data) == 24


def test_a_long_target_is_written_whole(card):
    many = dataclasses.replace(
        card, target="log odds of ·Parun, ·Romak, … (16 tokens) against ·Paris, ·Rome, … (16 tokens)"
    )
    figure = many.figure()
    assert not collisions(figure) and not outside(figure)
    said = " ".join(texts(figure))
    assert f"effect on {many.target} (nats)" in said and "at most 0.1 to be chosen" in said


def test_what_is_not_finite_is_left_out_and_said(card):
    effect = card.effect.clone()
    effect[5] = torch.nan
    figure = dataclasses.replace(card, effect=effect).figure()
    assert "not drawn" in figure.caption and len(figure.data) == 23
    assert not collisions(figure)


@pytest.mark.parametrize("measure", ["effect", "loss", "distinct"])
def test_curves_go_through_zero_and_show_the_control(card, measure):
    figure = steer_curve(card, measure)
    assert not collisions(figure) and not outside(figure)
    zero = figure.data.filter(figure.data["coefficient"] == "0")
    assert len(zero) == 2
    if measure != "distinct":
        assert zero["value"].to_list() == [0.0, 0.0]
    with pytest.raises(BadInput, match="no curve of 'price'"):
        steer_curve(card, "price")


def test_the_page_says_the_verdict_and_what_failed(card):
    page = steer_report(card).html()
    assert "What does steering with female" in page and "stands against random directions" in page
    assert "[·Lily]" in page and "Lily was" in page
    none = steer_report(dataclasses.replace(card, most_kl=0.0)).html()
    assert "no coefficient is cheap enough" in none
