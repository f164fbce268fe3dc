"""A map of layers by heads, positions or tokens: where something is, and how surely.

1. Positive is vermilion, negative is blue, zero is the paper; the scale is centred on zero and its range is written.
   It ends at the largest value, unless the values have natural ends.
2. A cell without a value is hatched and says so; it is never drawn as zero.
3. The strongest cells (or those a claim names) are outlined in amber and carry their number. In a
   matrix that is read cell by cell all carry theirs.
4. The range of the control stands in grey beside the colour scale.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import polars as pl
from jaxtyping import Bool, Float
from matplotlib.axes import Axes as Plot

from digsite._core.errors import ShapeMismatch, explain
from digsite.viz.axes import Axis, Ticks, ticks_along, write_ticks
from digsite.viz.canvas import Canvas, Look, drawing, tile, title_lines
from digsite.viz.estimate import Control
from digsite.viz.figure import Figure
from digsite.viz.key import HATCH, Key, draw_key
from digsite.viz.labels import text_width, widest
from digsite.viz.numbers import digits_for, number, span
from digsite.viz.theme import DARK, LIGHT, blend, text_on

GRID_WIDTH, GRID_HEIGHT = 600.0, 520.0  # what the cells share out among themselves


@dataclass(frozen=True)
class _Map:
    """What is drawn, and where: the cells' values and their place on the sheet."""

    values: Float[np.ndarray, "row column"]
    outlined: Bool[np.ndarray, "row column"]
    names: Sequence[Sequence[str]]
    unit: str
    limit: float
    left: float
    top: float
    cell_width: float
    cell_height: float
    ticks: Ticks
    numbers: Literal["outlined", "all"] = "outlined"

    @property
    def width(self) -> float:
        return self.cell_width * self.values.shape[1]

    @property
    def height(self) -> float:
        return self.cell_height * self.values.shape[0]

    @property
    def key_left(self) -> float:
        """Where the colour scale begins, to the right of the cells."""
        return self.left + self.width + 26

    def say(self, value: float) -> str:
        """A value with its sign and with the decimals that this map's range deserves."""
        return number(value, digits_for(self.limit), unit=self.unit, signed=True)

    @property
    def has_numbers(self) -> bool:
        """Whether a cell has room for its number."""
        return self.cell_height >= 15 and self.cell_width >= text_width(self.say(-self.limit)) + 4


@drawing()
def heatmap(
    values: Float[np.ndarray, "row column"],
    *,
    title: str,
    rows: Axis,
    columns: Axis,
    unit: str,
    low: Float[np.ndarray, "row column"] | None = None,
    high: Float[np.ndarray, "row column"] | None = None,
    n: int | None = None,
    names: Sequence[Sequence[str]] | None = None,
    outlined: Bool[np.ndarray, "row column"] | None = None,
    outline_name: str = "strongest",
    null: Control | None = None,
    limit: float = 0.0,
    numbers: Literal["outlined", "all"] = "outlined",
    caption: str = "",
    code: str = "",
) -> Figure:
    """Shows where an effect sits: one coloured cell for each layer and head (or position), layer 0 at the foot.

    Args:
        values: The effects, the lowest layer first; NaN is drawn as "no value".
        title: What the colour means, with its unit.
        rows: The layers.
        columns: The heads, positions or tokens.
        unit: The unit of the values; `fraction` and `share` are written in percent.
        low: Lower ends of the 95 % intervals.
        high: Upper ends of the 95 % intervals.
        n: How many examples each value is the mean of.
        names: What each cell is called on hover and in the table (a site); row and column where not given.
        outlined: The cells to outline and to number; where not given, at most twelve of at
            least half the range whose interval leaves out zero.
        outline_name: What the outlined cells are.
        null: The range in which the control's values lie, drawn beside the colour scale.
        limit: The natural end of the scale, such as 1; larger values reach beyond it.
        numbers: Which cells carry their number, where they have room for it.
        caption: What to see in it.
        code: The call that made the numbers.

    Raises:
        ShapeMismatch: Labels, names, intervals or outlines do not fit the values; all of them are named.

    Caveats:
        Without a natural end the scale ends at the largest value of this map: colours of two maps compare only where
        their ranges agree.
    """
    _check(values, rows, columns, names, {"low": low, "high": high, "outlined": outlined})
    limit = float(np.max(np.abs(values), initial=limit, where=np.isfinite(values)))
    if outlined is None:
        outlined = _strongest(values, limit, low, high)
    frame = _frame(values, rows, columns, names, low, high, n)
    if names is None:
        names = [[f"{row}, {column}" for column in _full_names(columns)] for row in _full_names(rows)]
    shown = _lay_out(values, outlined, names, unit, limit, rows, columns)
    key = _key(shown, outline_name, null)
    heading, top = title_lines(title, shown.key_left + key.width)
    shown = replace(shown, top=shown.top + top, numbers=numbers)
    grid_foot = shown.top + shown.height + shown.ticks.drop
    canvas = Canvas(shown.key_left + key.width, max(grid_foot, shown.top + key.height) + 4)
    canvas.title(heading, top)
    _draw_cells(canvas, shown, [_hover(shown, at, low, high, n) for at in np.ndindex(*values.shape)])
    _draw_ticks(canvas, shown, rows)
    draw_key(canvas, key, shown.key_left, shown.top + 2)
    return Figure(title=title, caption=caption, data=frame, code=code, canvas=canvas)


