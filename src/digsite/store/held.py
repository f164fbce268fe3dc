"""`Held`: activations that are in memory, as a source of rows."""

import hashlib
from collections.abc import Iterator, Mapping
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor

from digsite.store.rows import Rows, Statistics
from digsite.store.sums import Sums

_CHUNK = 4096


class Held:
    """Activations that are in memory, as a source of rows.

    Attributes:
        held: All rows.
    """

    def __init__(self, columns: Mapping[str, Tensor], *, ids: Int[Tensor, " row"] | None = None):
        """Takes the activations.

        Args:
            columns: Rows [row, width] by column.
            ids: The token of each row, where there is one.
        """
        count = len(next(iter(columns.values())))
        self.held = Rows({name: x.detach() for name, x in columns.items()}, ids, torch.arange(count))

    @property
    def widths(self) -> Mapping[str, int]:
        """The columns, with how many numbers a row of each has."""
        return {name: x.shape[1] for name, x in self.held.items()}

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self.held.count

    @property
    def identity(self) -> Mapping[str, str]:
        """A fingerprint of each column's numbers."""
        return self._fingerprints

    @cached_property
    def _fingerprints(self) -> Mapping[str, str]:
        raw = {name: x.contiguous().cpu().view(torch.uint8).numpy() for name, x in self.held.items()}
        return {name: hashlib.sha256(x.tobytes()).hexdigest()[:16] for name, x in raw.items()}

    def chunks(self, start: int = 0) -> Iterator[Rows]:
        """The rows in order from number `start` on."""
        for first in range(start, self.rows, _CHUNK):
            yield self.held.take(slice(first, first + _CHUNK))

    def rows_at(self, numbers: Int[Tensor, " chosen"]) -> Rows:
        """The rows of these numbers, in the order given."""
        return self.held.take(numbers)

    def statistics(self, column: str) -> Statistics:
        """Mean, square and norm of a column."""
        return Sums.of(self.held[column]).statistics()
