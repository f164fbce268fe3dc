"""The scoreboard: every method on every program, judged against the circuit that was put there.

1. Compile each program the hard way: superposed directions, and decoys in every layer. Without decoys there would be
   programs in which every component is true. Networks that were trained to carry a program are loaded as they are.
2. Draw its task: pairs of inputs with different answers.
3. Let each method score it, and judge the scores; what it cost is measured around the method alone.
"""

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import ClassVar

import polars as pl
from jaxtyping import Float
from torch import Tensor, tensor

from digsite._core.cost import measure
from digsite._core.errors import DigsiteError
from digsite._core.progress import track
from digsite._core.provenance import record
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.scoreboard.choice import chosen
from digsite.scoreboard.judge import Judgement, judge
from digsite.scoreboard.memory import memory_added
from digsite.scoreboard.methods import METHODS
from digsite.tasks import Task
from digsite.toys.aligned import PROGRAMS as ALIGNED
from digsite.toys.aligned import aligned
from digsite.toys.compiled import PROGRAMS, Hardness, compile_program
from digsite.toys.known import Known

HARD = Hardness(directions="superposed", decoys=2)
FAILING = ("either", "both", "cancelling", "aligned-either")
"""Programs on which methods are known to miss what is there."""


@dataclass(frozen=True, kw_only=True)
class Board(Result):
    """How well each method found each program's circuit.

    Attributes:
        programs: The program of each row.
        methods: The method of each row.
        kinds: "node" or "edge", of each row.
        auroc: Of each row; NaN where all or none of the candidates are true, or the method refused.
        auprc: The same.
        size: Nodes to keep for 90 % of the metric; NaN where that is not measured.
        true: How many nodes or edges the circuit has.
        candidates: Of how many.
        missed: Share of the true ones that score next to nothing.
        seconds: Processor time of the method.
        forwards: Forward passes of the method.
        memory: What the method added to the process at its peak, in 10^6 bytes; NaN where the system does not tell.
        notes: Why a method gave no scores; empty where it did.
    """

    SCHEMA: ClassVar[str] = "scoreboard/1"

    programs: tuple[str, ...]
    methods: tuple[str, ...]
    kinds: tuple[str, ...]
    auroc: Float[Tensor, " row"]
    auprc: Float[Tensor, " row"]
    size: Float[Tensor, " row"]
    true: tuple[int, ...]
    candidates: tuple[int, ...]
    missed: Float[Tensor, " row"]
    seconds: Float[Tensor, " row"]
    forwards: tuple[int, ...]
    memory: Float[Tensor, " row"]
    notes: tuple[str, ...]

    def to_frame(self) -> pl.DataFrame:
        """One row a program and method."""
        return pl.DataFrame(
            {
                "program": list(self.programs),
                "method": list(self.methods),
                "kind": list(self.kinds),
                "auroc": self.auroc.tolist(),
                "auprc": self.auprc.tolist(),
                "size": self.size.tolist(),
                "true": list(self.true),
                "candidates": list(self.candidates),
                "missed": self.missed.tolist(),
                "seconds": self.seconds.tolist(),
                "forwards": list(self.forwards),
                "memory": self.memory.tolist(),
                "note": list(self.notes),
            }
        )

    def summary(self) -> pl.DataFrame:
        """One row a method: means over the programs, best AUROC first."""
        frame = self.to_frame().with_columns(
            pl.col("auroc", "auprc", "size", "missed", "memory").fill_nan(None),
            hard=pl.when(pl.col("program").is_in(FAILING)).then(pl.col("missed").fill_nan(None)),
        )
        return (
            frame.group_by("method", "kind", maintain_order=True)
            .agg(
                pl.col("auroc", "auprc").mean(),
                (pl.col("size") / pl.col("true")).mean().alias("size_by_true"),
                pl.col("missed").mean(),
                pl.col("hard").mean().alias("missed_hard"),
                pl.col("seconds").sum(),
                pl.col("forwards").sum(),
                pl.col("memory").max(),
                pl.col("auroc").count().alias("programs"),
            )
            .sort("kind", "auroc", descending=[True, True], nulls_last=True)
        )

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        best = self.summary().filter(pl.col("kind") == self.kinds[0]).row(0, named=True)
        return (
            f"{best['method']} tells the circuit from the rest best: AUROC {best['auroc']:.2f} over {best['programs']} "
            f"programs; it misses {best['missed']:.0%} of what is there"
        )

    def report(self, path: str | Path) -> Path:
        """Write the page: one self-contained HTML file.

        Args:
            path: The file; it is there whole or not at all.
        """
        drawing = importlib.import_module("digsite.viz")  # by name, for it lies above
        return drawing.scoreboard_report(self).write(path)


