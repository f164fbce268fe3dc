"""Signed bars, strongest first: which components push the number up, which pull it down, and by how much.

The control's range is a grey band behind the bars; whiskers are 95 % intervals; what is not shown one by one is
gathered in a last row, so that the bars still sum to the whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float
from matplotlib.axes import Axes as Plot

from digsite._core.errors import ShapeMismatch, explain
from digsite.viz.canvas import Canvas, Look, drawing, tile, title_lines
from digsite.viz.estimate import Control
from digsite.viz.figure import Figure
from digsite.viz.labels import text_width, widest, wrap
from digsite.viz.numbers import digits_for, number, span
from digsite.viz.theme import LIGHT

PLOT_WIDTH, ROW = 300.0, 22.0


@drawing()
def bars(
    values: Float[np.ndarray, " component"],
    *,
    names: Sequence[str],
    title: str,
    unit: str,
    low: Float[np.ndarray, " component"] | None = None,
    high: Float[np.ndarray, " component"] | None = None,
    n: int | None = None,
    null: Control | None = None,
    keep: int = 14,
    caption: str = "",
    code: str = "",
) -> Figure:
    """Shows which parts make up a number: the strongest first, positive to the right, the rest as one row.

    Args:
        values: One number for each part.
        names: What each part is called (a site).
        title: What the length means, with its unit.
        unit: The unit of the values; `fraction` and `share` are written in percent.
        low: Lower ends of the 95 % intervals.
        high: Upper ends of the 95 % intervals.
        n: How many examples each value is the mean of.
        null: The range of the control, drawn behind the bars.
        keep: How many parts are shown one by one.
        caption: What to see in it.
        code: The call that made the numbers.

    Raises:
        ShapeMismatch: Names or intervals are not as many as the values.
    """
    _check(values, names=names, low=low, high=high)
    order = np.argsort(-np.nan_to_num(np.abs(values)), kind="stable")
    frame = pl.DataFrame(
        {
            "name": [names[at] for at in order],
            "value": values[order].astype(float),
            "low": (np.full(len(values), np.nan) if low is None else low[order]).astype(float),
            "high": (np.full(len(values), np.nan) if high is None else high[order]).astype(float),
            "n": [n] * len(values),
        },
        schema_overrides={"n": pl.Int64},
    ).with_columns(pl.selectors.float().fill_nan(None))
    count = keep if len(values) > keep + 1 else len(values)
    shown = [
        _Row(row["name"], row["value"], row["low"], row["high"]) for row in frame.head(count).iter_rows(named=True)
    ]
    if count < len(values):
        others = values[order[count:]]
        shown.append(_Row(f"the other {len(others)} together", float(np.nansum(others)), None, None, is_rest=True))
    return Figure(title=title, caption=caption, data=frame, code=code, canvas=_draw(shown, title, unit, n, null))


@dataclass(frozen=True)
class _Row:
    name: str
    value: float | None
    low: float | None
    high: float | None
    is_rest: bool = False

    @property
    def reach(self) -> list[float]:
        """The places its bar and whisker touch, zero among them."""
        return [0.0, *(end for end in (self.value, self.low, self.high) if end is not None)]


def _check(values: np.ndarray, **others: Sequence[object] | np.ndarray | None) -> None:
    wrong = [
        f"{len(other)} {name}" for name, other in others.items() if other is not None and len(other) != len(values)
    ]
    if wrong:
        asked = f"{len(values)} bars need as many names and interval ends"
        raise ShapeMismatch(explain(asked, found=", ".join(wrong), do="Give one entry for each value"))


def _draw(shown: list[_Row], title: str, unit: str, n: int | None, null: Control | None) -> Canvas:
    reach = [end for row in shown for end in row.reach] + ([] if null is None else [null.low, null.high])
    low, high = min(0.0, *reach), max(0.0, *reach)
    digits = digits_for(max(-low, high))
    written = [number(row.value, digits, unit=unit, signed=True) for row in shown]
    room = widest(written) + 8
    names_end = max(text_width(row.name, mono=not row.is_rest) for row in shown) + 2
    left = names_end + 14 + (room if low < 0 else 0.0)
    heading, top = title_lines(title, left + PLOT_WIDTH + room)
    height = ROW * len(shown)
    said = [] if null is None else _said(null, digits, unit, PLOT_WIDTH + room - 18)
    canvas = Canvas(left + PLOT_WIDTH + room, top + height + 4 + (8 + 16 * len(said) if said else 0))
    canvas.title(heading, top)
    plot = canvas.plot(left, top, PLOT_WIDTH, height, x=(low, high if high > low else low + 1.0), y=(height, 0))
    if null is not None:
        _draw_control(canvas, plot, null, said, left, top + height)
    for at, (row, text) in enumerate(zip(shown, written, strict=True)):
        middle = ROW * (at + 0.5)
        canvas.text(names_end, top + middle, row.name, across="right", mono=not row.is_rest)
        hover = f"{row.name}: {text}"
        if row.low is not None and row.high is not None:
            hover += f" (95 %: {span(row.low, row.high, digits, unit=unit)})"
        _draw_bar(canvas, plot, row, middle, text, hover + (f", n = {n:,}" if n is not None else ""))
    plot.plot([0, 0], [0, height], color=LIGHT.soft, linewidth=1.0, clip_on=False)
    return canvas


def _said(null: Control, digits: int, unit: str, width: float) -> list[str]:
    return wrap(f"{null.name}: {span(null.low, null.high, digits, unit=unit)}", width)


def _draw_control(canvas: Canvas, plot: Plot, null: Control, said: list[str], left: float, foot: float) -> None:
    height = plot.get_ylim()[0]
    look = Look(fill=LIGHT.null, alpha=0.45)
    canvas.mark(tile(plot, (null.low, 0, null.high - null.low, height), look), " ".join(said))
    tile(canvas.plot(left, foot + 10, 12, 12), (0, 0, 12, 12), look)
    for line, text in enumerate(said):
        canvas.text(left + 18, foot + 16 + 16 * line, text, colour=LIGHT.soft)


def _draw_bar(canvas: Canvas, plot: Plot, row: _Row, middle: float, text: str, hover: str) -> None:
    value = row.value or 0.0
    colour = LIGHT.positive if value > 0 else LIGHT.negative
    look = Look(edge=colour, edge_width=1.0) if row.is_rest else Look(fill=colour)
    canvas.mark(tile(plot, (min(0.0, value), middle - 7, abs(value), 14), look), hover)
    if row.low is not None and row.high is not None:
        plot.plot([row.low, row.high], [middle] * 2, color=LIGHT.ink, linewidth=1.2, zorder=4, clip_on=False)
    is_left = value < 0
    plot.annotate(
        text,
        (min(row.reach) if is_left else max(row.reach), middle),
        xytext=(-6 if is_left else 6, 0),
        textcoords="offset points",
        ha="right" if is_left else "left",
        va="center_baseline",
        color=LIGHT.soft if row.value is None else LIGHT.ink,
    )
