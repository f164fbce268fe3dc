"""Where labels go, so that none lies on another at any amount of data."""

import functools
import unicodedata
from collections.abc import Sequence

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

SIZE = 11.0
"""Points of a label; one point is one CSS pixel on a page."""


@functools.lru_cache(maxsize=65536)
def text_width(text: str, size: float = SIZE, *, mono: bool = False) -> float:
    """How wide a text is in pixels, measured with the fonts that ship with matplotlib.

    Those fonts are wider than the system fonts a browser uses, so that what fits here fits there. They have no
    East Asian letters and no emoji; each of those is as wide as it is high.
    """
    narrow = "".join(letter for letter in text if unicodedata.east_asian_width(letter) not in "WF")
    font = FontProperties(family="DejaVu Sans Mono" if mono else "DejaVu Sans", size=size)
    return text_to_path.get_text_width_height_descent(narrow, font, ismath=False)[0] + size * (len(text) - len(narrow))


def widest(texts: Sequence[str], size: float = SIZE, *, mono: bool = False) -> float:
    """The width of the widest text, 0 when there is none."""
    return max((text_width(text, size, mono=mono) for text in texts), default=0.0)


def wrap(text: str, width: float, size: float = SIZE) -> list[str]:
    """Break a text at spaces into lines of at most this many pixels (a longer word stays whole)."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move positions as little as needed so that neighbours are `gap` apart and all lie in [low, high].

    Returns:
        One position for each wanted one, in the same order. If they cannot all fit, the gaps shrink evenly.
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    gap = min(gap, (high - low) / max(1, len(order) - 1))
    placed = [0.0] * len(wanted)
    floor = low
    for index in order:
        placed[index] = floor = max(floor, wanted[index])
        floor += gap
    ceiling = high
    for index in reversed(order):
        placed[index] = ceiling = min(ceiling, placed[index])
        ceiling -= gap
    return placed


def stack(spans: Sequence[tuple[float, float]], gap: float = 8.0) -> list[int]:
    """Give each horizontal span the lowest shelf on which it touches no other.

    Returns:
        The shelf of each span, 0 first.
    """
    shelves: list[list[tuple[float, float]]] = []
    chosen = []
    for left, right in spans:
        free = (
            number
            for number, shelf in enumerate(shelves)
            if all(right + gap <= start or left - gap >= end for start, end in shelf)
        )
        shelf = next(free, len(shelves))
        if shelf == len(shelves):
            shelves.append([])
        shelves[shelf].append((left, right))
        chosen.append(shelf)
    return chosen
