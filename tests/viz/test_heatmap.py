"""A map says where something is, how surely, and where there is nothing to say."""

from typing import Any

import numpy as np
import pytest
from drawn import count, marks, some_map, some_tokens, texts
from matplotlib.colors import to_hex

from digsite._core.errors import ShapeMismatch
from digsite.viz import Axis, Control, heatmap
from digsite.viz.theme import DARK, LIGHT, READABLE, blend, contrast


def titles(figure):
    """The hover texts, row by row from the foot; the page has each of them."""
    said = list(figure.canvas.marks.values())
    assert [mark[0].text for mark in marks(figure)] == said
    return said


def cell(figure, name) -> Any:
    """The drawn shape of the cell whose hover text begins with this name."""
    wanted = next(gid for gid, text in figure.canvas.marks.items() if text.startswith(f"{name}:"))
    return next(patch for axes in figure.drawing.axes for patch in axes.patches if patch.get_gid() == wanted)


def is_outlined(figure, name):
    """Whether an amber rectangle lies on the cell."""
    middle = cell(figure, name).get_window_extent().get_points().mean(axis=0)
    amber = (
        patch
        for axes in figure.drawing.axes
        for patch in axes.patches
        if patch.get_linewidth() > 1 and to_hex(patch.get_edgecolor()) == LIGHT.mark
    )
    return any(patch.get_window_extent().contains(*middle) for patch in amber)


def test_every_cell_says_its_value_its_interval_and_n():
    figure = some_map(4, 8, low=np.full((4, 8), -0.1), high=np.full((4, 8), 0.6))
    said = [title for title in titles(figure) if title.startswith("layer")]
    assert len(said) == 32
    assert said[3 * 8 + 2] == "layer 3, head 2: +56 % (95 %: −10 to 60 %), n = 200"


def test_cells_are_called_by_their_site_where_it_is_known():
    names = [[f"layers.{layer}.attn.z[{head}]" for head in range(8)] for layer in range(4)]
    figure = some_map(names=names)
    assert titles(figure)[0].startswith("layers.0.attn.z[0]: −40 %")
    assert figure.data.columns == ["name", "layer", "head", "value", "low", "high", "n"]
    assert figure.data["name"][-1] == "layers.3.attn.z[7]"


def test_layers_go_upwards():
    figure = heatmap(np.array([[1.0], [2.0]]), title="t", rows=count("layer", 2), columns=count("head", 1), unit="")
    below, above = (cell(figure, f"layer {layer}, head 0").get_window_extent() for layer in (0, 1))
    assert above.y0 > below.y1


def test_a_cell_without_a_value_is_hatched_and_says_so():
    values = np.array([[0.5, np.nan], [0.0, -np.inf]])
    figure = heatmap(values, title="t", rows=count("layer", 2), columns=count("head", 2), unit="logits", n=3)
    assert titles(figure)[1] == "layer 0, head 1: no value, n = 3"
    assert titles(figure)[3] == "layer 1, head 1: no value, n = 3"
    missing, zero = cell(figure, "layer 0, head 1"), cell(figure, "layer 1, head 0")
    assert missing.get_hatch() and not zero.get_hatch()
    assert zero.get_facecolor()[3] == 0, "zero is the paper"
    assert figure.data["value"].to_list()[:3] == [0.5, None, 0.0]
    assert "no value" in texts(figure)
    assert "url(#" in figure.svg(page=True), "the hatch comes with the picture"


def test_colours_are_signed_and_centred_on_zero():
    figure = heatmap(
        np.array([[0.5, -0.25, 0.0]]), title="t", rows=count("layer", 1), columns=count("head", 3), unit="logits"
    )
    colours = [cell(figure, f"layer 0, head {head}").get_facecolor() for head in range(3)]
    as_hex = ["#" + "".join(f"{round(255 * part):02x}" for part in colour[:3]) for colour in colours]
    assert as_hex[:2] == [LIGHT.positive, LIGHT.negative]
    assert [round(colour[3], 6) for colour in colours] == [1.0, 0.5, 0.0]
    assert {"+0.50", "0", "−0.50"} <= set(texts(figure)), "the range is written on both ends"


