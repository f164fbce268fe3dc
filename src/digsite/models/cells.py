"""Which cells of a [row, position, ...] tensor an edit concerns, in a pass that may start in the middle of a row."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from digsite.models.tokens import Positions, Tokens


class Cells(NamedTuple):
    """Some cells of a tensor whose first axes are row and position.

    Attributes:
        rows: Row of each cell.
        columns: Column of each cell, counted from where the pass starts.
        grid: (rows, cells in a row) where every row has equally many; else None, and the cells stay in one line.
        one: A single position was asked for, so that the position axis is dropped.
    """

    rows: Int[Tensor, " place"]
    columns: Int[Tensor, " place"]
    grid: tuple[int, int] | None
    one: bool

    def take(self, x: Tensor) -> Tensor:
        """The values of the cells: [row, k, ...], or [row, ...] at one position."""
        part = x[self.rows.to(x.device), self.columns.to(x.device)]
        if self.grid is None:
            return part
        return part.unflatten(0, self.grid).squeeze(1) if self.one else part.unflatten(0, self.grid)

    def put(self, x: Tensor, values: Tensor) -> Tensor:
        """A new tensor with other values in the cells."""
        x = x.clone()
        x[self.rows.to(x.device), self.columns.to(x.device)] = values.reshape(len(self.rows), *x.shape[2:])
        return x


def select(tokens: Tokens, at: Positions, rows: Sequence[int] | None, *, past: int, width: int) -> Cells:
    """The cells of positions `at` that lie in this pass.

    Args:
        tokens: The rows as they were given (without what was generated since).
        at: Absolute positions among a row's real tokens; open ones (None, a slice without an end) go on into what is
            generated.
        rows: Only these rows.
        past: Columns that earlier passes have handled.
        width: Columns of this pass.
    """
    places = tokens.places(at)
    where, columns = places.rows, places.columns
    if at is None or (isinstance(at, slice) and at.stop is None and at.step in (None, 1)):
        later = torch.arange(max(tokens.ids.shape[1], past), past + width)
        where = torch.cat((where, torch.arange(len(tokens)).repeat_interleave(len(later))))
        columns = torch.cat((columns, later.repeat(len(tokens))))
        order = where.argsort(stable=True)
        where, columns = where[order], columns[order]
    inside = (columns >= past) & (columns < past + width)
    if rows is not None:
        inside &= torch.isin(where, torch.tensor(rows))
    where, columns = where[inside], columns[inside] - past
    counts = where.bincount(minlength=len(tokens))
    counts = counts[counts > 0].unique()
    grid = (len(where) // int(counts), int(counts)) if len(counts) == 1 else None
    one = isinstance(at, int) or (isinstance(at, Tensor) and at.ndim < 2)
    return Cells(where, columns, grid, one and grid is not None and grid[1] == 1)
