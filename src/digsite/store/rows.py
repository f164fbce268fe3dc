"""`Rows`: activations of some tokens at some places, aligned row by row; and `Source`, whatever gives them in order."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from digsite._core.errors import BadInput, ShapeMismatch, explain


@dataclass(frozen=True, eq=False)
class Rows(Mapping[str, Tensor]):
    """Activations of some tokens: `rows["layers.3.resid_post"]` is [row, width]; row i is one token in all columns.

    Attributes:
        columns: The tensor of each column. A column is named by its site; where several models are read side by side,
            by model and site: `tuned:layers.3.resid_post`. Heads lie side by side: `attn.z` has width head × d_head.
        ids: The token of each row; None where activations are of no text.
        numbers: The row's number in its source; None where it has none.
        places: Where each row's token stands: the number of its sequence in the corpus, and its position there.
    """

    columns: Mapping[str, Float[Tensor, "row _"]]
    ids: Int[Tensor, " row"] | None = None
    numbers: Int[Tensor, " row"] | None = None
    places: Int[Tensor, "row 2"] | None = None

    def __post_init__(self):
        if not self.columns:
            raise BadInput(explain("Rows have at least one column"))
        lengths = {name: len(x) for name, x in self.columns.items()}
        if len(set(lengths.values())) > 1:
            raise ShapeMismatch(explain("Columns have as many rows each", found=str(lengths)))

    def __getitem__(self, column: str) -> Tensor:
        if column not in self.columns:
            raise BadInput(explain(f"There is no column {column}", possible=list(self.columns), near=column))
        return self.columns[column]

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        """Columns; `count` is the number of rows."""
        return len(self.columns)

    @property
    def count(self) -> int:
        """How many rows."""
        return len(next(iter(self.columns.values())))

    def take(self, rows: slice | Int[Tensor, " chosen"]) -> "Rows":
        """Some of the rows, in the order given."""
        some = {name: x[rows] for name, x in self.columns.items()}
        return Rows(some, *(None if x is None else x[rows] for x in (self.ids, self.numbers, self.places)))

    def to(self, device: str | torch.device, dtype: torch.dtype | None = None) -> "Rows":
        """The same rows on another device, activations in another dtype."""
        moved = {name: x.to(device, dtype) for name, x in self.columns.items()}
        return Rows(moved, *(None if x is None else x.to(device) for x in (self.ids, self.numbers, self.places)))

    @staticmethod
    def join(parts: Iterable["Rows"]) -> "Rows":
        """Rows of several, one after the other.

        Raises:
            BadInput: There is nothing to join.
        """
        parts = list(parts)
        if not parts:
            raise BadInput(explain("There are no rows to join"))
        columns = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        rest = zip(*((part.ids, part.numbers, part.places) for part in parts), strict=True)
        return Rows(columns, *(None if any(x is None for x in each) else torch.cat(each) for each in rest))  # pyright: ignore[reportArgumentType, reportCallIssue]


@dataclass(frozen=True, eq=False)
class Statistics:
    """What is known of a column over all its rows.

    Attributes:
        rows: How many.
        mean: Of each coordinate.
        square: Mean square of each coordinate.
        norm: Mean length of a row.
        largest: The largest absolute value.
    """

    rows: int
    mean: Float[Tensor, " width"]
    square: Float[Tensor, " width"]
    norm: float
    largest: float

    @property
    def variance(self) -> float:
        """Mean squared distance of a row from the mean: what a reconstruction has to explain."""
        return float((self.square - self.mean**2).clamp_min(0).sum())

    @property
    def rms(self) -> float:
        """Root of the mean squared length of a row."""
        return float(self.square.sum().sqrt())


@runtime_checkable
class Source(Protocol):
    """Whatever gives activations in a fixed order: a model that reads text, or a store on disk.

    Reading it twice gives the same rows, bit for bit. A source may say in `shards` where its rows can be read from in
    any order, as (start, stop); where it does not, they come in their own order.
    """

    @property
    def widths(self) -> Mapping[str, int]:
        """The columns, with how many numbers a row of each has."""
        ...

    @property
    def rows(self) -> int:
        """How many rows there are."""
        ...

    @property
    def identity(self) -> Mapping[str, str]:
        """What distinguishes it from others: model, weights, tokens, columns … , by name, for comparison and record."""
        ...

    def chunks(self, start: int = 0) -> Iterator[Rows]:
        """The rows in order from number `start` on, some at a time."""
        ...

    def rows_at(self, numbers: Int[Tensor, " chosen"]) -> Rows:
        """The rows of these numbers, in the order given; the same bits as `chunks` gives."""
        ...

    def statistics(self, column: str) -> Statistics:
        """Mean, square and norm of a column: over all rows of a store, over a first part of a model's."""
        ...
