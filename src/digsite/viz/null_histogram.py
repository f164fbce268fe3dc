"""A claim against its control: the null's values as grey bars, the claim as an amber point with its interval."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes as Plot

from digsite._core.errors import BadInput, explain
from digsite.viz.axes import Scale, scale_for
from digsite.viz.canvas import Canvas, Look, drawing, tile, title_lines
from digsite.viz.estimate import Estimate
from digsite.viz.figure import Figure
from digsite.viz.labels import stack, text_width
from digsite.viz.numbers import number, span
from digsite.viz.theme import LIGHT

WIDTH, BAR_HEIGHT, BINS = 332.0, 84.0, 40
MARGIN, GAP = 16.0, 8.0


@drawing()
def null_histogram(
    null: Float[np.ndarray, " draw"],
    claim: Estimate,
    *,
    title: str,
    unit: str,
    null_name: str,
    references: Mapping[str, float] | None = None,
    bounds: tuple[float, float] | None = None,
    n: int | None = None,
    caption: str = "",
    code: str = "",
) -> Figure:
    """Shows whether a claim stands clear of its control: grey is what chance gives, amber is what we claim.

    Args:
        null: The control's values, one for each random set, direction or seed.
        claim: The claimed number with its interval.
        title: What is measured, with its unit.
        unit: The unit of the values; `fraction` and `share` are written in percent.
        null_name: What the control is: `200 random sets`.
        references: Other values to compare with: `{"whole model": 4.1}`.
        bounds: The natural ends of the scale, such as 0 and 1; from the numbers where not given.
        n: How many examples the claim rests on.
        caption: What to see in it.
        code: The call that made the numbers.

    Raises:
        BadInput: The claim or the whole null has no value.

    Caveats:
        Control values that are not finite are left out and counted beside the control's name.
    """
    references = dict(references or {})
    finite = null[np.isfinite(null)]
    _check(claim, finite, title)
    if len(finite) < len(null):
        null_name += f" ({len(null) - len(finite)} without a value)"
    given = [*finite.tolist(), claim.low, claim.high, claim.value, *references.values()]
    scale = scale_for(given, unit=unit, count=5, at_least=bounds)
    heading, top = title_lines(title, WIDTH)
    words = _words(claim, references, scale, unit)
    interval = _interval(claim, scale)
    shelves = stack([interval, *((each.left, each.right) for each in words)], gap=GAP - 1)
    # Two of these figures side by side stand equally high, whichever shelves they need.
    lowest = top + 18.0 * max(max(shelves) + 1, 1 + bool(references)) - 9
    foot = lowest + 33 + BAR_HEIGHT
    canvas = Canvas(WIDTH, foot + 24)
    canvas.title(heading, top)
    plot = canvas.plot(0, 0, WIDTH, foot)
    _draw_bars(canvas, plot, finite, scale, unit, null_name)
    point = _draw_claim(plot, interval, _across(scale, claim.value), lowest)
    hover = f"{words[0].text} (95 %: {span(claim.low, claim.high, unit=unit)})"
    canvas.mark(point, hover + (f", n = {n:,}" if n is not None else ""))
    for each, shelf in zip(words, shelves[1:], strict=True):
        if each.line_at is not None:
            _draw_line(plot, each.line_at, lowest - 18 * shelf + 8, each.colour)
        _write(plot, each.left, lowest - 18 * shelf, each.text, each.colour)
    _draw_scale(canvas, plot, scale)
    frame = _frame(null, claim, references, n)
    return Figure(title=title, caption=caption, data=frame, code=code, canvas=canvas)


def _check(claim: Estimate, finite: np.ndarray, title: str) -> None:
    if not len(finite) or not np.isfinite(claim.value):
        asked = f"{title!r} needs a claim and a control to stand against"
        found = f"a claim of {claim.value} and {len(finite)} finite control values"
        raise BadInput(explain(asked, found=found, do="Run the control, and look why the value is missing"))


@dataclass(frozen=True)
class _Words:
    """Words above the bars, from left to right, and where the line stands that they name, if they have one."""

    text: str
    colour: str
    left: float
    right: float
    line_at: float | None = None


def _across(scale: Scale, value: float) -> float:
    return scale.place(value, MARGIN, WIDTH - 2 * MARGIN)


def _interval(claim: Estimate, scale: Scale) -> tuple[float, float]:
    """Where the claim's interval begins and ends, at least as wide as its point."""
    place = _across(scale, claim.value)
    low, high = (_across(scale, end) if np.isfinite(end) else place for end in (claim.low, claim.high))
    return min(low, place - 6), max(high, place + 6)


