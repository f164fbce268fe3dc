"""The scoreboard of dictionaries: every way to one, on activations whose features were planted.

1. Plant features in several ways: fewer than there are dimensions, more, of uneven frequency, together, in families,
   with noise.
2. Let each learner see activations, and judge what it found on others; what it cost is measured around the learner
   alone. It may have as many latents as there are features.
3. Do so for several seeds of features and data.
"""

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import ClassVar

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor, tensor

from digsite._core.cost import measure
from digsite._core.errors import DigsiteError
from digsite._core.numerics import wilson_interval
from digsite._core.progress import track
from digsite._core.provenance import record
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.scoreboard.choice import chosen
from digsite.scoreboard.dictionaries import DictionaryJudgement, judge_dictionary
from digsite.scoreboard.learners import CEILINGS, LEARNERS
from digsite.toys.planted import Planted, planted_batch

PLANTED = {
    "fewer than dimensions": Planted(features=24),
    "more than dimensions": Planted(),
    "uneven": Planted(density=0.3, decay=1.0),
    "together": Planted(together=0.8),
    "families": Planted(density=0.1, parents=16),
    "noise and bias": Planted(noise=0.05, bias=2.0),
}
"""What is planted, by name."""
EXAMPLES, HELD_OUT = 8192, 4096
_NUMBERS = ("cosine_of_features", "cosine_of_latents", "dead", "correlation", "f1", "active")


@dataclass(frozen=True, kw_only=True)
class DictionaryBoard(Result):
    """How well each way to a dictionary finds features that were planted.

    Attributes:
        planted: What was planted, of each row.
        learners: How the dictionary was found, of each row.
        kinds: "learner", "baseline", or "ceiling" (it was given the true directions), of each row.
        recovered: Fraction of features with a latent of their own whose cosine is at least 0.9; NaN where there is no
            dictionary.
        recovered_low: Low end of its 95 % Wilson interval over features and seeds.
        recovered_high: High end.
        cosine_of_features: Mean over features of the largest cosine with any latent.
        cosine_of_latents: Mean over latents of the largest cosine with any feature.
        dead: Fraction of latents that never fire.
        correlation: Of matched latents with features.
        f1: Of "the latent fires" for "the feature is active".
        active: Latents that fire in an example.
        seconds: Processor time of learning, mean over seeds.
        notes: Why there is no dictionary; empty where there is.
        seeds: How many seeds each row is the mean of.
    """

    SCHEMA: ClassVar[str] = "scoreboard.dictionaries/1"

    planted: tuple[str, ...]
    learners: tuple[str, ...]
    kinds: tuple[str, ...]
    recovered: Float[Tensor, " row"]
    recovered_low: Float[Tensor, " row"]
    recovered_high: Float[Tensor, " row"]
    cosine_of_features: Float[Tensor, " row"]
    cosine_of_latents: Float[Tensor, " row"]
    dead: Float[Tensor, " row"]
    correlation: Float[Tensor, " row"]
    f1: Float[Tensor, " row"]
    active: Float[Tensor, " row"]
    seconds: Float[Tensor, " row"]
    notes: tuple[str, ...]
    seeds: int

    def to_frame(self) -> pl.DataFrame:
        """One row for what was planted and how it was looked for."""
        names = ("recovered", "recovered_low", "recovered_high", *_NUMBERS, "seconds")
        return pl.DataFrame(
            {
                "planted": list(self.planted),
                "learner": list(self.learners),
                "kind": list(self.kinds),
                **{name: getattr(self, name).tolist() for name in names},
                "note": list(self.notes),
            }
        )

    def summary(self) -> pl.DataFrame:
        """One row a learner: means over what was planted; learners and baselines first, the best on top."""
        numbers = ("recovered", *_NUMBERS)
        return (
            self.to_frame()
            .with_columns(pl.col(*numbers).fill_nan(None), given=pl.col("kind") == "ceiling")
            .group_by("learner", "kind", "given", maintain_order=True)
            .agg(pl.col(*numbers).mean(), pl.col("seconds").sum(), pl.col("recovered").count().alias("planted"))
            .sort("given", "recovered", descending=[False, True], nulls_last=True)
            .drop("given")
        )

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        best = self.summary().row(0, named=True)
        if best["recovered"] is None:
            return "No dictionary was found"
        name = f"{best['learner']}, a baseline," if best["kind"] == "baseline" else best["learner"]
        return (
            f"{name} recovers most: {best['recovered']:.0%} of the planted features, mean over {best['planted']} ways "
            f"to plant them; its latents fire with their features at an F1 of {best['f1']:.2f}"
        )

    def report(self, path: str | Path) -> Path:
        """Write the page: one self-contained HTML file.

        Args:
            path: The file; it is there whole or not at all.
        """
        drawing = importlib.import_module("digsite.viz")  # by name, for it lies above
        return drawing.scoreboard_report(self).write(path)


