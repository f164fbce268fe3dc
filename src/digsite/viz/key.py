"""The key of a map: its colour scale with the range written, the control's range in grey, and what the signs mean."""

from dataclasses import dataclass

from digsite.viz.canvas import Canvas, Look, tile
from digsite.viz.estimate import Control
from digsite.viz.labels import text_width, wrap
from digsite.viz.numbers import NO_VALUE, digits_for, number, span
from digsite.viz.theme import LIGHT

WIDTH, SCALE_HEIGHT, LINE = 160.0, 96.0, 15.0
STEPS = 24  # of each half of the scale
HATCH = "//////"


@dataclass(frozen=True, kw_only=True)
class Key:
    """What stands beside a map.

    Attributes:
        limit: The value at the ends of the scale; 0 when every cell is zero or has no value.
        unit: The unit of the values.
        null: The control's range.
        outline_name: What the outlined cells are; empty when there are none.
        has_gaps: Some cells have no value.
        strongest: Names and values listed here because the cells are too small for a number.
    """

    limit: float
    unit: str
    null: Control | None
    outline_name: str
    has_gaps: bool
    strongest: tuple[tuple[str, str], ...] = ()

    @property
    def width(self) -> float:
        """Pixels from the left of the scale to the end of the longest line."""
        listed = (text_width(name, 10.0, mono=True) + text_width(value) + 12 for name, value in self.strongest)
        return max(WIDTH, 26 + text_width(self.outline_name), *listed)

    @property
    def height(self) -> float:
        """Pixels from the top of the scale to the foot of the last line."""
        notes = len(self.null_lines) + bool(self.outline_name) + self.has_gaps
        return SCALE_HEIGHT + 12 + (LINE + 4) * notes + (LINE + 1) * len(self.strongest)

    @property
    def null_lines(self) -> list[str]:
        """What is said about the control, broken to the width of the key."""
        if self.null is None:
            return []
        said = span(self.null.low, self.null.high, digits_for(self.limit), unit=self.unit)
        return wrap(f"{self.null.name}: {said}", WIDTH - 24)


def draw_key(canvas: Canvas, key: Key, left: float, top: float) -> None:
    """Draw the key with the scale's top left corner here."""
    half = key.limit if key.limit > 0 else 1.0
    scale = canvas.plot(left, top, 12, SCALE_HEIGHT, x=(0, 12), y=(-half, half))
    for step in range(STEPS):  # each lies over the ones before it, so that no seam shows between neighbours
        start, added = half * step / STEPS, 1 / (STEPS - step + 0.5)
        tile(scale, (0, start, 12, half - start), Look(fill=LIGHT.positive, alpha=added))
        tile(scale, (0, -half, 12, half - start), Look(fill=LIGHT.negative, alpha=added))
    tile(scale, (0, -half, 12, 2 * half), Look(edge=LIGHT.line, edge_width=0.8))
    canvas.text(left + 24, top + SCALE_HEIGHT / 2, "0", colour=LIGHT.soft)
    if key.limit > 0:
        for sign, place in ((1, 5), (-1, SCALE_HEIGHT - 5)):
            end = number(sign * key.limit, digits_for(key.limit), unit=key.unit, signed=True)
            canvas.text(left + 24, top + place, end, colour=LIGHT.soft)
    below = top + SCALE_HEIGHT + 18
    if key.null is not None:
        low, high = (min(half, max(-half, end)) for end in (key.null.low, key.null.high))
        bar = tile(scale, (15, low, 4, max(high - low, 0.03 * half)), Look(fill=LIGHT.null))
        canvas.mark(bar, " ".join(key.null_lines))
        tile(canvas.plot(left, below - 6, 12, 12), (4, 0, 4, 12), Look(fill=LIGHT.null))
        for line in key.null_lines:
            canvas.text(left + 24, below, line, colour=LIGHT.soft)
            below += LINE
        below += 4
    signs = [
        (key.outline_name, Look(edge=LIGHT.mark, edge_width=1.8, rounding=2)),
        (NO_VALUE if key.has_gaps else "", Look(edge=LIGHT.null, hatch=HATCH, rounding=2)),
    ]
    for name, look in signs:
        if name:
            tile(canvas.plot(left, below - 6, 12, 12), (0, 0, 12, 12), look)
            canvas.text(left + 24, below, name, colour=LIGHT.soft)
            below += LINE + 4
    for name, value in key.strongest:
        canvas.text(left, below, name, colour=LIGHT.soft, size=10.0, mono=True)
        canvas.text(left + key.width, below, value, across="right")
        below += LINE + 1
