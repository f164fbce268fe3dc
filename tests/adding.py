"""A method that is quick, for tests of what remembers methods."""

import time
from dataclasses import dataclass
from typing import ClassVar

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.provenance import record
from digsite._core.recording import method
from digsite.artifacts import Result


@dataclass(frozen=True, kw_only=True)
class Sum(Result):
    """A sum of random numbers."""

    SCHEMA: ClassVar[str] = "tests.journal_sum/1"

    numbers: Float[Tensor, " example"]
    words: tuple[str, ...] = ("a", "b")

    @property
    def verdict(self) -> str:
        return f"The sum is {float(self.numbers.sum()):.3f}"

    def to_frame(self) -> pl.DataFrame:
        return pl.DataFrame({"number": self.numbers.tolist()})


@method
def add_up(count: int, *, seed: int = 0, wait: float = 0.0) -> Sum:
    """The sum of some random numbers; one of -1 numbers is refused."""
    with measure() as cost:
        numbers = torch.rand(count, generator=torch.Generator().manual_seed(seed))
        time.sleep(wait)
    return Sum(numbers=numbers, provenance=record(f"add_up({count}, seed={seed})", seed=seed), cost=cost)


@method
def add_twice(count: int) -> Sum:
    """A method that calls another."""
    add_up(count)
    return add_up(count, seed=1)
