"""What the drawing tests share: small figures with invented numbers, and a look at what was drawn."""

from functools import partial
from typing import Any
from xml.etree import ElementTree

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from digsite.viz import Axis, Control, Estimate, Figure, Line, bars, heatmap, lines, null_histogram
from digsite.viz.canvas import drawing

SVG = "{http://www.w3.org/2000/svg}"


def count(name: str, length: int) -> Axis:
    return Axis(name, tuple(str(index) for index in range(length)))


def some_map(layers: int = 4, heads: int = 8, seed: int = 0, **changes: Any) -> Figure:
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 0.05, (layers, heads))
    values[-1, min(2, heads - 1)], values[0, 0] = 0.56, -0.4
    told: dict[str, Any] = {
        "title": "Share of the logit difference that each head restores",
        "rows": count("layer", layers),
        "columns": count("head", heads),
        "unit": "fraction",
        "low": values - 0.04,
        "high": values + 0.04,
        "n": 200,
        "null": Control(-0.05, 0.06, "95 % of random changes"),
        "code": "digsite.activation_patching(model, task, ['layers.*.attn.z[*]'])",
    }
    return heatmap(values, **told | changes)


def some_tokens(length: int, layers: int = 4) -> Figure:
    words = ["⟨bos⟩", "when", "·Mary", "·and", "·John", "·went", "·to", "·the", "·shopping", ",", "·$x$", "⏎"]
    tokens = tuple((words * 9)[:length])
    values = np.random.default_rng(1).normal(0, 0.3, (layers, length))
    return heatmap(
        values, title="By position (logits)", rows=count("layer", layers), columns=Axis("token", tokens, tokens=True),
        unit="logits",
    )  # fmt: skip


def some_lines(layers: int = 4) -> Figure:
    rise = np.linspace(0.01, 0.97, layers + 1)
    return lines(
        [Line("Mary (answer)", rise, rise - 0.01, rise + 0.02), Line("John", 0.1 * rise, is_control=True)],
        title="Probability after each layer",
        along=Axis("layer", ("embed", *(str(layer) for layer in range(layers)))),
        unit="fraction",
        bounds=(0.0, 1.0),
        n=200,
    )


def some_histogram(**changes: Any) -> Figure:
    told: dict[str, Any] = {
        "null": np.random.default_rng(2).normal(3.7, 0.16, 200),
        "claim": Estimate("the six heads", 0.2, 0.05, 0.35),
        "title": "Logit difference left (logits)",
        "unit": "logits",
        "null_name": "200 random sets",
        "references": {"whole model": 4.1},
        "n": 200,
    }
    return null_histogram(**told | changes)


def some_bars(parts: int = 20) -> Figure:
    values = np.random.default_rng(3).normal(0, 1, parts)
    return bars(
        values,
        names=[f"layers.{part // 5}.attn.z[{part % 5}]" for part in range(parts)],
        title="Direct attribution (logits)",
        unit="logits",
        low=values - 0.1,
        high=values + 0.1,
        n=200,
        null=Control(-0.05, 0.05),
    )


KINDS = {
    "map": some_map,
    "tokens": partial(some_tokens, 15),
    "lines": some_lines,
    "histogram": some_histogram,
    "bars": some_bars,
}


def texts(figure: Figure) -> list[str]:
    """Every word in the picture."""
    return [found.get_text() for found in figure.drawing.findobj(Text) if found.get_text()]


def upright_boxes(figure: Figure) -> list[tuple[str, Any]]:
    """Where every text that is not turned lies, in pixels."""
    with drawing():
        canvas = FigureCanvasAgg(figure.drawing)
        canvas.draw()
        renderer = canvas.get_renderer()
        return [
            (found.get_text(), found.get_window_extent(renderer))
            for found in figure.drawing.findobj(Text)
            if found.get_text() and found.get_visible() and found.get_rotation() == 0
        ]


def collisions(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts that lie on each other, by more than a pixel."""
    boxes = upright_boxes(figure)
    return [
        (first, second)
        for at, (first, one) in enumerate(boxes)
        for second, two in boxes[:at]
        if min(one.x1, two.x1) - max(one.x0, two.x0) > 1 and min(one.y1, two.y1) - max(one.y0, two.y0) > 1
    ]


def outside(figure: Figure) -> list[str]:
    """Texts that leave the sheet."""
    width, height = (72 * side for side in figure.drawing.get_size_inches())
    return [
        text
        for text, box in upright_boxes(figure)
        if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1
    ]


def marks(figure: Figure) -> list[Any]:
    """The marks of the figure as a page shows them."""
    root = ElementTree.fromstring(figure.svg(page=True))
    return [group for group in root.iter(f"{SVG}g") if group.get("class") == "mark"]
