"""What an investigation found, and how it says so."""

import importlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import polars as pl
from jaxtyping import Float
from torch import Tensor

from digsite._core.figures import drawing_of
from digsite._core.numerics import bootstrap_interval, wilson_interval
from digsite.artifacts import Result
from digsite.circuits import Faithfulness
from digsite.graphs import Circuit
from digsite.lenses import AnswerByDepth
from digsite.patching import AblationResult, DirectAttribution, PatchingResult


class Claim(NamedTuple):
    """One statement and what it rests on."""

    claim: str
    effect: float
    low: float
    high: float
    null: float
    n: int
    unit: str
    supported: bool


@dataclass(frozen=True, kw_only=True)
class TaskCard:
    """What was asked, as plain data (see `Task.summary`)."""

    name: str
    question: str
    description: str
    examples: int
    metric: str
    unit: str
    bos: str
    spans: tuple[str, ...]
    groups: dict[str, int]
    dropped: dict[str, int]
    seed: int | None
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One pair of prompts, token by token as the model reads it."""

    clean: tuple[str, ...]
    corrupt: tuple[str, ...]
    right: tuple[str, ...]
    wrong: tuple[str, ...]
    group: str
    special: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Investigation(Result):
    """How a model does a task: the evidence in the order in which a sceptic would ask for it.

    Attributes:
        question: What was asked.
        model: The model's name.
        task: What the task is.
        prompts: The first pairs, as the model reads them.
        correct: 1 where the right answer beats the wrong ones, 0 elsewhere, for every example.
        lens: Where in depth the answer appears.
        direct: Which components write it.
        denoise: What every head and MLP restores, corrupt to clean.
        noise: What every head and MLP destroys, clean to corrupt.
        positions: What the stream restores at every layer and span (or position).
        selection: How many examples chose the set; all other numbers about the set come from the rest.
        path: Share kept after each component that was left out, on the selecting examples.
        ablation: The proposed set knocked out and kept alone, against random sets; None where the model fails the task.
        circuit: The smallest circuit of edges that keeps enough on the selecting examples; None where there is none.
        edges: How much the best edges keep at every size, on the other examples.
        no_circuit: Why there is no circuit; empty where there is one.
    """

    SCHEMA: ClassVar[str] = "investigations.task/2"

    question: str
    model: str
    task: TaskCard
    prompts: tuple[Prompt, ...]
    correct: Float[Tensor, " example"]
    lens: AnswerByDepth
    direct: DirectAttribution
    denoise: PatchingResult
    noise: PatchingResult
    positions: PatchingResult
    selection: int
    path: Float[Tensor, " removal"]
    ablation: AblationResult | None
    circuit: Circuit | None
    edges: Faithfulness | None
    no_circuit: str

    @property
    def accuracy(self) -> tuple[float, float, float]:
        """Fraction of examples answered right, with its 95 % Wilson interval."""
        right, n = int(self.correct.sum()), len(self.correct)
        return right / n, *wilson_interval(right, n)

    @property
    def does_the_task(self) -> bool:
        """Whether the right answer beats the wrong ones more often than a coin would."""
        return self.accuracy[1] > 0.5

    @property
    def holds(self) -> bool:
        """Whether the proposed set passed both controls: it breaks and keeps more than 95 % of random sets do."""
        return self.ablation is not None and all(self.ablation.beats_chance)

    @property
    def verdict(self) -> str:
        """The answer, its numbers, and what did not survive its control."""
        mean, low, high = self.accuracy
        does = f"({mean:.1%} right, 95 % {low:.1%} to {high:.1%}, n = {len(self.correct)})"
        if not self.does_the_task or self.ablation is None:
            return f"It does not do the task {does}: there is nothing for a set of components to explain."
        a = self.ablation
        draws, (breaks, keeps) = len(a.random_keep), a.beaten
        metric = a.metric_name.replace("_", " ")
        said = (
            f"It does the task {does}. {_counted(a.components)} of {len(self.denoise.sites)} components carry it: "
            f"knocking out just those takes the {metric} from {a.clean.mean():.2f} to {a.knockout.mean():.2f} "
            f"({_percent(a.left[0])} of the behaviour left), keeping just those keeps {_percent(a.kept[0])}. "
            f"Of {draws} random sets of the same size {_none(draws - breaks)} breaks it as much "
            f"and {_none(draws - keeps)} keeps as much."
        )
        if not self.holds:
            said += " That is not beyond chance: the set did not beat its control."
        failed = sum(not claim.supported for claim in self.claims()[2:])
        if failed:
            said += (
                f" {failed} of its {len(a.components)} components did not beat their control when taken by themselves."
            )
        if self.kept_by_edges is not None and self.circuit is not None:
            row = self.kept_by_edges
            said += (
                f" {len(self.circuit)} of {len(self.circuit.space):,} edges keep {_percent(row['kept'])} of it "
                f"(95 % {_percent(row['low'])} to {_percent(row['high'])}; random circuits of that size "
                f"{_percent(row['random'])})."
            )
        return said

    @property
    def kept_by_edges(self) -> dict[str, float] | None:
        """What the circuit keeps on the examples that did not choose it, with its interval and its null."""
        if self.edges is None or self.circuit is None:
            return None
        rows = self.edges.to_frame().to_dicts()
        return min(rows, key=lambda row: abs(row["edges"] - len(self.circuit or ())))

    def claims(self) -> list[Claim]:
        """What each claim rests on: one for each proposed component, and two for the set."""
        if self.ablation is None:
            return []
        a = self.ablation
        gone, kept = 1 - a.share(a.knockout), a.share(a.keep)
        nulls = 1 - a.share(a.random_knockout), a.share(a.random_keep)
        words = "knocking out the set breaks the behaviour", "keeping only the set keeps the behaviour"
        claims = []
        for claim, values, null, beats in zip(words, (gone, kept), nulls, a.beats_chance, strict=True):
            low, high = (float(end) for end in bootstrap_interval(values))
            mean, chance = float(values.mean()), float(null.mean())
            claims.append(Claim(claim, mean, low, high, chance, len(values), "share", beats))
        rows = {row["site"]: row for row in self.noise.to_frame().to_dicts()}
        for name in a.components:
            row = rows[name]
            beats = row["low"] > row["null_high"] or row["high"] < row["null_low"]
            numbers = {key: row[key] for key in ("effect", "low", "high", "null", "n")}
            claims.append(Claim(f"{name} is needed by itself", **numbers, unit="share", supported=beats))
        return claims

    def to_frame(self) -> pl.DataFrame:
        """One row a claim."""
        return pl.DataFrame([claim._asdict() for claim in self.claims()], schema=CLAIMS)

    def summary(self) -> dict[str, Any]:
        """The numbers as plain data with stable keys: accuracy, knockout, keep, random, claims, cost, provenance."""
        a = self.ablation
        mean, low, high = self.accuracy
        data: dict[str, Any] = {
            "question": self.question,
            "verdict": self.verdict,
            "model": self.model,
            "task": asdict(self.task),
            "accuracy": {"mean": mean, "low": low, "high": high, "n": len(self.correct)},
            "holds": self.holds,
            "components": None if a is None else list(a.components),
            "knockout": None if a is None else _described(a, "knockout"),
            "keep": None if a is None else _described(a, "keep"),
            "random": None
            if a is None
            else {
                "sets": len(a.random_keep),
                "beaten_knockout": a.beaten[0],
                "beaten_keep": a.beaten[1],
                "knockout_share": _spread(a.share(a.random_knockout)),
                "keep_share": _spread(a.share(a.random_keep)),
            },
            "claims": [claim._asdict() for claim in self.claims()],
            "cost": vars(self.cost),
            "provenance": self.provenance.to_dict(),
        }
        return data

    def report(self, path: str | Path) -> Path:
        """Write the report: one self-contained HTML page.

        Args:
            path: The file; it is there whole or not at all.
        """
        importlib.import_module("digsite.viz")  # by name: drawing lies above and registers itself
        return drawing_of(type(self))(self).write(Path(path))


CLAIMS = {
    "claim": pl.String,
    "effect": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "null": pl.Float64,
    "n": pl.Int64,
    "unit": pl.String,
    "supported": pl.Boolean,
}


def _described(a: AblationResult, which: str) -> dict[str, Any]:
    values = getattr(a, which)
    low, high = bootstrap_interval(values)
    share = a.left if which == "knockout" else a.kept
    return {
        "metric": a.metric_name,
        "mean": float(values.mean()),
        "low": float(low),
        "high": float(high),
        "share": dict(zip(("mean", "low", "high"), share, strict=True)),
        "n": len(values),
    }


def _spread(values: Tensor) -> dict[str, float]:
    return {"mean": float(values.mean()), "min": float(values.min()), "max": float(values.max())}


def _percent(share: float) -> str:
    return f"{round(100 * share) + 0} %"


def _none(count: int) -> str:
    return "none" if count == 0 else "one" if count == 1 else str(count)


def _counted(names: tuple[str, ...]) -> str:
    heads = sum("attn.z" in name for name in names)
    mlps = len(names) - heads
    return " and ".join(f"{n} {what}{'' if n == 1 else 's'}" for n, what in ((heads, "head"), (mlps, "MLP")) if n)