def _check(
    values: np.ndarray,
    rows: Axis,
    columns: Axis,
    names: Sequence[Sequence[str]] | None,
    arrays: Mapping[str, np.ndarray | None],
) -> None:
    height, width = values.shape
    wrong = [f"{name} of shape {other.shape}" for name, other in arrays.items() if other is not None]
    wrong = [text for text in wrong if not text.endswith(f"shape {values.shape}")]
    if (len(rows.labels), len(columns.labels)) != values.shape:
        wrong.append(f"{len(rows.labels)} row labels and {len(columns.labels)} column labels")
    if names is not None and [len(row) for row in names] != [width] * height:
        wrong.append(f"names in {len(names)} rows of {sorted({len(row) for row in names})}")
    if wrong:
        asked = f"A map of {height} rows and {width} columns needs labels, intervals, names and outlines of that shape"
        raise ShapeMismatch(explain(asked, found=", ".join(wrong), do="Give every array one entry for each cell"))


def _full_names(axis: Axis) -> list[str]:
    if axis.tokens:
        return [f"position {index} {label}" for index, label in enumerate(axis.labels)]
    return [f"{axis.name} {label}" if label.isdigit() else label for label in axis.labels]


def _strongest(values: np.ndarray, limit: float, low: np.ndarray | None, high: np.ndarray | None) -> np.ndarray:
    """At most twelve cells of at least half the range whose interval, where known, leaves out zero."""
    strength = np.where(np.isfinite(values), np.abs(values), 0.0)
    if low is not None and high is not None:
        strength = np.where((low > 0) | (high < 0), strength, 0.0)
    chosen = np.zeros(values.shape, dtype=bool)
    chosen.flat[np.argsort(-strength, axis=None, kind="stable")[:12]] = True
    return chosen & (strength >= 0.5 * limit) & (strength > 0)


def _frame(
    values: np.ndarray,
    rows: Axis,
    columns: Axis,
    names: Sequence[Sequence[str]] | None,
    low: np.ndarray | None,
    high: np.ndarray | None,
    n: int | None,
) -> pl.DataFrame:
    height, width = values.shape
    table: dict[str, object] = {} if names is None else {"name": [name for row in names for name in row]}
    table[rows.name] = [label for label in rows.labels for _ in range(width)]
    if columns.tokens:
        table["pos"] = list(range(width)) * height
    table |= {columns.name: list(columns.labels) * height, "value": values.ravel().astype(float)}
    table |= {key: end.ravel().astype(float) for key, end in (("low", low), ("high", high)) if end is not None}
    if n is not None:
        table["n"] = [n] * values.size
    return pl.DataFrame(table).with_columns(pl.selectors.float().fill_nan(None))


def _hover(shown: _Map, at: tuple[int, ...], low: np.ndarray | None, high: np.ndarray | None, n: int | None) -> str:
    row, column = at
    text = f"{shown.names[row][column]}: {shown.say(float(shown.values[at]))}"
    if low is not None and high is not None and math.isfinite(shown.values[at]):
        text += f" (95 %: {span(float(low[at]), float(high[at]), digits_for(shown.limit), unit=shown.unit)})"
    return text + (f", n = {n:,}" if n is not None else "")


