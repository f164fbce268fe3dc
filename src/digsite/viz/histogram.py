"""How many things lie where along a scale: bars, one colour for each kind.

What is claimed is amber; every further kind has its own colour and hatch, a control is grey. Kinds that make up a whole
stand on each other; what is to be compared stands side by side.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl
from jaxtyping import Float

from digsite._core.errors import BadInput, explain
from digsite.viz.axes import scale_for
from digsite.viz.canvas import Canvas, Look, drawing, tile, title_lines
from digsite.viz.figure import Figure
from digsite.viz.labels import text_width, widest
from digsite.viz.theme import LIGHT, OKABE_ITO

WIDTH, HEIGHT, BINS = 380.0, 130.0, 40
HATCHES = (None, "////", "....")


@dataclass(frozen=True, eq=False)
class Pile:
    """Things of one kind.

    Attributes:
        name: What they are.
        values: Where each lies.
        is_control: They are what the others are compared with, and grey.
    """

    name: str
    values: Float[np.ndarray, " point"]
    is_control: bool = False


@drawing()
def histogram(
    piles: Sequence[Pile],
    *,
    title: str,
    across: str,
    bounds: tuple[float, float],
    ticks: Sequence[tuple[float, str]],
    counted: str,
    lines: Sequence[tuple[float, str]] = (),
    beside: bool = False,
    caption: str = "",
    code: str = "",
) -> Figure:
    """Shows how many things lie where along a scale.

    Args:
        piles: The kinds, from the foot up.
        title: What is shown.
        across: What the place across means, with its unit.
        bounds: Ends of the scale; what lies beyond is put into the outermost bars.
        ticks: Places on the scale and what is written there.
        counted: What the height counts: `latents`.
        lines: Places of lines through the bars, and their names.
        beside: Whether the kinds stand side by side instead of on each other.
        caption: What to see in it.
        code: The call that made the numbers.

    Raises:
        BadInput: There is nothing to show.
    """
    if not any(np.isfinite(pile.values).any() for pile in piles):
        raise BadInput(explain(f"{title!r} has nothing to show", found="no value"))
    low, high = bounds
    edges = np.linspace(low, high, BINS + 1)
    kept = [np.clip(pile.values[np.isfinite(pile.values)], low, high) for pile in piles]
    counts = np.stack([np.histogram(values, edges)[0] for values in kept])
    highest = counts.max() if beside else counts.sum(0).max()
    tallest = scale_for([0.0, float(highest)], unit="", count=3)
    left = max(widest(tallest.labels) + 10, text_width(ticks[0][1]) / 2)
    heading, top = title_lines(title, left + WIDTH)
    top += 34.0
    foot = top + HEIGHT
    names = [f"{pile.name}: {total:,}" for pile, total in zip(piles, counts.sum(1).tolist(), strict=True)]
    key = left + sum(18 + text_width(name) + 16 for name in names)
    canvas = Canvas(max(key, left + WIDTH + text_width(ticks[-1][1]) / 2), foot + 40)
    canvas.title(heading, top - 34)
    plot = canvas.plot(left, top, WIDTH, HEIGHT, x=(low, high), y=(0, tallest.high))
    for step, label in zip(tallest.steps, tallest.labels, strict=True):
        plot.axhline(step, color=LIGHT.line, linewidth=1.6 if step == 0 else 0.9, zorder=0, clip_on=False)
        canvas.text(left - 8, foot - HEIGHT * step / tallest.high, label, colour=LIGHT.soft, across="right")
    looks = _looks(piles)
    for at, ends in enumerate(pairwise(edges.tolist())):
        column = counts[:, at].tolist()
        near = ticks[int(np.argmin([abs(place - sum(ends) / 2) for place, _ in ticks]))][1]
        for pile, look, count, bar in zip(piles, looks, column, _bars(ends, column, beside=beside), strict=True):
            if count:
                canvas.mark(tile(plot, bar, look), f"{count:,} {counted}, {pile.name}, near {near}")
    for place, name in lines:
        plot.plot([place] * 2, [0, tallest.high], color=LIGHT.soft, linewidth=1.2, linestyle=(0, (2, 2.5)), zorder=3)
        canvas.text(left + WIDTH * (place - low) / (high - low), top - 9, name, colour=LIGHT.soft, across="center")
    for place, label in ticks:
        at = left + WIDTH * (place - low) / (high - low)
        canvas.text(at, foot + 12, label, colour=LIGHT.soft, across="center")
    canvas.text(left + WIDTH / 2, foot + 30, across, colour=LIGHT.soft, across="center")
    for pile, name, look in zip(piles, names, looks, strict=True):
        tile(canvas.plot(left, top - 32, 12, 12), (0, 0, 12, 12), look)
        canvas.text(left + 18, top - 26, name, colour=LIGHT.soft if pile.is_control else LIGHT.ink)
        left += 18 + text_width(name) + 16
    frame = pl.concat(
        [
            pl.DataFrame({"kind": [pile.name] * BINS, "from": edges[:-1], "to": edges[1:], counted: row})
            for pile, row in zip(piles, counts, strict=True)
        ]
    )
    return Figure(title=title, caption=caption, data=frame, code=code, canvas=canvas)


def _looks(piles: Sequence[Pile]) -> list[Look]:
    colours = iter((LIGHT.mark, OKABE_ITO[5], OKABE_ITO[3]))
    hatches = iter(HATCHES)
    found = []
    for pile in piles:
        colour = LIGHT.null if pile.is_control else next(colours)
        hatch = None if pile.is_control else next(hatches)
        found.append(Look(fill=colour, hatch=hatch, edge=LIGHT.card if hatch else "none"))
    return found


def _bars(
    ends: tuple[float, float], counts: Sequence[int], *, beside: bool
) -> Iterator[tuple[float, float, float, float]]:
    """Left, foot, width and height of the bar of each kind between two ends."""
    gap = 0.08 * (ends[1] - ends[0])
    width, floor = ends[1] - ends[0] - 2 * gap, 0.0
    for at, count in enumerate(counts):
        if beside:
            yield ends[0] + gap + at * width / len(counts), 0.0, width / len(counts), float(count)
        else:
            yield ends[0] + gap, floor, width, float(count)
            floor += float(count)