@method
def dictionary_scoreboard(
    planted: Sequence[str] | None = None, learners: Sequence[str] | None = None, *, seeds: int = 3, seed: int = 0
) -> DictionaryBoard:
    """Every way to a dictionary, on activations whose features are known.

    Args:
        planted: Names of `PLANTED`; all if None.
        learners: Names of `LEARNERS` and `CEILINGS`; all if None.
        seeds: How often each is done, with other features and other data.
        seed: The first of them.

    Raises:
        BadInput: A name that does not exist.
    """
    planted = chosen(planted, PLANTED, "set of planted features")
    learners = chosen(learners, (*LEARNERS, *CEILINGS), "learner")
    rows, judged = [(where, name) for where in planted for name in learners], []
    with measure() as cost:
        for where, name in track(rows, "dictionaries"):
            judged.append([_judged(replace(PLANTED[where], seed=seed + draw), name) for draw in range(seeds)])
    found = [[one for one, _, _ in draws if one is not None] for draws in judged]
    shares = [_recovered(some) for some in found]
    return DictionaryBoard(
        planted=tuple(where for where, _ in rows),
        learners=tuple(name for _, name in rows),
        kinds=tuple(_kind(name) for _, name in rows),
        recovered=tensor([share for share, _, _ in shares]),
        recovered_low=tensor([low for _, low, _ in shares]),
        recovered_high=tensor([high for _, _, high in shares]),
        **{name: tensor([_mean(some, name) for some in found]) for name in _NUMBERS},
        seconds=tensor([fmean(seconds for _, seconds, _ in draws) for draws in judged]),
        notes=tuple(next((note for _, _, note in draws if note), "") for draws in judged),
        seeds=seeds,
        provenance=record(
            f"digsite.scoreboard.dictionary_scoreboard({list(planted)}, {list(learners)}, seeds={seeds})", seed=seed
        ),
        cost=cost,
    )


def _judged(planted: Planted, name: str) -> tuple[DictionaryJudgement | None, float, str]:
    """The judgement, processor seconds of learning, and why there is none."""
    seen, held_out = planted_batch(planted, 0, examples=EXAMPLES), planted_batch(planted, 1, examples=HELD_OUT)
    with measure() as cost:
        try:
            learned = (
                CEILINGS[name](planted)
                if name in CEILINGS
                else LEARNERS[name].learn(seen.x, planted.features, planted.seed)
            )
        except DigsiteError as error:
            return None, 0.0, str(error).splitlines()[0]
    latents = learned.encode(held_out.x)
    return judge_dictionary(learned.decoder, planted, latents, held_out.features), cost.cpu_seconds, ""


def _recovered(found: list[DictionaryJudgement]) -> tuple[float, float, float]:
    if not found:
        return math.nan, math.nan, math.nan
    features = torch.cat([one.recovered for one in found])
    right, count = int(features.sum()), len(features)
    return right / count, *wilson_interval(right, count)


def _mean(found: list[DictionaryJudgement], name: str) -> float:
    return fmean(getattr(one, name) for one in found) if found else math.nan


def _kind(name: str) -> str:
    return "ceiling" if name in CEILINGS else "baseline" if LEARNERS[name].baseline else "learner"