def _lay_out(
    values: np.ndarray,
    outlined: np.ndarray,
    names: Sequence[Sequence[str]],
    unit: str,
    limit: float,
    rows: Axis,
    columns: Axis,
) -> _Map:
    height, width = values.shape
    cell_width = float(np.clip(GRID_WIDTH // max(width, 1), 15, 52))
    cell_height = float(np.clip(GRID_HEIGHT // max(height, 1), 15, 36))
    ticks = ticks_along(columns, cell_width)
    labels = rows.named if height <= 12 else rows.short
    words = widest([*labels, rows.name, ticks.name], mono=rows.tokens)
    left = float(math.ceil(max(words + 10, ticks.overhang - cell_width / 2 + 2)))
    room_for_name = 16.0 if rows.is_named or labels != rows.named else 0.0
    return _Map(values, outlined, names, unit, limit, left, room_for_name, cell_width, cell_height, ticks)


def _strength(value: float, limit: float) -> float:
    """How opaque a cell is: 0 at zero, 1 at the end of the scale."""
    return min(1.0, abs(value) / limit) if limit > 0 else 0.0


def _draw_cells(canvas: Canvas, shown: _Map, hover: list[str]) -> None:
    plot = canvas.plot(shown.left, shown.top, shown.width, shown.height)
    height, width = shown.values.shape
    is_small = min(shown.cell_width, shown.cell_height) < 24
    gap, rounding, border = (1.0, 0.0, 0.0) if is_small else (2.0, 3.0, 0.8)
    if is_small:  # one frame in place of a border around each
        tile(plot, (-0.5, -0.5, shown.width + 1, shown.height + 1), Look(edge=LIGHT.line, edge_width=0.8))
    for at, text in enumerate(hover):
        row, column = divmod(at, width)
        value = float(shown.values[row, column])
        left = column * shown.cell_width + gap / 2
        top = (height - 1 - row) * shown.cell_height + gap / 2
        place = (left, top, shown.cell_width - gap, shown.cell_height - gap)
        is_outlined, has_value = bool(shown.outlined[row, column]), math.isfinite(value)
        look = Look(edge=LIGHT.null, hatch=HATCH, rounding=rounding)
        if has_value:
            colour = LIGHT.positive if value > 0 else LIGHT.negative
            alpha = _strength(value, shown.limit)
            look = Look(fill=colour, alpha=alpha, edge=LIGHT.line, edge_width=border, rounding=rounding)
        canvas.mark(tile(plot, place, look), text)
        if is_outlined:
            tile(plot, place, Look(edge=LIGHT.mark, edge_width=1.8, rounding=rounding)).set_zorder(2)
        if (is_outlined or shown.numbers == "all") and has_value and shown.has_numbers:
            _draw_number(canvas, plot, place, value, shown)


def _draw_number(
    canvas: Canvas, plot: Plot, place: tuple[float, float, float, float], value: float, shown: _Map
) -> None:
    left, top, width, height = place
    alpha = _strength(value, shown.limit)
    side = "positive" if value > 0 else "negative"
    light, dark = (text_on(blend(getattr(p, side), p.card, alpha), p) for p in (LIGHT, DARK))
    middle = (left + width / 2, top + height / 2)
    written = plot.text(*middle, shown.say(value), color=light, ha="center", va="center_baseline", zorder=3)
    canvas.recolour(written, dark)


def _draw_ticks(canvas: Canvas, shown: _Map, rows: Axis) -> None:
    height = shown.values.shape[0]
    labels = rows.named if height <= 12 else rows.short
    for row, label in enumerate(labels):
        middle = shown.top + (height - row - 0.5) * shown.cell_height
        canvas.text(shown.left - 8, middle, label, colour=LIGHT.soft, across="right", mono=rows.tokens)
    if rows.is_named or labels != rows.named:
        canvas.text(shown.left - 8, shown.top - 9, rows.name, colour=LIGHT.soft, across="right")
    foot = shown.top + shown.height
    columns = range(shown.values.shape[1])
    write_ticks(canvas, shown.ticks, [shown.left + (at + 0.5) * shown.cell_width for at in columns], foot)
    if shown.ticks.name:
        canvas.text(shown.left - 8, foot + 11, shown.ticks.name, colour=LIGHT.soft, across="right")


def _key(shown: _Map, outline_name: str, null: Control | None) -> Key:
    strongest: list[tuple[str, str]] = []
    if not shown.has_numbers:
        order = np.argsort(-np.nan_to_num(np.abs(shown.values)), axis=None, kind="stable")
        places = [divmod(int(at), shown.values.shape[1]) for at in order if shown.outlined.flat[at]]
        strongest = [(shown.names[row][column], shown.say(float(shown.values[row, column]))) for row, column in places]
    return Key(
        limit=shown.limit,
        unit=shown.unit,
        null=null,
        outline_name=outline_name if shown.outlined.any() else "",
        has_gaps=not np.isfinite(shown.values).all(),
        strongest=tuple(strongest[:8]),
    )
