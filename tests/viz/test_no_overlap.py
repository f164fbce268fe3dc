"""No label lies on another and none leaves the sheet, at any size of the data."""

import numpy as np
import pytest
from drawn import collisions, count, outside, some_bars, some_histogram, some_lines, some_map, some_tokens

from digsite.viz import Control, Estimate, Line, bars, heatmap, lines
from slowly import slow_but

SHAPES = [(1, 1), (4, 8), (12, 12), (32, 32), (6, 25), (48, 16)]


@pytest.mark.parametrize(("layers", "heads"), slow_but(SHAPES[:3], SHAPES), ids=str)
def test_maps_of_heads(layers, heads):
    figure = some_map(layers, heads)
    assert not collisions(figure) and not outside(figure)


@pytest.mark.parametrize("length", slow_but([5, 22], [5, 15, 22, 30, 60]))
def test_maps_of_tokens(length):
    figure = some_tokens(length)
    assert not collisions(figure) and not outside(figure)


@pytest.mark.parametrize("layers", [1, 4, 12, 32, 80])
def test_lines(layers):
    figure = some_lines(layers)
    assert not collisions(figure) and not outside(figure)


def test_many_lines_that_end_together():
    flat = np.zeros(5)
    series = [Line("answer", flat), *(Line(f"wrong {at}", flat, is_control=True) for at in range(7))]
    figure = lines(series, title="Logits", along=count("layer", 5), unit="logits")
    assert not collisions(figure) and not outside(figure)


def test_many_claims_that_end_together():
    series = [Line(f"a claim with a long name, {at}", np.full(5, float(at % 2))) for at in range(8)]
    figure = lines(series, title="Logits", along=count("layer", 5), unit="logits")
    assert not collisions(figure) and not outside(figure)


@pytest.mark.parametrize("value", [-2.0, 0.2, 3.6, 4.05, 9.0])
@pytest.mark.parametrize("name", ["the six heads", "the seventeen heads and the two MLPs"])
def test_a_claim_wherever_it_lies(value, name):
    references = {"whole model": 4.1, "nothing left": 0.0}
    claim = Estimate(name, value, value - 0.3, value + 0.3)
    figure = some_histogram(claim=claim, references=references)
    assert not collisions(figure) and not outside(figure)


@pytest.mark.parametrize("parts", [1, 5, 60])
def test_bars_on_both_sides(parts):
    figure = some_bars(parts)
    assert not collisions(figure) and not outside(figure)


def test_bars_on_the_left_alone():
    figure = bars(np.array([-3.0, -2.9]), names=["layers.10.attn.z[11]", "embed"], title="Logits", unit="logits")
    assert not collisions(figure) and not outside(figure)


def test_a_control_with_a_long_name():
    null = Control(-0.14, 0.03, "95 % of components, with the direction of the answers of another example")
    values = np.array([3.9, -0.5])
    figure = bars(values, names=["layers.3.attn.z[4]", "embed"], title="Logits", unit="logits", null=null)
    assert not collisions(figure) and not outside(figure)


def test_long_names_and_titles():
    figure = heatmap(
        np.array([[400.0, -930.0]]),
        title="A title that says at great length what the colour means, in which unit, and under which intervention",
        rows=count("layer", 1),
        columns=count("position", 2),
        unit="logits",
        names=[["layers.10.attn.result.of.the.ninth.head", "another.long.name"]],
        outline_name="the heads that the proposed set is made of",
    )
    assert not collisions(figure) and not outside(figure)
