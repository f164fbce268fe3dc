"""Strips of points: how a number spreads over many cases, for several contestants, with its mean and interval.

One row a contestant, one small point a case, and the mean as a large point with its 95 % interval. What is compared
with (a baseline) is grey with a square, what is claimed is amber with a round one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float
from matplotlib.axes import Axes as Plot

from digsite._core.errors import BadInput, ShapeMismatch, explain
from digsite.viz.axes import Scale, scale_for
from digsite.viz.canvas import Canvas, drawing, title_lines
from digsite.viz.estimate import Estimate
from digsite.viz.figure import Figure
from digsite.viz.labels import widest
from digsite.viz.numbers import number, span
from digsite.viz.theme import LIGHT

PLOT_WIDTH, ROW, GAP = 280.0, 28.0, 12.0
SPREAD, NEAR = 9.0, 0.012  # points that lie closer than this part of the scale stand above each other, so many pixels


@dataclass(frozen=True, eq=False)
class Strip:
    """One contestant.

    Attributes:
        estimate: Its name, the mean of its values, and the interval of that mean; or a number that is no mean.
        values: One for each case; NaN where it has none, and none at all where the number is no mean.
        cases: What each case is called.
        is_control: It is what the others are compared with, and grey.
    """

    estimate: Estimate
    values: Float[np.ndarray, " place"]
    cases: Sequence[str]
    is_control: bool = False


@drawing()
def strips(
    rows: Sequence[Strip],
    *,
    title: str,
    unit: str,
    bounds: tuple[float, float] | None = None,
    reference: tuple[str, float] | None = None,
    caption: str = "",
    code: str = "",
) -> Figure:
    """Shows how a number spreads over many cases, one row for each contestant, from the top down as given.

    Args:
        rows: The contestants.
        title: What the place across means, with its unit.
        unit: The unit of the values; `fraction` and `share` are written in percent.
        bounds: The natural ends, such as 0 and 1; from the data where not given.
        reference: Name and value of a line through all rows, such as chance.
        caption: What to see in it.
        code: The call that made the numbers.

    Raises:
        BadInput: There is no row.
        ShapeMismatch: A row has not one name for each value.
    """
    _check(rows)
    line = [] if reference is None else [reference[1]]
    given = [value for row in rows for value in (*row.values.tolist(), row.estimate.low, row.estimate.high)]
    scale = scale_for([*given, *line], unit=unit, count=5, at_least=bounds)
    written = [_written(row.estimate, unit) for row in rows]  # before the points: a narrow page shows the left first
    names = widest([row.estimate.name for row in rows])
    left, right = names + widest(written) + 2 * GAP, widest(scale.labels) / 2
    heading, top = title_lines(title, left + PLOT_WIDTH + right)
    top += 16.0 if reference is not None else 0.0
    height = ROW * len(rows)
    canvas = Canvas(left + PLOT_WIDTH + right, top + height + 22)
    canvas.title(heading, top - (16.0 if reference is not None else 0.0))
    plot = canvas.plot(left, top, PLOT_WIDTH, height, x=(0.0, PLOT_WIDTH), y=(height, 0))
    for step, label in zip(scale.steps, scale.labels, strict=True):
        place = scale.place(step, 0.0, PLOT_WIDTH)
        plot.plot([place] * 2, [0, height], color=LIGHT.line, linewidth=0.9, zorder=0, clip_on=False)
        canvas.text(left + place, top + height + 12, label, colour=LIGHT.soft, across="center")
    if reference is not None:
        place = scale.place(reference[1], 0.0, PLOT_WIDTH)
        plot.plot([place] * 2, [0, height], color=LIGHT.soft, linewidth=1.2, linestyle=(0, (2, 2.5)), zorder=1)
        text = f"{reference[0]} {number(reference[1], unit=unit)}"
        canvas.text(left + place, top - 8, text, colour=LIGHT.soft, across="center")
    for at, (row, text) in enumerate(zip(rows, written, strict=True)):
        middle, colour = ROW * (at + 0.5), LIGHT.soft if row.is_control else LIGHT.ink
        canvas.text(names, top + middle, row.estimate.name, colour=colour, across="right")
        canvas.text(names + GAP, top + middle, text, colour=colour)
        _draw_row(canvas, plot, row, middle, scale, unit)
    return Figure(title=title, caption=caption, data=_frame(rows), code=code, canvas=canvas)


def _check(rows: Sequence[Strip]) -> None:
    if not rows:
        raise BadInput(explain("A figure of strips needs at least one row", do="Give a list of `Strip`"))
    wrong = [
        f"{row.estimate.name!r} has {len(row.values)} values and {len(row.cases)} names"
        for row in rows
        if len(row.values) != len(row.cases)
    ]
    if wrong:
        raise ShapeMismatch(explain("Every value needs the name of its case", found=", ".join(wrong)))


def _written(estimate: Estimate, unit: str) -> str:
    mean = number(estimate.value, 2, unit=unit)
    return f"{mean} ({span(estimate.low, estimate.high, 2, unit=unit)})" if np.isfinite(estimate.low) else mean


def _draw_row(canvas: Canvas, plot: Plot, row: Strip, middle: float, scale: Scale, unit: str) -> None:
    colour, shape = (LIGHT.null, "s") if row.is_control else (LIGHT.mark, "o")
    for value, case, above in zip(row.values.tolist(), row.cases, _above(row.values, scale), strict=True):
        if np.isfinite(value):
            place = scale.place(value, 0.0, PLOT_WIDTH)
            (point,) = plot.plot([place], [middle + above], marker=shape, markersize=4, color=colour, clip_on=False)
            point.set(alpha=0.55, markeredgewidth=0, zorder=3)
            canvas.mark(point, f"{row.estimate.name}, {case}: {number(value, 2, unit=unit)}")
    if not np.isfinite(row.estimate.value):
        return
    ends = [scale.place(end, 0.0, PLOT_WIDTH) for end in (row.estimate.low, row.estimate.high) if np.isfinite(end)]
    edge = LIGHT.soft if row.is_control else LIGHT.ink
    plot.plot(ends, [middle] * len(ends), color=edge, linewidth=1.4, zorder=4, clip_on=False)
    place = scale.place(row.estimate.value, 0.0, PLOT_WIDTH)
    (point,) = plot.plot([place], [middle], marker=shape, markersize=9, color=colour, zorder=5, clip_on=False)
    point.set(markeredgecolor=edge, markeredgewidth=1.2)
    counted, written = int(np.isfinite(row.values).sum()), _written(row.estimate, unit)
    told = f"mean {written}, n = {counted}" if counted else written
    canvas.mark(point, f"{row.estimate.name}: {told}")


def _above(values: Float[np.ndarray, " place"], scale: Scale) -> list[float]:
    """How far each point stands from the middle of its row, so that equal values do not hide each other."""
    order = [int(at) for at in np.argsort(values, kind="stable") if np.isfinite(values[at])]
    groups: list[list[int]] = []
    for at in order:
        if groups and values[at] - values[groups[-1][0]] <= NEAR * (scale.high - scale.low):
            groups[-1].append(at)
        else:
            groups.append([at])
    above = [0.0] * len(values)
    for group in groups:
        reach = min(SPREAD, 2.0 * (len(group) - 1))
        for at, place in zip(group, np.linspace(-reach, reach, len(group)).tolist(), strict=True):
            above[at] = place if len(group) > 1 else 0.0
    return above


def _frame(rows: Sequence[Strip]) -> pl.DataFrame:
    told = [
        (row.estimate.name, case, value, row.estimate.value, row.estimate.low, row.estimate.high)
        for row in rows
        for case, value in zip(row.cases or [""], row.values.tolist() or [np.nan], strict=True)
    ]
    schema = ["name", "case", "value", "mean", "low", "high"]
    kinds = {"value": pl.Float64, "mean": pl.Float64, "low": pl.Float64, "high": pl.Float64}
    frame = pl.DataFrame(told, schema=schema, schema_overrides=kinds, orient="row")
    return frame.with_columns(pl.selectors.float().fill_nan(None))
