"""Sums over rows from which means, principal components and linear maps follow; in double precision."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

PENALTIES = 10.0 ** torch.arange(-8, 3, dtype=torch.float64)
"""Ridge penalties that are tried, in units of the mean variance of a coordinate."""


class Moments:
    """Sums and products of some columns, row after row.

    Attributes:
        widths: Numbers of each column.
        rows: How many rows were added.
    """

    def __init__(self, widths: Mapping[str, int], columns: Sequence[str]):
        self.widths = {name: widths[name] for name in columns}
        self.rows, size = 0, sum(self.widths.values())
        self.total = torch.zeros(size, dtype=torch.float64)
        self.products = torch.zeros(size, size, dtype=torch.float64)

    def add(self, rows: Mapping[str, Tensor]) -> None:
        """Adds rows."""
        x = torch.cat([rows[name].detach().to("cpu", torch.float64) for name in self.widths], 1)
        self.rows += len(x)
        self.total += x.sum(0)
        self.products += x.T @ x

    def mean(self, *columns: str) -> Float[Tensor, " d"]:
        """Of each coordinate."""
        return self.total[self._where(columns)] / self.rows

    def covariance(self, one: Sequence[str], other: Sequence[str]) -> Float[Tensor, "d e"]:
        """Of each coordinate of some columns with each of others."""
        a, b = self._where(one), self._where(other)
        return self.products[a][:, b] / self.rows - torch.outer(self.total[a], self.total[b]) / self.rows**2

    def components(self, columns: Sequence[str], count: int) -> Float[Tensor, "component d"]:
        """The first principal components, of length one, the largest first."""
        values, vectors = torch.linalg.eigh(self.covariance(columns, columns))
        return vectors[:, values.argsort(descending=True)[:count]].T

    def linear(self, reads: str, writes: str) -> Float[Tensor, "e d"]:
        """The linear map from one column to another with the least squared error that is to be expected of other rows.

        Ridge regression, its penalty by generalised cross-validation: with few rows a map without one fits the rows it
        was fitted on and no others.

        Args:
            reads: From here.
            writes: To here.

        Source: Golub, Heath and Wahba 1979, "Generalized cross-validation as a method for choosing a good ridge
        parameter", eq. 1.4.
        """
        spread, axes = torch.linalg.eigh(self.covariance([reads], [reads]))
        spread = spread.clamp_min(0)
        along = axes.T @ self.covariance([reads], [writes])
        power, total = along.square().sum(1), self.covariance([writes], [writes]).diagonal().sum()
        best, least = 0.0, torch.inf
        for penalty in (spread.mean().clamp_min(1e-30) * PENALTIES).tolist():
            kept = 1 / (spread + penalty)
            left = total - 2 * (power * kept).sum() + (power * spread * kept**2).sum()
            free = 1 - (1 + (spread * kept).sum()) / self.rows
            if free > 0 and float(left / free**2) < least:
                best, least = penalty, float(left / free**2)
        best = best or float(spread.mean().clamp_min(1e-30) * PENALTIES[-1])
        return (axes @ (along / (spread + best)[:, None])).T

    def _where(self, columns: Sequence[str]) -> Tensor:
        starts, at = {}, 0
        for name, width in self.widths.items():
            starts[name], at = at, at + width
        return torch.cat([torch.arange(starts[name], starts[name] + self.widths[name]) for name in columns])
