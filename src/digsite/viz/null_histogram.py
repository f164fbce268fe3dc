"""A claim against its control: the null's values as grey bars, the claim as an amber point with its interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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
SHELF = 18.0  # from one line of words above the bars to the next


@dataclass(frozen=True, kw_only=True, eq=False)
class Contest:
    """A claim and the control it stands against.

    Attributes:
        title: What is measured, with its unit.
        null: The control's values, one for each random set, direction or seed; those that are not finite are left out
            and counted beside the control's name.
        null_name: What the control is: `200 random sets`.
        claim: The claimed number with its interval.
        unit: The unit of the values; `fraction` and `share` are written in percent.
        references: Other values to compare with: `{"whole model": 4.1}`.
        bounds: The natural ends of the scale, such as 0 and 1; from the numbers where not given.
    """

    title: str
    null: Float[np.ndarray, " draw"]
    null_name: str
    claim: Estimate
    unit: str
    references: Mapping[str, float] = field(default_factory=dict)
    bounds: tuple[float, float] | None = None

    def __post_init__(self):
        if not len(self.finite) or not np.isfinite(self.claim.value):
            asked = f"{self.title!r} needs a claim and a control to stand against"
            found = f"a claim of {self.claim.value} and {len(self.finite)} finite control values"
            raise BadInput(explain(asked, found=found, do="Run the control, and look why the value is missing"))

    @property
    def finite(self) -> Float[np.ndarray, " draw"]:
        """The control's values that are numbers."""
        return self.null[np.isfinite(self.null)]

    @property
    def null_said(self) -> str:
        """The control's name, with how many of its values are missing."""
        missing = len(self.null) - len(self.finite)
        return self.null_name + (f" ({missing} without a value)" if missing else "")

    @property
    def scale(self) -> Scale:
        """A scale on which everything lies."""
        claim = self.claim
        values = [*self.finite.tolist(), claim.low, claim.high, claim.value, *self.references.values()]
        return scale_for(values, unit=self.unit, count=5, at_least=self.bounds)


@drawing()
def null_histogram(
    contests: Sequence[Contest], *, title: str = "", n: int | None = None, caption: str = "", code: str = ""
) -> Figure:
    """Shows whether a claim stands clear of its control: grey is what chance gives, amber is what we claim.

    Args:
        contests: One claim with its control, or several, one above the other.
        title: What they show together; a single one has its own title.
        n: How many examples the claims rest on.
        caption: What to see in it.
        code: The call that made the numbers.

    Raises:
        BadInput: There is nothing to draw.
    """
    if not contests:
        raise BadInput(explain("A histogram needs at least one claim with its control", do="Give a list of `Contest`"))
    title = contests[0].title if len(contests) == 1 else title
    heading, top = title_lines(title, WIDTH)
    panels = [_Panel(contest, n, has_title=len(contests) > 1) for contest in contests]
    canvas = Canvas(WIDTH, top + sum(panel.height for panel in panels))
    canvas.title(heading, top)
    for panel in panels:
        panel.draw(canvas, top)
        top += panel.height
    frame = pl.concat([_frame(contest, n) for contest in contests])
    return Figure(title=title, caption=caption, data=frame, code=code, canvas=canvas)


@dataclass(frozen=True)
class _Words:
    """Words above the bars, from left to right, and where the line stands that they name, if they have one."""

    text: str
    colour: str
    left: float
    right: float
    line_at: float | None = None


