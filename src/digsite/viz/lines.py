"""Lines with bands over the layers: where the answer appears, against what it competes with.

The answer is vermilion with round points, everything it is compared with is grey with square points; each line carries
its name at its end, and its 95 % interval as a band. Where there are several lines that are no controls, each has its
own colour and its own shape of points, and the point stands before its name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
import polars as pl
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes as Plot

from digsite._core.errors import BadInput, ShapeMismatch, explain
from digsite.viz.axes import Axis, scale_for, ticks_along, write_ticks
from digsite.viz.canvas import Canvas, drawing, title_lines
from digsite.viz.figure import Figure
from digsite.viz.labels import spread, widest
from digsite.viz.numbers import digits_for, number, span
from digsite.viz.theme import LIGHT, OKABE_ITO

HEIGHT = 150.0
LOOKS = tuple(zip((OKABE_ITO[at] for at in (6, 5, 3, 7, 1, 2)), "o^DvPX", strict=True))
"""Colour and shape of each of several lines; further ones begin anew, and have only their names to tell them by."""
SIGN = 14.0  # pixels from the sign before a name to the name
STEP, NARROWEST, WIDEST = 76.0, 240.0, 560.0  # pixels from layer to layer, and of the whole


@dataclass(frozen=True, eq=False)
class Line:
    """One quantity over the layers.

    Attributes:
        name: What is written at its end.
        values: One for each layer; NaN leaves a gap.
        low: Lower ends of the 95 % intervals.
        high: Upper ends of the 95 % intervals.
        is_control: It is what the answer is compared with, and grey.
    """

    name: str
    values: Float[np.ndarray, " layer"]
    low: Float[np.ndarray, " layer"] | None = None
    high: Float[np.ndarray, " layer"] | None = None
    is_control: bool = False


@drawing()
def lines(
    series: Sequence[Line],
    *,
    title: str,
    along: Axis,
    unit: str,
    bounds: tuple[float, float] | None = None,
    n: int | None = None,
    caption: str = "",
    code: str = "",
) -> Figure:
    """Shows how a quantity grows over the layers, with its interval and with what it competes against in grey.

    Args:
        series: The lines; those that are controls are drawn behind.
        title: What the height means, with its unit.
        along: The layers, from the embedding on.
        unit: The unit of the values; `fraction` and `share` are written in percent.
        bounds: The natural ends of the height, such as 0 and 1; from the data, with zero in it, where not given.
        n: How many examples each value is the mean of.
        caption: What to see in it.
        code: The call that made the numbers.

    Raises:
        BadInput: There is no line.
        ShapeMismatch: A line has not one value (and one interval) for each label.
    """
    _check(series, along)
    drawn = np.concatenate([ends for line in series for ends in (line.values, line.low, line.high) if ends is not None])
    height = scale_for([0.0, *drawn.tolist()], unit=unit, at_least=bounds)
    last = max(1, len(along.labels) - 1)
    width = min(WIDEST, max(NARROWEST, STEP * last))
    ticks = ticks_along(along, width / last)
    left = max(widest(height.labels) + 12, ticks.overhang + 2)
    looks = _looks(series)
    controls = sum(line.is_control for line in series)
    signed = max(controls, len(series) - controls) > 1
    right = max(14 + SIGN * signed + widest([line.name for line in series]), ticks.overhang)
    heading, top = title_lines(title, left + width)
    foot = top + 4 + HEIGHT
    canvas = Canvas(left + width + right + 2, foot + ticks.drop + (25 if ticks.name else 9))
    canvas.title(heading, top)
    plot = canvas.plot(left, top + 4, width, HEIGHT, x=(0, last), y=(height.low, height.high))
    for step, label in zip(height.steps, height.labels, strict=True):
        plot.axhline(step, color=LIGHT.line, linewidth=1.6 if step == 0 else 0.9, zorder=0, clip_on=False)
        place = height.place(step, foot, -HEIGHT)
        canvas.text(left - 10, place, label, colour=LIGHT.soft, across="right")
    write_ticks(canvas, ticks, [left + width * at / last for at in range(len(along.labels))], foot + 5)
    if ticks.name:
        middle = left + width / 2
        canvas.text(middle, foot + ticks.drop + 15, ticks.name, colour=LIGHT.soft, across="center")
    digits = digits_for(height.high - height.low)
    for line in sorted(series, key=lambda line: not line.is_control):
        hover = [_hover(line, at, along, unit, digits, n) for at in range(len(along.labels))]
        _draw_line(canvas, plot, line, hover, looks[line])
    ends = [height.place(_last_value(line, height.low), foot, -HEIGHT) for line in series]
    for line, place in zip(series, spread(ends, 15.0, top + 4, foot), strict=True):
        _name(canvas, line, left + width + 12, place, looks[line] if signed else None)
    return Figure(title=title, caption=caption, data=_frame(series, along, n), code=code, canvas=canvas)


def _check(series: Sequence[Line], along: Axis) -> None:
    if not series:
        raise BadInput(explain("A figure of lines needs at least one line", do="Give a list of `Line`"))
    count = len(along.labels)
    wrong = [
        f"{what} of {line.name!r} has {len(given)}"
        for line in series
        for what, given in (("values", line.values), ("low", line.low), ("high", line.high))
        if given is not None and len(given) != count
    ]
    if wrong:
        asked = f"Every line needs {count} values, one for each {along.name}"
        raise ShapeMismatch(explain(asked, found=", ".join(wrong), do="Give one value for each label"))


def _looks(series: Sequence[Line]) -> dict[Line, tuple[str, str]]:
    """Colour and shape of points of each line."""
    claimed = [line for line in series if not line.is_control]
    controls = [line for line in series if line.is_control]
    several = cycle(LOOKS) if len(claimed) > 1 else [(LIGHT.positive, "o")]
    greys = cycle([(LIGHT.null, shape) for shape in "sD^"])
    return dict(zip(claimed, several, strict=False)) | dict(zip(controls, greys, strict=False))


def _name(canvas: Canvas, line: Line, left: float, middle: float, sign: tuple[str, str] | None) -> None:
    if sign is not None:
        _point(canvas.plot(left, middle - 5, 10, 10), (3.0, 5.0), sign)
    colour = LIGHT.soft if line.is_control else LIGHT.ink
    canvas.text(left + SIGN * (sign is not None), middle, line.name, colour=colour)


def _draw_line(canvas: Canvas, plot: Plot, line: Line, hover: list[str], look: tuple[str, str]) -> None:
    colour, order = look[0], 2 if line.is_control else 4
    places = np.arange(len(line.values))
    if line.low is not None and line.high is not None:
        plot.fill_between(
            places, line.low, line.high, color=colour, alpha=0.22, linewidth=0, zorder=order - 1, clip_on=False
        )
    plot.plot(places, line.values, color=colour, linewidth=2, zorder=order, clip_on=False)
    for place, (value, text) in enumerate(zip(line.values.tolist(), hover, strict=True)):
        if np.isfinite(value):
            canvas.mark(_point(plot, (float(place), value), look, order=order + 1), text)


def _point(plot: Plot, place: tuple[float, float], look: tuple[str, str], *, order: int = 5) -> Artist:
    (point,) = plot.plot([place[0]], [place[1]], color=look[0], zorder=order, clip_on=False)
    point.set(marker=look[1], markersize=7, markeredgecolor=LIGHT.card, markeredgewidth=1.2)
    return point


def _last_value(line: Line, otherwise: float) -> float:
    finite = line.values[np.isfinite(line.values)]
    return float(finite[-1]) if len(finite) else otherwise


def _hover(line: Line, at: int, along: Axis, unit: str, digits: int, n: int | None) -> str:
    text = f"{along.named[at]}: {line.name} {number(float(line.values[at]), digits, unit=unit)}"
    if line.low is not None and line.high is not None:
        text += f" (95 %: {span(float(line.low[at]), float(line.high[at]), digits, unit=unit)})"
    return text + (f", n = {n:,}" if n is not None else "")


def _frame(series: Sequence[Line], along: Axis, n: int | None) -> pl.DataFrame:
    blank = np.full(len(along.labels), np.nan)
    parts = [
        pl.DataFrame(
            {
                "line": [line.name] * len(along.labels),
                along.name: list(along.labels),
                "value": line.values.astype(float),
                "low": (blank if line.low is None else line.low).astype(float),
                "high": (blank if line.high is None else line.high).astype(float),
                "n": [n] * len(along.labels),
            },
            schema_overrides={"n": pl.Int64},
        )
        for line in series
    ]
    return pl.concat(parts).with_columns(pl.selectors.float().fill_nan(None))
