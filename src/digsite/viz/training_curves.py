"""How a training of dictionaries went: FVU, L0, dead latents and loss over the rows; how often latents fire at the end.

One panel each, all over the same rows; every dictionary has its colour and its shape of points, and its name at the end
of its line. Nothing here is a control: how good a dictionary is, `evaluate` says.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from matplotlib.artist import Artist
from matplotlib.axes import Axes as Plot

from digsite._core.figures import draws
from digsite.dictionaries.monitor import DENSITIES
from digsite.dictionaries.training import TrainedDictionaries
from digsite.viz.axes import Scale, scale_for
from digsite.viz.canvas import Canvas, drawing, title_lines
from digsite.viz.figure import Figure
from digsite.viz.labels import spread, text_width, widest
from digsite.viz.lines import LOOKS
from digsite.viz.numbers import number
from digsite.viz.theme import LIGHT

WIDTH, HEIGHT, BETWEEN = 400.0, 84.0, 30.0
POINTS = 12
"""Points of a curve that are marked; the line goes through all."""
EARLY, SQUEEZED = 0.3, 3.0
"""The beginning of a run, which is not drawn where its largest value is so many times that of the rest."""


@dataclass(frozen=True)
class _Panel:
    """One quantity: its column in the curves, what is written above it, and its unit."""

    column: str
    title: str
    unit: str


PANELS = (
    _Panel("fvu", "variance unexplained (FVU)", "fraction"),
    _Panel("l0", "latents that fire in a row (L0)", ""),
    _Panel("dead", "dead latents", "fraction"),
    _Panel("loss", "loss", ""),
)


@draws(TrainedDictionaries)
@drawing()
def training_figure(result: TrainedDictionaries) -> Figure:
    """What was told on the way: FVU, L0, dead latents and loss over rows; and the densities of the last stretch."""
    curves = {name: result.curves.filter(dictionary=name) for name in result.names}
    looks = [LOOKS[at % len(LOOKS)] for at in range(len(curves))]
    names = list(curves) if len(curves) > 1 else []
    most = max(float(curve["rows"][-1]) for curve in curves.values())
    across = scale_for([], unit="", count=4, at_least=(0.0, most))
    scales = [_scale(panel, curves) for panel in PANELS]
    counts = {name: np.array(curve["density"][-1].to_list(), dtype=float) for name, curve in curves.items()}
    tallest = scale_for([0.0, *(float(count.max()) for count in counts.values())], unit="", count=2)
    left = max(widest(scale.labels) for scale in (*scales, tallest)) + 12
    right = max(16 + 14 + widest(names) if names else 0.0, text_width(across.labels[-1]) / 2)
    heading, top = title_lines("How the training went", left + WIDTH + right)
    foot = top + len(PANELS) * (HEIGHT + BETWEEN) + 34
    canvas = Canvas(left + WIDTH + right, foot + BETWEEN + HEIGHT + 42)
    canvas.title(heading, top)
    for panel, scale in zip(PANELS, scales, strict=True):
        top += BETWEEN
        plot = _frame(canvas, panel.title, scale, left, top, x=(0.0, across.high))
        for (name, curve), look in zip(curves.items(), looks, strict=True):
            _curve(canvas, plot, panel, name, curve, look)
        ends = [scale.place(_end(curve, panel), top + HEIGHT, -HEIGHT) for curve in curves.values()]
        _names(canvas, names, ends, looks, left, top)
        top += HEIGHT
    for step, label in zip(across.steps, across.labels, strict=True):
        canvas.text(left + across.place(step, 0.0, WIDTH), top + 12, label, colour=LIGHT.soft, across="center")
    canvas.text(left + WIDTH / 2, top + 28, "rows", colour=LIGHT.soft, across="center")
    _densities(canvas, counts, looks, tallest, left, foot + BETWEEN)
    data = result.curves.drop("density")
    return Figure(
        title="How the training went",
        caption=f"{result.verdict}. These are rows that were learned from: judge on others. A beginning that lies "
        "above its panel is not drawn.",
        data=data,
        code=result.provenance.made_by,
        canvas=canvas,
    )


def _scale(panel: _Panel, curves: dict[str, pl.DataFrame]) -> Scale:
    """From zero to the largest value; where the beginning would squeeze the rest, to the largest after it."""
    later = [curve.filter(pl.col("rows") > EARLY * pl.col("rows").max()) for curve in curves.values()]
    largest, settled = (
        max(value for curve in some for value in curve[panel.column].to_list()) for some in (curves.values(), later)
    )
    return scale_for(
        [largest if largest < SQUEEZED * settled else settled], unit=panel.unit, count=2, at_least=(0.0, 0.02)
    )


def _frame(canvas: Canvas, title: str, scale: Scale, left: float, top: float, *, x: tuple[float, float]) -> Plot:
    """Bare axes with their steps and what is in them."""
    plot = canvas.plot(left, top, WIDTH, HEIGHT, x=x, y=(scale.low, scale.high))
    for step, label in zip(scale.steps, scale.labels, strict=True):
        plot.axhline(step, color=LIGHT.line, linewidth=1.6 if step == 0 else 0.9, zorder=0, clip_on=False)
        canvas.text(left - 10, scale.place(step, top + HEIGHT, -HEIGHT), label, colour=LIGHT.soft, across="right")
    canvas.text(left, top - 11, title)
    return plot


def _curve(canvas: Canvas, plot: Plot, panel: _Panel, name: str, curve: pl.DataFrame, look: tuple[str, str]) -> None:
    rows, values = (np.array(curve[column].to_list(), dtype=float) for column in ("rows", panel.column))
    plot.plot(rows, values, color=look[0], linewidth=1.8, zorder=3)
    marked = np.unique(np.linspace(0, len(rows) - 1, min(POINTS, len(rows))).round().astype(int))
    highest = plot.get_ylim()[1]
    for row, value in zip(rows[marked].tolist(), values[marked].tolist(), strict=True):
        if value > highest:
            continue
        text = f"{name}, {row:,.0f} rows: {panel.title} {number(value, unit=panel.unit)}"
        canvas.mark(_point(plot, (row, value), look), text)


def _end(curve: pl.DataFrame, panel: _Panel) -> float:
    return float(curve[panel.column][-1])


def _point(plot: Plot, place: tuple[float, float], look: tuple[str, str]) -> Artist:
    (point,) = plot.plot([place[0]], [place[1]], color=look[0], zorder=4, clip_on=False)
    point.set(marker=look[1], markersize=6, markeredgecolor=LIGHT.card, markeredgewidth=1.0)
    return point


def _names(
    canvas: Canvas,
    names: Sequence[str],
    ends: Sequence[float],
    looks: Sequence[tuple[str, str]],
    left: float,
    top: float,
) -> None:
    """The name of each line at its end, where there are several."""
    places = spread(ends[: len(names)], 14.0, top + 2, top + HEIGHT)
    for name, place, look in zip(names, places, looks, strict=False):
        _point(canvas.plot(left + WIDTH + 12, place - 5, 10, 10), (3.0, 5.0), look)
        canvas.text(left + WIDTH + 26, place, name)


def _densities(
    canvas: Canvas,
    counts: dict[str, np.ndarray],
    looks: Sequence[tuple[str, str]],
    scale: Scale,
    left: float,
    top: float,
) -> None:
    """How many latents fired in which share of the last rows; those that did not are the first place, apart."""
    bins = len(DENSITIES)
    plot = _frame(canvas, "latents by how often they fired at the end", scale, left, top, x=(-0.5, bins - 0.5))
    for (name, count), look in zip(counts.items(), looks, strict=True):
        plot.plot(np.arange(1, bins), count[1:], color=look[0], linewidth=1.8, zorder=3, clip_on=False)
        for at, value in enumerate(count.tolist()):
            canvas.mark(_point(plot, (float(at), value), look), f"{name}: {value:,.0f} latents, {_named(at)}")
    _names(canvas, list(counts) if len(counts) > 1 else [], _last(counts, scale, top), looks, left, top)
    for at in (0, *range(3, bins, 2)):
        where = left + WIDTH * (at + 0.5) / bins
        canvas.text(where, top + HEIGHT + 12, _share(at), colour=LIGHT.soft, across="center")
    canvas.text(left + WIDTH / 2, top + HEIGHT + 28, "share of the rows, at least", colour=LIGHT.soft, across="center")


def _last(counts: dict[str, np.ndarray], scale: Scale, top: float) -> list[float]:
    return [scale.place(float(count[-1]), top + HEIGHT, -HEIGHT) for count in counts.values()]


def _share(at: int) -> str:
    return "never" if at == 0 else f"{100 * DENSITIES[at]:.2g} %"


def _named(at: int) -> str:
    return "which never fired" if at == 0 else f"in at least {_share(at)} of the rows"
