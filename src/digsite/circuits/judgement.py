"""One circuit in front of every way of cutting the rest: what it keeps, what the rest keeps, what each edge is worth.

1. Each way is a donor (corrupt, zero, mean, resample) and a semantics (tree, edge), for what a circuit keeps hangs on
   it. Under each: the metric with all edges, with none, with the circuit, with everything but the circuit.
2. Null: circuits of the same size grown from the logits with random scores, so that their edges lead somewhere.
3. Completeness: what is kept without the circuit. Minimality: what is lost when each edge is left out by itself,
   under the first way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import polars as pl
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, explain
from digsite._core.progress import track
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.circuits.evaluate import BATCH, Cutter
from digsite.circuits.judging import require_change, share_interval, share_kept
from digsite.circuits.places import asked
from digsite.circuits.scores import random_circuit
from digsite.graphs import Circuit
from digsite.graphs.circuit import same_space
from digsite.models import Model, made_by
from digsite.tasks import Task

WAYS = (("corrupt", "tree"), ("corrupt", "edge"), ("zero", "tree"), ("mean", "tree"), ("resample", "tree"))
"""Donor and semantics of each way; edge semantics has the corrupt prompt alone."""
IDLE = 0.01
"""An edge that is worth less than this share could as well be left out."""


@dataclass(frozen=True, kw_only=True)
class CircuitJudgement(Result):
    """What a circuit keeps of a behaviour under several ways of cutting the rest.

    Attributes:
        circuit: Its name.
        task: What it was judged on.
        metric_name: The metric.
        unit: Its unit.
        ways: Donor and semantics, as "corrupt, tree".
        size: Edges of the circuit.
        edges: Edges of the model (at each place, where there are places).
        full: The metric with all edges.
        empty: With none.
        kept: With the circuit alone.
        rest: With everything but the circuit.
        random: The mean metric with random circuits of its size.
        without: Share that is lost when each edge is left out by itself, in the order of `Circuit.to_frame`; empty if
            not asked for.
    """

    SCHEMA: ClassVar[str] = "circuits.judgement/1"

    circuit: str
    task: str
    metric_name: str
    unit: str
    ways: tuple[str, ...]
    size: int
    edges: int
    full: Float[Tensor, "way example"]
    empty: Float[Tensor, "way example"]
    kept: Float[Tensor, "way example"]
    rest: Float[Tensor, "way example"]
    random: Float[Tensor, "way draw"]
    without: Float[Tensor, " edge"]

    def share(self, way: int, metric: Float[Tensor, "*cells"]) -> Float[Tensor, "*cells"]:
        """A metric as a share of the way from no edge to all."""
        return share_kept(metric, self.empty[way], self.full[way])

    def to_frame(self) -> pl.DataFrame:
        """One row a way: share kept with its 95 % interval, the rest's share, random circuits' mean and largest, n."""
        rows = []
        for way, name in enumerate(self.ways):
            low, high = share_interval(self.kept[way], self.empty[way], self.full[way])
            chance = self.share(way, self.random[way])
            rows.append(
                {
                    "cut edges carry": name,
                    "kept": float(self.share(way, self.kept[way].mean())),
                    "low": float(low),
                    "high": float(high),
                    "rest": float(self.share(way, self.rest[way].mean())),
                    "random": float(chance.mean()) if len(chance) else float("nan"),
                    "random_best": float(chance.max()) if len(chance) else float("nan"),
                    "n": self.kept.shape[1],
                }
            )
        return pl.DataFrame(rows)

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        rows = self.to_frame().to_dicts()
        first = rows[0]
        others = ", ".join(f"{row['kept']:.0%} {row['cut edges carry']}" for row in rows[1:])
        elsewhere = f"; {others}" if others else ""
        chance = (
            ""
            if first["random"] != first["random"]
            else (f"; random circuits of that size {first['random']:.0%}, at most {first['random_best']:.0%}")
        )
        failed = ", so it fails its control" if first["low"] <= first["random_best"] else ""
        idle = int((self.without < IDLE).sum())
        spare = f"; {idle} of its edges can each be left out for less than {IDLE:.0%}" if len(self.without) else ""
        return (
            f"{self.circuit}: {self.size} of {self.edges} edges keep {first['kept']:.0%} of the {self.metric_name} "
            f"(95 % {first['low']:.0%} to {first['high']:.0%}, {first['cut edges carry']}; n = {first['n']}){chance}"
            f"{failed}; without them {first['rest']:.0%} is left{elsewhere}{spare}"
        )


@method
def judge_circuit(
    model: Model,
    task: Task,
    circuit: Circuit,
    *,
    ways: Sequence[tuple[str, str]] = WAYS,
    metric: str | None = None,
    random_circuits: int = 10,
    minimality: bool = False,
    batch: int = BATCH,
    seed: int = 0,
) -> CircuitJudgement:
    """What a circuit keeps of a behaviour, under several ways of cutting the rest side by side.

    Args:
        model: The model.
        task: What to judge on: best other examples than those the circuit was found on.
        circuit: The circuit.
        ways: (donor, semantics) pairs; see `evaluate_circuit`. The first is the one of the verdict.
        metric: The task's own if None.
        random_circuits: Random circuits of its size.
        minimality: Whether each edge is also left out by itself: one more pass an edge.
        batch: Examples in one pass.
        seed: Of the random circuits and of "resample".

    Raises:
        BadInput: A circuit of another model, or a metric that cutting every edge does not change; says under which way.

    Source:
        Wang et al. 2022 (arXiv:2211.00593) for faithfulness, completeness and minimality; Miller et al. 2024
        (arXiv:2407.08734) for how much the way of cutting matters.

    Caveats:
        With a circuit of no edges or of all of them the shares are 0 and 1 by definition.
    """
    if not ways:
        raise BadInput(explain("Judging needs a way of cutting", possible=[", ".join(way) for way in WAYS]))
    at = asked(circuit.places)
    columns: list[list[Tensor]] = []
    without = torch.empty(0)
    with measure() as cost:
        for number, (how, semantics) in enumerate(track(ways, "judging a circuit")):
            cutter = Cutter(model, task, how=how, semantics=semantics, metric=metric, batch=batch, seed=seed, at=at)
            space = cutter.space
            same_space(space, [circuit])
            every = space.real.expand(circuit.kept.shape)
            generator = torch.Generator().manual_seed(seed)
            drawn = [random_circuit(space, circuit.kept, len(circuit), generator) for _ in range(random_circuits)]
            masks = [every, torch.zeros_like(every), circuit.kept, every & ~circuit.kept]
            found = cutter(torch.stack([*masks, *drawn]))
            require_change(found[1], found[0], metric or task.metric_name, f"{how}, {semantics}")
            columns.append([*found[:4], found[4:].mean(1)])
            if minimality and number == 0 and len(circuit):
                left = share_kept(cutter(_each_left_out(circuit)).mean(1), found[1], found[0])
                without = share_kept(found[2].mean(), found[1], found[0]) - left
    full, empty, kept, rest, chance = (torch.stack(each) for each in zip(*columns, strict=True))
    return CircuitJudgement(
        circuit=circuit.name,
        task=task.name,
        metric_name=metric or task.metric_name,
        unit=task.unit if metric is None else "",
        ways=tuple(", ".join(way) for way in ways),
        size=len(circuit),
        edges=circuit.possible,
        full=full,
        empty=empty,
        kept=kept,
        rest=rest,
        random=chance,
        without=without,
        provenance=made_by(
            f"digsite.circuits.judge_circuit(model, task, circuit, ways={list(ways)}, minimality={minimality}) with "
            f"circuit = {circuit.provenance.made_by}",
            model,
            task.fingerprint,
            seed=seed,
        ),
        cost=cost,
    )


def _each_left_out(circuit: Circuit) -> Bool[Tensor, "edge *place writer reader"]:
    """3. The circuit without each of its edges, in the order of its table."""
    frame, placed = circuit.to_frame(), bool(circuit.places)
    masks = circuit.kept.repeat(len(frame), *[1] * circuit.kept.ndim)
    for mask, row in zip(masks, frame.iter_rows(named=True), strict=True):
        place = (circuit.places.index(row["place"]),) if placed else ()
        mask[(*place, *circuit.space.index((row["writer"], row["reader"])))] = False
    return masks
