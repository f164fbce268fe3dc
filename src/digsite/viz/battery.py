"""The figure of a battery: the effect on the task and under each check, beside what random subjects do."""

import numpy as np
import polars as pl

from digsite._core.figures import draws
from digsite.investigations.battery import BatteryResult, Check, estimate
from digsite.viz.axes import Scale, scale_for
from digsite.viz.canvas import Canvas, drawing, title_lines
from digsite.viz.figure import Figure
from digsite.viz.labels import widest
from digsite.viz.numbers import number, span
from digsite.viz.theme import LIGHT

PLOT_WIDTH, ROW, GAP, HEAD = 300.0, 34.0, 14.0, 20.0


@draws(BatteryResult)
@drawing()
def battery_figure(result: BatteryResult) -> Figure:
    """Amber is the effect with its interval, grey what random subjects do; beside it what it should be, and whether."""
    scales = {unit: _scale(result, unit) for unit in dict.fromkeys(check.unit for check in result.checks)}
    names = [check.name for check in result.checks]
    asked = [_asked(check) for check in result.checks]
    words = [text for check in result.checks for text in (_must(check), _measured(check))]
    room = GAP + max(widest(scale.labels) for scale in scales.values()) / 2
    left = max(widest(names), widest(words)) + room
    right = GAP + widest(asked) + 2
    title = f"{result.subject}: its effect on {result.task}, and where it must vanish or persist"
    heading, top = title_lines(title, left + PLOT_WIDTH + right)
    groups = _groups(result)
    height = sum(ROW * len(checks) + HEAD + GAP for _, checks in groups)
    canvas = Canvas(left + PLOT_WIDTH + right, top + height + 8)
    canvas.title(heading, top)
    y = top
    for unit, checks in groups:
        _draw_group(canvas, checks, scales[unit], (left, room), y)
        y += ROW * len(checks) + HEAD + GAP
    grey = f"amber: the effect, 95 %; grey: {len(result.checks[0].null)} random ones, one by one"
    canvas.text(left, y - 2, grey, colour=LIGHT.soft)
    caption = f"{result.verdict}. An effect that stays where it must vanish says nothing about this model."
    return Figure(title=title, caption=caption, data=_frame(result), code=result.provenance.made_by, canvas=canvas)


def _groups(result: BatteryResult) -> list[tuple[str, list[Check]]]:
    """Checks of one unit share a scale."""
    units = dict.fromkeys(check.unit for check in result.checks)
    return [(unit, [check for check in result.checks if check.unit == unit]) for unit in units]


def _scale(result: BatteryResult, unit: str) -> Scale:
    given = [0.0]
    for check in result.checks:
        if check.unit == unit:
            given += [*estimate(check.effect), *check.null.tolist()]
    return scale_for([value for value in given if np.isfinite(value)], unit=unit, count=5)


def _draw_group(canvas: Canvas, checks: list[Check], scale: Scale, sides: tuple[float, float], top: float) -> None:
    left, room = sides
    height, unit = ROW * len(checks), checks[0].unit
    plot = canvas.plot(left, top, PLOT_WIDTH, height, x=(0.0, PLOT_WIDTH), y=(height, 0))
    for step, label in zip(scale.steps, scale.labels, strict=True):
        place = scale.place(step, 0.0, PLOT_WIDTH)
        zero = step == 0
        plot.plot(
            [place] * 2, [0, height], color=LIGHT.soft if zero else LIGHT.line, linewidth=1.0, zorder=0, clip_on=False
        )
        canvas.text(left + place, top + height + 11, label, colour=LIGHT.soft, across="center")
    canvas.text(left - room, top + height + 11, _measured(checks[0]), colour=LIGHT.soft, across="right")
    for at, check in enumerate(checks):
        middle = ROW * (at + 0.5)
        canvas.text(left - room, top + middle - 7, check.name, across="right")
        canvas.text(left - room, top + middle + 8, _must(check), colour=LIGHT.soft, across="right")
        colour = LIGHT.good if check.passed else LIGHT.bad
        canvas.text(left + PLOT_WIDTH + GAP, top + middle, _asked(check), colour=colour)
        for value in check.null.tolist():
            place = scale.place(value, 0.0, PLOT_WIDTH)
            (point,) = plot.plot([place], [middle + 8], marker="s", markersize=5, color=LIGHT.null, clip_on=False)
            point.set(alpha=0.6, markeredgewidth=0, zorder=3)
            canvas.mark(point, f"{check.name}, a random one: {number(value, unit=unit)}")
        if len(check.effect):
            mean, *ends = (scale.place(value, 0.0, PLOT_WIDTH) for value in estimate(check.effect))
            plot.plot(ends, [middle - 3] * 2, color=LIGHT.mark, linewidth=3, zorder=4, solid_capstyle="round")
            (point,) = plot.plot([mean], [middle - 3], marker="o", markersize=9, color=LIGHT.mark, zorder=5)
            point.set(markeredgecolor=LIGHT.ink, markeredgewidth=1.0, clip_on=False)
            value, low, high = estimate(check.effect)
            told = f"{check.name}: {number(value, unit=unit)} (95 %: {span(low, high, unit=unit)})"
            canvas.mark(point, f"{told}, n = {len(check.effect)}")


def _measured(check: Check) -> str:
    return f"{check.metric_name.replace('_', ' ')} ({check.unit})"


def _must(check: Check) -> str:
    return f"must {check.must}"


def _asked(check: Check) -> str:
    if not len(check.effect):
        return "✗ not made"
    there = "✓" if check.passed else "✗"
    seen = {"persist": ("there", "not beyond chance"), "vanish": ("gone", "still there")}[check.must]
    return f"{there} {seen[0] if check.passed else seen[1]}"


def _frame(result: BatteryResult) -> pl.DataFrame:
    return result.to_frame().with_columns(pl.selectors.float().fill_nan(None))
