"""Two numbers of several things against each other, each thing with its name and the interval of both numbers.

What is claimed has a colour and a shape of its own, which those share whose names differ in a last number alone; what
it is compared with is grey. Names stand in a column at the right, each joined to its point, and none lie on each other.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

import polars as pl
from matplotlib.ticker import LogLocator

from digsite._core.errors import BadInput, explain
from digsite.viz.axes import Scale, scale_for
from digsite.viz.canvas import Canvas, drawing, title_lines
from digsite.viz.figure import Figure
from digsite.viz.labels import spread, widest
from digsite.viz.lines import LOOKS
from digsite.viz.numbers import number, span
from digsite.viz.theme import LIGHT

WIDTH, HEIGHT, LEAD, ROW = 330.0, 230.0, 30.0, 16.0
WIDE = 8.0
"""From this ratio of the largest to the smallest on the scale across is logarithmic."""


@dataclass(frozen=True)
class Dot:
    """One thing.

    Attributes:
        name: Its name.
        x: The number across.
        y: The number upward.
        low: Lower end of the 95 % interval of y.
        high: Upper end.
        is_control: It is what the others are compared with, and grey.
    """

    name: str
    x: float
    y: float
    low: float = math.nan
    high: float = math.nan
    is_control: bool = False


@drawing()
def scatter(
    dots: Sequence[Dot],
    *,
    title: str,
    across: str,
    upward: str,
    unit: str,
    n: int | None = None,
    caption: str = "",
    code: str = "",
) -> Figure:
    """Shows two numbers of several things against each other; a point further left and further down is better.

    Args:
        dots: The things, with x above zero.
        title: What is compared.
        across: What x is, with its unit.
        upward: What y is, with its unit.
        unit: The unit of y; `fraction` and `share` are written in percent.
        n: How many examples each value rests on.
        caption: What to see in it.
        code: The call that made the numbers.

    Raises:
        BadInput: There is no point with two numbers.
    """
    shown = [dot for dot in dots if math.isfinite(dot.x) and math.isfinite(dot.y)]
    if not shown:
        raise BadInput(explain(f"{title!r} has no point to show", found=f"{len(dots)} without numbers"))
    ends = [end for dot in shown for end in (dot.y, dot.low, dot.high) if math.isfinite(end)]
    height = scale_for([0.0, *ends], unit=unit)
    width, by_log = _across([dot.x for dot in shown])
    left = widest(height.labels) + 12
    names = widest([dot.name for dot in shown])
    heading, top = title_lines(title, left + WIDTH)
    top += 24.0
    tall = max(HEIGHT, ROW * len(shown))
    foot = top + tall
    canvas = Canvas(left + WIDTH + LEAD + names, foot + 42)
    canvas.title(heading, top - 24)
    canvas.text(0, top - 16, upward, colour=LIGHT.soft)
    plot = canvas.plot(left, top, WIDTH + LEAD, tall, x=(0, WIDTH + LEAD), y=(tall, 0))
    for step, label in zip(height.steps, height.labels, strict=True):
        y = height.place(step, tall, -tall)
        plot.plot([0, WIDTH], [y] * 2, color=LIGHT.line, linewidth=1.6 if step == 0 else 0.9, zorder=0, clip_on=False)
        canvas.text(left - 10, top + y, label, colour=LIGHT.soft, across="right")
    for step, label in zip(width.steps, width.labels, strict=True):
        canvas.text(left + _x(width, step, by_log=by_log), foot + 14, label, colour=LIGHT.soft, across="center")
    canvas.text(left + WIDTH / 2, foot + 32, across, colour=LIGHT.soft, across="center")
    looks = dict(zip(dict.fromkeys(_kind(dot) for dot in shown if not dot.is_control), cycle(LOOKS), strict=False))
    wanted = [height.place(dot.y, tall, -tall) for dot in shown]
    for dot, y, place in zip(shown, wanted, spread(wanted, ROW - 1, 0.0, tall), strict=True):
        colour, shape = (LIGHT.null, "s") if dot.is_control else looks[_kind(dot)]
        x, order = _x(width, dot.x, by_log=by_log), 2 if dot.is_control else 4
        plot.plot([x, WIDTH + 8, WIDTH + LEAD - 6], [y, place, place], color=LIGHT.line, linewidth=0.8, zorder=1)
        if math.isfinite(dot.low) and math.isfinite(dot.high):
            ends = [height.place(end, tall, -tall) for end in (dot.low, dot.high)]
            plot.plot([x] * 2, ends, color=colour, linewidth=2, zorder=order)
        (point,) = plot.plot([x], [y], marker=shape, markersize=8, color=colour, zorder=order + 1, clip_on=False)
        point.set(markeredgecolor=LIGHT.card, markeredgewidth=1.2)
        canvas.mark(point, _hover(dot, across, upward, unit, n))
        name = LIGHT.soft if dot.is_control else LIGHT.ink
        canvas.text(left + WIDTH + LEAD, top + place, dot.name, colour=name)
    frame = pl.DataFrame(
        [(d.name, d.x, d.y, d.low, d.high, n, d.is_control) for d in dots],
        schema={"name": pl.String, "x": float, "y": float, "low": float, "high": float, "n": int, "control": bool},
        orient="row",
    ).with_columns(pl.selectors.float().fill_nan(None))
    return Figure(title=title, caption=caption, data=frame, code=code, canvas=canvas)


def _across(values: Sequence[float]) -> tuple[Scale, bool]:
    """The scale across: logarithmic where values differ much and are above zero."""
    least, most = min(values), max(values)
    if least <= 0 or most < WIDE * least:
        return scale_for([0.0, *values], unit=""), False
    low, high = least / 1.3, most * 1.3
    steps = LogLocator(base=10, subs=(1.0, 2.0, 5.0)).tick_values(low, high)
    inside = tuple(float(step) for step in steps if low <= step <= high)
    chosen = inside[:: math.ceil(len(inside) / 7)]
    return Scale(low, high, chosen, tuple(number(step, 0 if step >= 1 else 2) for step in chosen)), True


def _x(scale: Scale, value: float, *, by_log: bool) -> float:
    if not by_log:
        return scale.place(value, 0.0, WIDTH)
    return WIDTH * math.log(value / scale.low) / math.log(scale.high / scale.low)


def _kind(dot: Dot) -> str:
    return re.sub(r"[\s-]*\d+$", "", dot.name)


def _hover(dot: Dot, across: str, upward: str, unit: str, n: int | None) -> str:
    text = f"{dot.name}: {upward} {number(dot.y, unit=unit)}"
    if math.isfinite(dot.low) and math.isfinite(dot.high):
        text += f" (95 %: {span(dot.low, dot.high, unit=unit)})"
    return text + f", {across} {number(dot.x)}" + (f", n = {n:,}" if n is not None else "")
