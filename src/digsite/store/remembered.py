"""`Remembered`: a source that is read once, and then gives its rows from memory; for several epochs of little text."""

from collections.abc import Iterator, Mapping
from functools import cached_property

from jaxtyping import Int
from torch import Tensor

from digsite._core.progress import track
from digsite.store.rows import Rows, Source, Statistics

_CHUNK = 4096


class Remembered:
    """A source whose rows are kept in memory when they were read the first time.

    Attributes:
        source: Where they come from.
    """

    def __init__(self, source: Source):
        self.source = source

    @property
    def widths(self) -> Mapping[str, int]:
        """The columns, with how many numbers a row of each has."""
        return self.source.widths

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self.source.rows

    @property
    def identity(self) -> Mapping[str, str]:
        """That of the source."""
        return self.source.identity

    @cached_property
    def held(self) -> Rows:
        """All rows; the first time they are read."""
        return Rows.join(list(track(self.source.chunks(), "reading activations")))

    def chunks(self, start: int = 0) -> Iterator[Rows]:
        """The rows in order from number `start` on."""
        for first in range(start, self.rows, _CHUNK):
            yield self.held.take(slice(first, first + _CHUNK))

    def rows_at(self, numbers: Int[Tensor, " chosen"]) -> Rows:
        """The rows of these numbers, in the order given."""
        return self.held.take(numbers)

    def statistics(self, column: str) -> Statistics:
        """That of the source, bit for bit."""
        return self.source.statistics(column)

    def __repr__(self) -> str:
        return f"{self.source!r}, kept in memory"