class _Panel:
    """One contest on the sheet: where its words stand, and how high it is."""

    def __init__(self, contest: Contest, n: int | None, *, has_title: bool):
        self.contest, self.n = contest, n
        self.scale = contest.scale
        self.heading, self.title_height = title_lines(contest.title, WIDTH) if has_title else ([], 0.0)
        self.interval = _interval(contest.claim, self.scale)
        self.words = _words(contest, self.scale)
        spans = [self.interval, *((each.left, each.right) for each in self.words)]
        self.shelves = stack(spans, gap=GAP - 1)[1:]
        # Two panels side by side stand equally high, whichever shelves they need.
        shelves = max(max(self.shelves) + 1, 1 + bool(contest.references))
        self.lowest = self.title_height + SHELF * shelves - 9
        self.foot = self.lowest + 33 + BAR_HEIGHT

    @property
    def height(self) -> float:
        return self.foot + (40.0 if self.heading else 24.0)

    def draw(self, canvas: Canvas, top: float) -> None:
        for line, text in enumerate(self.heading):
            canvas.text(0, top + 8 + 16 * line, text)
        plot = canvas.plot(0, top, WIDTH, self.foot)
        _draw_bars(canvas, plot, self.contest, self.scale)
        claim, unit = self.contest.claim, self.contest.unit
        point = _draw_claim(plot, self.interval, _across(self.scale, claim.value), self.lowest)
        hover = f"{self.words[0].text} (95 %: {span(claim.low, claim.high, unit=unit)})"
        canvas.mark(point, hover + (f", n = {self.n:,}" if self.n is not None else ""))
        for each, shelf in zip(self.words, self.shelves, strict=True):
            middle = self.lowest - SHELF * shelf
            if each.line_at is not None:
                _draw_line(plot, each.line_at, middle + 8, each.colour)
            _write(plot, each.left, middle, each.text, each.colour)
        plot.plot([MARGIN, WIDTH - MARGIN], [self.foot] * 2, color=LIGHT.line, linewidth=1.2, clip_on=False)
        for step, label in zip(self.scale.steps, self.scale.labels, strict=True):
            canvas.text(_across(self.scale, step), top + self.foot + 12, label, colour=LIGHT.soft, across="center")


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


def _words(contest: Contest, scale: Scale) -> list[_Words]:
    """The claim's words beside its interval, or over it where there is no room; a reference's over its line."""
    claim, unit = contest.claim, contest.unit
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
    for name, value in contest.references.items():
        text = f"{name} {number(value, unit=unit)}"
        words.append(_Words(text, LIGHT.soft, *_centred(text, _across(scale, value)), line_at=_across(scale, value)))
    return words


def _draw_claim(plot: Plot, interval: tuple[float, float], place: float, middle: float) -> Artist:
    _draw_line(plot, place, middle, LIGHT.mark)
    plot.plot(interval, [middle] * 2, color=LIGHT.mark, linewidth=3, zorder=4, solid_capstyle="round")
    (point,) = plot.plot([place], [middle], marker="o", markersize=10, color=LIGHT.mark, zorder=5)
    return point


def _draw_line(plot: Plot, place: float, start: float, colour: str) -> None:
    foot = plot.get_ylim()[0]
    plot.plot([place] * 2, [start, foot], color=colour, linewidth=1.2, linestyle=(0, (2, 2.5)), zorder=3)


def _write(plot: Plot, left: float, middle: float, text: str, colour: str) -> None:
    """Words with the card behind them, so that a line that passes does not cross them out."""
    ground = {"facecolor": LIGHT.card, "edgecolor": "none", "pad": 1.5}
    plot.text(left, middle, text, color=colour, va="center_baseline", bbox=ground, zorder=6)


def _draw_bars(canvas: Canvas, plot: Plot, contest: Contest, scale: Scale) -> None:
    foot = plot.get_ylim()[0]
    counts, edges = np.histogram(contest.finite, bins=BINS, range=(scale.low, scale.high))
    for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
        if count:
            left, right = _across(scale, float(low)), _across(scale, float(high))
            height = BAR_HEIGHT * float(count / counts.max())
            bar = tile(plot, (left + 0.5, foot - height, right - left - 1, height), Look(fill=LIGHT.null))
            canvas.mark(bar, f"{span(float(low), float(high), unit=contest.unit)}: {count} of {contest.null_said}")
    left, _ = _centred(contest.null_said, _across(scale, float(np.median(contest.finite))))
    _write(plot, left, foot - BAR_HEIGHT - 10, contest.null_said, LIGHT.soft)


def _frame(contest: Contest, n: int | None) -> pl.DataFrame:
    claim = contest.claim
    rows = [("claim", claim.name, claim.value, claim.low, claim.high, n)]
    rows += [("reference", name, value, None, None, None) for name, value in contest.references.items()]
    rows += [("null", str(draw), float(value), None, None, None) for draw, value in enumerate(contest.null)]
    schema = {
        "kind": pl.String,
        "name": pl.String,
        "value": pl.Float64,
        "low": pl.Float64,
        "high": pl.Float64,
        "n": pl.Int64,
    }
    frame = pl.DataFrame(rows, schema=schema, orient="row").with_columns(pl.selectors.float().fill_nan(None))
    return frame.insert_column(0, pl.lit(contest.title).alias("measured"))