def test_only_strong_cells_whose_interval_leaves_out_zero_are_outlined():
    values = np.array([[1.0, 0.9, 0.2, 0.8]])
    low = np.array([[0.5, -0.1, 0.1, 0.7]])
    figure = heatmap(
        values, title="t", rows=count("layer", 1), columns=count("head", 4), unit="logits", low=low, high=values + 1
    )
    assert [is_outlined(figure, f"layer 0, head {head}") for head in range(4)] == [True, False, False, True]
    assert [text for text in texts(figure) if text.startswith("+")] == ["+1.00", "+0.80", "+1.00"]


def test_cells_that_a_claim_names_are_outlined_and_numbered():
    chosen = np.zeros((4, 8), dtype=bool)
    chosen[1, 1] = True
    figure = some_map(outlined=chosen, outline_name="the proposed set")
    assert "the proposed set" in texts(figure)
    assert is_outlined(figure, "layer 1, head 1") and not is_outlined(figure, "layer 3, head 2")


def test_cells_too_small_for_a_number_are_listed_beside_the_map():
    figure = some_map(32, 32)
    assert {"layer 31, head 2", "+56 %"} <= set(texts(figure))


def test_the_number_in_a_cell_can_be_read_in_both_themes():
    figure = some_map()
    written: list[Any] = [
        text for axes in figure.drawing.axes for text in axes.texts if text.get_gid() in figure.canvas.dark
    ]
    assert {text.get_text() for text in written} == {"+56 %", "−40 %"}
    for text in written:
        alpha = 1.0 if text.get_text() == "+56 %" else 0.4 / 0.56
        side = "positive" if text.get_text()[0] == "+" else "negative"
        assert contrast(text.get_color(), blend(getattr(LIGHT, side), LIGHT.card, alpha)) >= READABLE
        dark = figure.canvas.dark[text.get_gid()]
        assert contrast(dark, blend(getattr(DARK, side), DARK.card, alpha)) >= READABLE


def test_a_scale_with_a_natural_end_does_not_shrink_to_the_values():
    values = np.array([[0.1, -0.02], [0.03, 0.0]])
    rows, columns = count("from", 2), count("to", 2)
    figure = heatmap(values, title="t", unit="", limit=1.0, rows=rows, columns=columns)
    assert {"+1.00", "−1.00"} <= set(texts(figure)) and cell(figure, "from 0, to 0").get_facecolor()[3] < 0.2
    beyond = heatmap(15 * values, title="t", unit="", limit=1.0, rows=rows, columns=columns)
    assert "+1.50" in texts(beyond)


def test_a_matrix_has_all_its_numbers_and_says_which_side_is_which():
    words = ("english", "tavi")
    rows, columns = (Axis(name, words, is_named=True) for name in ("fitted on", "judged on"))
    values = np.array([[1.0, 0.1], [-0.2, 0.9]])
    ask = {"title": "t", "rows": rows, "columns": columns, "unit": "", "outlined": values > 0.5}
    said = texts(heatmap(values, **ask, numbers="all"))
    assert {"+1.00", "+0.10", "−0.20", "+0.90", "fitted on", "judged on"} <= set(said)
    assert not {"+0.10", "−0.20"} & set(texts(heatmap(values, **ask)))


def test_the_control_stands_beside_the_scale():
    figure = some_map(null=Control(-0.05, 0.06, "random changes"))
    assert "random changes: −5 to 6 %" in titles(figure)
    assert "random changes: −5 to 6 %" in " ".join(texts(figure))


def test_a_map_of_nothing_but_zeros_claims_nothing():
    figure = heatmap(np.zeros((2, 2)), title="t", rows=count("layer", 2), columns=count("head", 2), unit="logits")
    assert all(patch.get_linewidth() < 1 for patch in figure.drawing.axes[0].patches)
    assert not {"strongest", "no value"} & set(texts(figure))


def test_positions_are_told_apart_where_tokens_repeat():
    figure = some_tokens(30)
    assert figure.data["pos"].to_list()[:30] == list(range(30))
    assert titles(figure)[12].startswith("layer 0, position 12 ⟨bos⟩: ")


def test_everything_that_does_not_fit_is_named_at_once():
    with pytest.raises(ShapeMismatch) as caught:
        heatmap(
            np.zeros((2, 3)),
            title="t",
            rows=count("layer", 2),
            columns=Axis("head", ("0",)),
            unit="",
            names=[["a"], ["b"]],
        )
    assert str(caught.value) == (
        "A map of 2 rows and 3 columns needs labels, intervals, names and outlines of that shape.\n"
        "Found: 2 row labels and 1 column labels, names in 2 rows of [1].\n"
        "Do: Give every array one entry for each cell."
    )
