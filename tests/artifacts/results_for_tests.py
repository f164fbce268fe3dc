"""Results that hold every kind of field, shared by the tests of this folder."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import polars as pl
from jaxtyping import Float, Int
from torch import Tensor

from digsite._core.cost import Cost
from digsite._core.provenance import Provenance, record
from digsite.artifacts import Result
from digsite.sites import Site


@dataclass(frozen=True)
class Pair:
    left: str
    right: float | None = None


@dataclass(frozen=True, kw_only=True)
class Small(Result):
    SCHEMA: ClassVar[str] = "tests.small/1"
    scores: Float[Tensor, "example layer"]

    @property
    def verdict(self) -> str:
        return f"{self.scores.shape[0]} examples,\n mean {self.scores.mean():.2f}"

    def to_frame(self) -> pl.DataFrame:
        return pl.DataFrame({"layer": range(self.scores.shape[1]), "score": self.scores.mean(dim=0).tolist()})


@dataclass(frozen=True, kw_only=True)
class Large(Result):
    SCHEMA: ClassVar[str] = "tests.large/2"
    text: str
    number: float
    count: int
    yes: bool
    direction: Literal["denoise", "noise"]
    maybe: int | None
    names: tuple[str, ...]
    interval: tuple[float, float]
    floats: list[float]
    by_name: dict[str, Pair]
    nested: dict[str, dict[str, list[int]]]
    site: Site
    sites: tuple[Site, ...]
    tensor: Tensor
    ids: Int[Tensor, "batch pos"] | None
    by_site: dict[str, Tensor]
    rows: pl.DataFrame
    tables: dict[str, pl.DataFrame]
    part: Small
    parts: tuple[Result, ...]
    summary: dict[str, Any]
    either: "Small | Large | None" = None

    @property
    def verdict(self) -> str:
        return self.text

    def to_frame(self) -> pl.DataFrame:
        return self.rows


def made() -> tuple[Provenance, Cost]:
    provenance = record("f(model)", model="tiny", seed=0, device="cpu")
    return provenance, Cost(forwards=2, rows=16, seconds=0.5, peak_mb=float("nan"))


def small(scores: Tensor) -> Small:
    provenance, cost = made()
    return Small(provenance=provenance, cost=cost, scores=scores)
