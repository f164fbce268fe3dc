"""A source that holds its rows, and a dictionary that is none: what the tests of the store read and write with."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from digsite.store import Latents, Rows, Statistics
from digsite.store.sums import Sums


@dataclass
class Held:
    columns: Mapping[str, Tensor]
    ids: Tensor | None = None
    chunk: int = 7
    about: dict[str, str] = field(default_factory=lambda: {"model": "none", "tokens": "t", "bos": "none"})
    given: int = 0

    @property
    def widths(self) -> Mapping[str, int]:
        return {name: x.shape[1] for name, x in self.columns.items()}

    @property
    def rows(self) -> int:
        return len(next(iter(self.columns.values())))

    @property
    def identity(self) -> Mapping[str, str]:
        return self.about

    def chunks(self, start: int = 0) -> Iterator[Rows]:
        for begin in range(start, self.rows, self.chunk):
            rows = self.rows_at(torch.arange(begin, min(begin + self.chunk, self.rows)))
            self.given += rows.count
            yield rows

    def rows_at(self, numbers: Tensor) -> Rows:
        columns = {name: x[numbers] for name, x in self.columns.items()}
        places = torch.stack([numbers // 5, numbers % 5], 1)
        return Rows(columns, None if self.ids is None else self.ids[numbers], numbers, places)

    def statistics(self, column: str) -> Statistics:
        return Sums.of(self.columns[column]).statistics()


def held(rows: int = 50, *, seed: int = 0, **widths: int) -> Held:
    rng = torch.Generator().manual_seed(seed)
    columns = {name: torch.randn(rows, width, generator=rng) for name, width in (widths or {"a": 6, "b": 4}).items()}
    return Held(columns, torch.randint(0, 90, (rows,), generator=rng))


@dataclass
class Largest:
    """The positive coordinates of a column, as latents."""

    column: str
    width: int
    fingerprint: str = "largest"

    @property
    def reads(self) -> list[str]:
        return [self.column]

    def encode(self, rows: Rows) -> list[Latents]:
        x = rows[self.column]
        spread = torch.zeros(len(x), self.width).index_copy_(1, torch.arange(x.shape[1]) * 7 % self.width, x.float())
        return [Latents.of(spread.relu())]
