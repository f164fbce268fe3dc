"""Sentences with named gaps: the frames that all task families, and the built-in model's world, are made of."""

import re
from collections.abc import Mapping
from typing import NamedTuple


class Filled(NamedTuple):
    """A frame whose gaps are words now, and where each of them landed."""

    text: str
    spans: dict[str, tuple[int, int]]


class Frame:
    """A sentence with gaps, such as `Frame("{A} met {B} at the {place}")`.

    Args:
        text: The sentence; a gap is a name in curly brackets.
    """

    def __init__(self, text: str):
        self.text = text
        pieces = re.split(r"\{(\w+)\}", text)
        self._fixed, self.gaps = pieces[0::2], tuple(pieces[1::2])

    def __repr__(self) -> str:
        return f"Frame({self.text!r})"

    def fill(self, words: Mapping[str, str]) -> Filled:
        """The sentence with these words in its gaps; words for other gaps are ignored."""
        text, spans = self._fixed[0], {}
        for gap, after in zip(self.gaps, self._fixed[1:], strict=True):
            start = len(text)
            text += words[gap]
            spans[gap] = (start, len(text))
            text += after
        return Filled(text, spans)


def frames(*texts: str) -> tuple[Frame, ...]:
    """Several frames at once."""
    return tuple(Frame(text) for text in texts)