def _centred(text: str, place: float) -> tuple[float, float]:
    """Where a text begins and ends that stands over a place, without leaving the sheet."""
    width = text_width(text)
    left = min(max(0.0, place - width / 2), WIDTH - width)
    return left, left + width


def _words(claim: Estimate, references: Mapping[str, float], scale: Scale, unit: str) -> list[_Words]:
    """The claim's words beside its interval, or over it where there is no room; a reference's over its line."""
    text = f"{claim.name} {number(claim.value, unit=unit)}"
    low, high = _interval(claim, scale)
    width = text_width(text)
    if high + GAP + width <= WIDTH:
        ends = (high + GAP, high + GAP + width)
    elif low - GAP - width >= 0:
        ends = (low - GAP - width, low - GAP)
    else:
        ends = _centred(text, _across(scale, claim.value))
    words = [_Words(text, LIGHT.ink, *ends)]
    for name, value in references.items():
        text = f"{name} {number(value, unit=unit)}"
        words.append(_Words(text, LIGHT.soft, *_centred(text, _across(scale, value)), line_at=_across(scale, value)))
    return words


def _draw_claim(plot: Plot, interval: tuple[float, float], place: float, middle: float) -> Artist:
    _draw_line(plot, place, middle, LIGHT.mark)
    plot.plot(interval, [middle] * 2, color=LIGHT.mark, linewidth=3, zorder=4, solid_capstyle="round")
    (point,) = plot.plot([place], [middle], marker="o", markersize=10, color=LIGHT.mark, zorder=5)
    return point


def _draw_scale(canvas: Canvas, plot: Plot, scale: Scale) -> None:
    foot = plot.get_ylim()[0]
    plot.plot([MARGIN, WIDTH - MARGIN], [foot, foot], color=LIGHT.line, linewidth=1.2, clip_on=False)
    for step, label in zip(scale.steps, scale.labels, strict=True):
        canvas.text(_across(scale, step), foot + 12, label, colour=LIGHT.soft, across="center")


def _draw_line(plot: Plot, place: float, start: float, colour: str) -> None:
    foot = plot.get_ylim()[0]
    plot.plot([place] * 2, [start, foot], color=colour, linewidth=1.2, linestyle=(0, (2, 2.5)), zorder=3)


def _write(plot: Plot, left: float, middle: float, text: str, colour: str) -> None:
    """Words with the card behind them, so that a line that passes does not cross them out."""
    ground = {"facecolor": LIGHT.card, "edgecolor": "none", "pad": 1.5}
    plot.text(left, middle, text, color=colour, va="center_baseline", bbox=ground, zorder=6)


def _draw_bars(canvas: Canvas, plot: Plot, null: np.ndarray, scale: Scale, unit: str, null_name: str) -> None:
    foot = plot.get_ylim()[0]
    counts, edges = np.histogram(null, bins=BINS, range=(scale.low, scale.high))
    for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
        if count:
            left, right = _across(scale, float(low)), _across(scale, float(high))
            height = BAR_HEIGHT * float(count / counts.max())
            bar = tile(plot, (left + 0.5, foot - height, right - left - 1, height), Look(fill=LIGHT.null))
            canvas.mark(bar, f"{span(float(low), float(high), unit=unit)}: {count} of {null_name}")
    left, _ = _centred(null_name, _across(scale, float(np.median(null))))
    _write(plot, left, foot - BAR_HEIGHT - 10, null_name, LIGHT.soft)


def _frame(null: np.ndarray, claim: Estimate, references: Mapping[str, float], n: int | None) -> pl.DataFrame:
    rows = [("claim", claim.name, claim.value, claim.low, claim.high, n)]
    rows += [("reference", name, value, None, None, None) for name, value in references.items()]
    rows += [("null", str(number_of), float(value), None, None, None) for number_of, value in enumerate(null)]
    schema = {
        "kind": pl.String,
        "name": pl.String,
        "value": pl.Float64,
        "low": pl.Float64,
        "high": pl.Float64,
        "n": pl.Int64,
    }
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(pl.selectors.float().fill_nan(None))