@method
def scoreboard(
    programs: Sequence[str | Known] | None = None,
    methods: Sequence[str] | None = None,
    *,
    n: int = 32,
    draws: int = 20,
    seed: int = 0,
) -> Board:
    """Every method on every program, judged against the circuit that was put there.

    Args:
        programs: Names of compiled programs and of aligned networks, or models whose circuit is known; all that come
            with digsite if None.
        methods: Names of methods; all if None.
        n: Pairs of inputs for each task.
        draws: How often a baseline of chance is drawn; its mean is reported.
        seed: Of tasks, methods and decoys.

    Raises:
        BadInput: A program or method that does not exist.
    """
    own = {one.name: one for one in programs or () if not isinstance(one, str)}
    names = None if programs is None else [one if isinstance(one, str) else one.name for one in programs]
    names = chosen(names, (*PROGRAMS, *ALIGNED, *own), "program")
    methods = chosen(methods, METHODS, "method")
    rows = []
    with measure() as cost:
        for name in track(names, "scoreboard"):
            toy = own[name] if name in own else _known(name)
            task = toy.task(n, seed=seed)
            rows += [(name, method, *_judged(toy, task, method, draws, seed)) for method in methods]
    judged, seconds, forwards, memory, notes = zip(*(row[2:] for row in rows), strict=True)
    return Board(
        programs=tuple(row[0] for row in rows),
        methods=tuple(row[1] for row in rows),
        kinds=tuple(METHODS[row[1]].kind for row in rows),
        auroc=tensor([one.auroc for one in judged]),
        auprc=tensor([one.auprc for one in judged]),
        size=tensor([math.nan if one.size is None else float(one.size) for one in judged]),
        true=tuple(one.true for one in judged),
        candidates=tuple(one.candidates for one in judged),
        missed=tensor([one.missed for one in judged]),
        seconds=tensor(seconds),
        forwards=forwards,
        memory=tensor(memory),
        notes=notes,
        provenance=record(f"digsite.scoreboard.scoreboard({list(names)}, {list(methods)}, n={n})", seed=seed),
        cost=cost,
    )


def _known(name: str) -> Known:
    return aligned(name) if name in ALIGNED else compile_program(name, HARD)


def _judged(toy: Known, task: Task, name: str, draws: int, seed: int) -> tuple[Judgement, float, int, float, str]:
    """The judgement (a mean where it is chance), processor seconds, forward passes, memory, and why there is none."""
    method = METHODS[name]
    repeats, why = (draws if name.startswith("random") else 1), ""
    with measure() as cost, memory_added() as added:
        try:
            scores = [method.score(toy, task, seed + draw) for draw in range(repeats)]
        except DigsiteError as error:
            scores, why = [], str(error).splitlines()[0]
    if not scores:
        nothing = Judgement(auroc=math.nan, auprc=math.nan, size=None, true=0, candidates=0, missed=math.nan)
        return nothing, cost.cpu_seconds, cost.forwards, added.mb, why
    found = [judge(toy, task, one, method.kind) for one in scores]
    sizes = [one.size for one in found if one.size is not None]
    mean = replace(
        found[0],
        auroc=fmean(one.auroc for one in found),
        auprc=fmean(one.auprc for one in found),
        size=round(fmean(sizes)) if sizes else None,
        missed=fmean(one.missed for one in found),
    )
    return mean, cost.cpu_seconds / repeats, cost.forwards // repeats, added.mb, ""
