"""`Sums`: what the statistics of a column are made of; sums of parts add up to the sums of the whole."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from digsite._core.errors import BadInput, NotFinite, explain
from digsite.store.rows import Statistics

_AT_ONCE = 1024
"""Rows that are summed in single precision, while they are in the processor's cache, before they are added up."""


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over some rows of a column, added up in double precision.

    Attributes:
        rows: How many.
        total: Of each coordinate.
        square: Of each coordinate's square.
        norm: Of the rows' lengths.
        largest: The largest absolute value.
    """

    rows: int
    total: Float[Tensor, " width"]
    square: Float[Tensor, " width"]
    norm: float
    largest: float

    @staticmethod
    def of(x: Float[Tensor, "row width"]) -> "Sums":
        """The sums over these rows."""
        return Sums.add(_sums(part) for part in x.detach().to("cpu").split(_AT_ONCE))

    @staticmethod
    def add(parts: Iterable["Sums"]) -> "Sums":
        """The sums over the rows of all parts."""
        parts = list(parts)
        return Sums(
            sum(part.rows for part in parts),
            torch.stack([part.total for part in parts]).sum(0),
            torch.stack([part.square for part in parts]).sum(0),
            sum(part.norm for part in parts),
            max(part.largest for part in parts),
        )

    def statistics(self) -> Statistics:
        """The means.

        Raises:
            BadInput: There is no row.
        """
        if not self.rows:
            raise BadInput(explain("Statistics need at least one row"))
        mean, square = (self.total / self.rows).float(), (self.square / self.rows).float()
        return Statistics(self.rows, mean, square, self.norm / self.rows, self.largest)

    # -- as a file holds them --------------------------------------------------------------------------------------
    def tensors(self) -> dict[str, Tensor]:
        """The sums as tensors by name."""
        numbers = torch.tensor([self.rows, self.norm, self.largest], dtype=torch.float64)
        return {"sums.total": self.total, "sums.square": self.square, "sums.rows_norm_largest": numbers}

    @staticmethod
    def read(tensors: Mapping[str, Tensor]) -> "Sums":
        """The sums that `tensors` gave."""
        rows, norm, largest = tensors["sums.rows_norm_largest"].tolist()
        return Sums(int(rows), tensors["sums.total"], tensors["sums.square"], norm, largest)


def _sums(x: Float[Tensor, "row width"]) -> Sums:
    x = x.float()
    squares = x.square()
    largest = max(-float(x.min()), float(x.max())) if x.numel() else 0.0
    return Sums(len(x), x.sum(0).double(), squares.sum(0).double(), float(squares.sum(1).sqrt().sum()), largest)


def check_finite(x: Float[Tensor, "row width"], *, column: str, first: int) -> None:
    """Raises where there is a NaN or an infinity.

    Args:
        x: Some rows of a column.
        column: Its name.
        first: The number of the first row.

    Raises:
        NotFinite: With the row and the coordinate of the first one.
    """
    if not x.numel() or all(map(math.isfinite, map(float, torch.aminmax(x)))):
        return
    row, coordinate = (~torch.isfinite(x)).nonzero()[0].tolist()
    raise NotFinite(
        explain(
            f"Activations at {column} must be finite",
            found=f"{x[row, coordinate].item()} in row {first + row}, coordinate {coordinate}",
            do="Look where it arises: an overflow in half precision (load the model in bfloat16 or float32), or broken "
            "weights",
        )
    )
