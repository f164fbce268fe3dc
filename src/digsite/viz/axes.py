"""The two kinds of axis: names (layers, heads, tokens) and values with their unit; labels never touch."""

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.ticker import MaxNLocator

from digsite.viz.canvas import Canvas
from digsite.viz.labels import SIZE, text_width, widest
from digsite.viz.numbers import PERCENT, number
from digsite.viz.theme import LIGHT

LONGEST = 24
"""Characters of a tick label; the hover text and the table have the whole of it."""


@dataclass(frozen=True)
class Axis:
    """What one side of a figure counts.

    Attributes:
        name: The word for it: `layer`, `head`, `token`.
        labels: One label for each row or column.
        tokens: The labels are tokens of a prompt, shown in monospace.
        is_named: The axis' word is written once beside labels that do not say by themselves what they are.
    """

    name: str
    labels: tuple[str, ...]
    tokens: bool = False
    is_named: bool = False

    @property
    def short(self) -> list[str]:
        """The labels, each cut to what a tick can carry."""
        return [label if len(label) <= LONGEST else label[: LONGEST - 1] + "…" for label in self.labels]

    @property
    def named(self) -> list[str]:
        """The labels with the axis' word where they are bare numbers: `head 3`; not where it is written once."""
        if self.is_named:
            return self.short
        return [f"{self.name} {label}" if label.isdigit() else label for label in self.short]

    @property
    def counts(self) -> bool:
        """Whether the labels are numbers, after a first one that may be a word (`embed`, 0, 1, ...)."""
        return all(label.isdigit() for label in self.labels[1:] or self.labels)


@dataclass(frozen=True)
class Ticks:
    """How the labels along the foot of a figure are written.

    Attributes:
        shown: Which labels are written; all, or every so many where numbers would touch.
        texts: The text of each of those.
        angle: 0 upright, 45 tilted, 90 on its side.
        name: The axis' word, to be written once beside the labels; empty where each label says it.
        drop: Pixels from the axis to the foot of the longest label.
        overhang: Pixels by which the first label reaches out to the left of its own place.
        mono: Whether the labels are tokens.
    """

    shown: tuple[int, ...]
    texts: tuple[str, ...]
    angle: Literal[0, 45, 90]
    name: str
    drop: float
    overhang: float
    mono: bool


def ticks_along(axis: Axis, room: float) -> Ticks:
    """Choose how to write the labels when each has this many pixels: upright, thinned, tilted or on its side."""
    every = tuple(range(len(axis.labels)))
    measured = functools.partial(widest, mono=axis.tokens)
    if not axis.tokens and axis.named != axis.short and measured(axis.named) + 6 <= room:
        return Ticks(every, tuple(axis.named), 0, "", 18.0, measured(axis.named) / 2, mono=False)
    longest = measured(axis.short)
    # Words say by themselves what they are, unless it is said that they do not.
    name = axis.name if axis.is_named or (axis.counts and not axis.tokens) else ""
    if longest + 6 <= room:
        return Ticks(every, tuple(axis.short), 0, name, 18.0, longest / 2, axis.tokens)
    if axis.counts and not axis.tokens:
        shown = _thinned(axis, room)
        texts = tuple(axis.short[index] for index in shown)
        return Ticks(shown, texts, 0, name, 18.0, text_width(texts[0]) / 2, mono=False)
    if room >= 17:
        return Ticks(every, tuple(axis.short), 45, name, 0.7071 * (longest + SIZE) + 8, 0.7071 * longest, axis.tokens)
    return Ticks(every, tuple(axis.short), 90, name, longest + 12, SIZE / 2, axis.tokens)


def _thinned(axis: Axis, room: float) -> tuple[int, ...]:
    """The first label, and of the numbers every second, fifth, tenth ... so that none touch."""
    widths = [text_width(label) for label in axis.short]
    numbers = [index for index, label in enumerate(axis.labels) if label.isdigit()]
    most = max(widths[index] for index in numbers)
    step = next(step for step in (2, 4, 5, 8, 10, 16, 20, 32, 50, 100, 10**9) if step * room >= most + 6)
    shown = [0]
    for index in numbers:
        is_round = int(axis.labels[index]) % step == 0
        if is_round and (index - shown[-1]) * room >= (widths[index] + widths[shown[-1]]) / 2 + 6:
            shown.append(index)
    return tuple(shown)


def write_ticks(canvas: Canvas, ticks: Ticks, places: Sequence[float], foot: float) -> None:
    """Write the labels under an axis.

    Args:
        canvas: The sheet.
        ticks: How they are written.
        places: The middle of every label's column, shown or not, in pixels.
        foot: Where the axis is, in pixels from the top.
    """
    down = {0: 11, 45: 8, 90: 6}[ticks.angle]
    across = "center" if ticks.angle == 0 else "right"
    for index, label in zip(ticks.shown, ticks.texts, strict=True):
        where = (places[index], foot + down)
        canvas.text(*where, label, colour=LIGHT.soft, across=across, angle=ticks.angle, mono=ticks.mono)


@dataclass(frozen=True)
class Scale:
    """A line of values with round steps.

    Attributes:
        low: Where it begins.
        high: Where it ends.
        steps: The values that are written.
        labels: What is written at each.
    """

    low: float
    high: float
    steps: tuple[float, ...]
    labels: tuple[str, ...]

    def place(self, value: float, start: float, length: float) -> float:
        """Where a value lies on a line of this many pixels."""
        return start + length * (value - self.low) / (self.high - self.low)


def scale_for(
    values: Iterable[float], *, unit: str, count: int = 4, at_least: tuple[float, float] | None = None
) -> Scale:
    """A scale over these values, with about `count` round steps.

    Args:
        values: What has to lie on it; those that are not finite are left out.
        unit: `fraction` and `share` are written in percent.
        count: About how many steps.
        at_least: The natural ends, such as 0 and 1; kept exactly unless a value lies beyond.
    """
    finite = [value for value in values if math.isfinite(value)]
    natural = () if at_least is None else at_least
    low, high = min((*finite, *natural), default=0.0), max((*finite, *natural), default=1.0)
    if high - low <= max(1e-12, 1e-9 * max(abs(low), abs(high))):
        low, high = low - 0.5, high + 0.5
    steps = [float(step) for step in MaxNLocator(count, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)]
    if (low, high) != at_least:
        low, high = min(low, steps[0]), max(high, steps[-1])
    slack = 1e-9 * (high - low)
    steps = [0.0 if abs(step) < slack else step for step in steps if low - slack <= step <= high + slack]
    fewest = 2 if unit in PERCENT else 0
    digits = next(digits for digits in range(fewest, 16) if all(abs(round(s, digits) - s) <= slack for s in steps))
    return Scale(low, high, tuple(steps), tuple(number(step, digits, unit=unit) for step in steps))
