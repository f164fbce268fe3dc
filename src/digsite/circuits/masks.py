"""Mask training: the circuit of a given size that keeps the behaviour best, by gradient descent on how open edges are.

1. The examples are split: masks are trained on one half and judged on the other.
2. Every edge (or every head and MLP) has a gate between 0 (it carries the corrupt value) and 1 (the live one). Gates
   open by a learnt number each, from which one shared number is subtracted so that the gates expected to be open are as
   many as wanted: the size is exact at every step, and there is no weight of a penalty to tune.
3. "hard-concrete": a gate is drawn, and is 0 or 1 with some probability and between in passing (Louizos et al. 2018).
   "top-k": a gate is a sigmoid, whose slope steepens as training goes on.
4. The wanted size shrinks from everything to the target in the first part of training.
5. The mask goes through `EdgeMux.graded`; what is minimised is how far logits (or the metric) are from the clean run.
6. The largest numbers are the circuit. It is judged on the other half, beside random circuits of its size.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from digsite._core.cost import count_backward, measure
from digsite._core.errors import BadInput, explain
from digsite._core.numerics import bootstrap_interval, require_finite
from digsite._core.progress import track
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.circuits.evaluate import BATCH, Cutter
from digsite.circuits.judging import share_kept
from digsite.graphs import Circuit, EdgeSpace
from digsite.graphs.circuit import circuit, prune
from digsite.models import Model, made_by
from digsite.tasks import Task

OVER = ("edges", "nodes")
GATES = ("hard-concrete", "top-k")
STRETCH, SOFTNESS = (-0.1, 1.1), 2 / 3
"""How far a hard-concrete gate is stretched beyond 0 and 1, and how soft it is: the values of Louizos et al."""
HEAT = (1.0, 0.1)
"""Of a top-k gate, at the first step and at the last."""
SHRINKING = 0.6
"""The part of training in which the wanted size shrinks."""


@dataclass(frozen=True, kw_only=True)
class TrainedMask(Result):
    """A circuit found by training masks, what it keeps on examples it was not trained on, and how training went.

    Attributes:
        circuit: The edges that are kept; its scores are the learnt numbers.
        over: "edges" or "nodes".
        gates: "hard-concrete" or "top-k".
        objective: What was minimised.
        metric_name: What the circuit is judged by.
        unit: Its unit.
        loss: The objective at each step.
        wanted: How many edges (or nodes) were to be open at each step.
        trained_on: How many examples.
        full: The metric with every edge, on the held-out examples.
        empty: With none.
        kept: With the circuit.
        random: The mean metric with random circuits of as many edges (or nodes).
    """

    SCHEMA: ClassVar[str] = "circuits.mask/1"

    circuit: Circuit
    over: str
    gates: str
    objective: str
    metric_name: str
    unit: str
    loss: Float[Tensor, " step"]
    wanted: Float[Tensor, " step"]
    trained_on: int
    full: Float[Tensor, " example"]
    empty: Float[Tensor, " example"]
    kept: Float[Tensor, " example"]
    random: Float[Tensor, " draw"]

    def share(self, values: Float[Tensor, "*cells"]) -> Float[Tensor, "*cells"]:
        """A metric as a share of the way from no edge to all."""
        return share_kept(values, self.empty, self.full)

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        kept = self.share(self.kept)
        low, high = bootstrap_interval(kept)
        chance = self.share(self.random)
        size = len(self.circuit)
        failed = "" if float(kept.mean()) > float(chance.max()) else ", so the circuit fails its control"
        return (
            f"Trained masks over {self.over} keep {size} of {len(self.circuit.space)} edges, which on "
            f"{len(self.kept)} held-out examples carry {float(kept.mean()):.0%} of the {self.metric_name} "
            f"(95 % {float(low):.0%} to {float(high):.0%}); random circuits of that size at most "
            f"{float(chance.max()):.0%}{failed}"
        )

    def to_frame(self) -> pl.DataFrame:
        """One row a step: how many gates were to be open, and the objective."""
        return pl.DataFrame(
            {"step": list(range(len(self.loss))), "wanted": self.wanted.tolist(), "loss": self.loss.tolist()}
        )


@method
def mask_training(
    model: Model,
    task: Task,
    size: int | float,
    *,
    over: str = "edges",
    gates: str = "top-k",
    objective: str = "kl",
    how: str = "corrupt",
    steps: int = 300,
    rate: float = 0.1,
    train: float = 0.5,
    random_circuits: int = 20,
    batch: int = BATCH,
    seed: int = 0,
) -> TrainedMask:
    """The circuit of a given size that keeps the behaviour best, by gradient descent.

    Args:
        model: The model; its weights do not change.
        task: Clean and corrupt pairs of one length.
        size: How many edges (or heads and MLPs) to keep, or which share of all if between 0 and 1.
        over: "edges" (edge pruning) or "nodes" (subnetwork probing: what a node writes is open for all its readers).
        gates: "hard-concrete" or "top-k"; see the head of this file.
        objective: "kl", the divergence from the clean logits, or a metric, whose distance from its clean value is kept
            small.
        how: What takes the place of a cut edge: "corrupt", "zero", "mean" or "resample".
        steps: Of training, each on one batch.
        rate: Learning rate (Adam).
        train: The share of examples that is trained on.
        random_circuits: How many, for the null.
        batch: Examples in one step.
        seed: Of the split, the order of batches, the gates that are drawn, and the random circuits.

    Returns:
        The circuit without edges that dangle, judged on the examples that it was not trained on.

    Raises:
        BadInput: A size, gate or kind that does not exist, or too few examples to split.
        NotFinite: The objective is NaN.

    Units:
        The objective's (nats for "kl"); the result is judged in the task's metric.

    Source:
        Bhaskar et al. 2024, "Finding Transformer Circuits with Edge Pruning" (arXiv:2406.16778); Cao et al. 2021,
        subnetwork probing (arXiv:2104.03514); gates by Louizos et al. 2018 (arXiv:1712.01312). They reach a sparsity
        by multipliers; here the size is a constraint that always holds.

    Caveats:
        Training finds edges that are enough together, and may find others with another seed. A share above 1 means that
        what was cut works against the behaviour; neither objective rewards that. Where attention is saturated a gate
        that is half open gives no gradient, and training is as blind as attribution.
    """
    _check(task, over, gates, min(steps, random_circuits), train)
    order = torch.randperm(len(task), generator=torch.Generator().manual_seed(seed))
    first = min(len(task) - 1, max(1, round(train * len(task))))
    with measure() as cost:
        cutter = Cutter(model, task.take(order[:first]), how=how, metric=objective, batch=batch, seed=seed)
        gating = _Gating(cutter.space, over)
        wanted = _count(size, gating.count)
        training = _Training(cutter, gating, gates, steps=steps, rate=rate, seed=seed)
        loss, sizes = training.run(wanted)
        kept = gating.edges(_best(training.openness.detach(), wanted)).bool()
        judge = Cutter(model, task.take(order[first:]), how=how, batch=batch, seed=seed)
        drawn = torch.rand(random_circuits, gating.count, generator=training.generator)
        chance = torch.stack([prune(cutter.space, gating.edges(_best(one, wanted)).bool()) for one in drawn])
        found = prune(cutter.space, kept)
        ends = torch.stack([cutter.space.real, torch.zeros_like(found), found])
        scores = judge(torch.cat([ends, chance]))
    call = f"digsite.circuits.mask_training(model, task, {size}, over={over!r}, gates={gates!r}, steps={steps})"
    provenance = made_by(call, model, task.fingerprint, seed=seed)
    learnt = gating.edges(training.openness.detach()).masked_fill(~cutter.space.real, torch.nan)
    return TrainedMask(
        circuit=circuit(
            cutter.space,
            found,
            name=task.name,
            method=f"trained masks ({over}, {gates})",
            provenance=provenance,
            cost=cost,
            scores=learnt,
        ),
        over=over,
        gates=gates,
        objective=objective,
        metric_name=task.metric_name,
        unit=task.unit,
        loss=loss,
        wanted=sizes,
        trained_on=first,
        full=scores[0],
        empty=scores[1],
        kept=scores[2],
        random=scores[3:].mean(1),
        provenance=provenance,
        cost=cost,
    )


class _Gating:
    """Which gate opens which edge."""

    def __init__(self, space: EdgeSpace, over: str):
        self.space, self.over = space, over
        self.nodes = torch.tensor([name.startswith("layers.") for name in space.writers])
        self.count = len(space) if over == "edges" else int(self.nodes.sum())

    def edges(self, values: Float[Tensor, " gate"]) -> Float[Tensor, "writer reader"]:
        """A number for each gate as one for each edge; embeddings, which are no nodes, are open."""
        values = values.float()
        if self.over == "edges":
            return torch.zeros(self.space.real.shape).masked_scatter(self.space.real, values)
        writers = torch.ones(len(self.nodes)).masked_scatter(self.nodes, values)
        return writers.unsqueeze(1) * self.space.real


class _Training:
    """Gates as they are trained."""

    def __init__(self, cutter: Cutter, gating: _Gating, gates: str, *, steps: int, rate: float, seed: int):
        self.cutter, self.gating, self.gates, self.steps = cutter, gating, gates, steps
        self.generator = torch.Generator().manual_seed(seed)
        self.openness = torch.zeros(gating.count, requires_grad=True)
        self.optimiser = torch.optim.Adam([self.openness], lr=rate)

    def run(self, wanted: int) -> tuple[Float[Tensor, " step"], Float[Tensor, " step"]]:
        """The objective and the wanted size at each step."""
        losses, sizes, parts = [], [], len(self.cutter.parts)
        for step in track(range(self.steps), "mask training"):
            done = step / max(1, self.steps - 1)
            # 4. Shrinking by the same factor each step. All gates cannot be open for sure: half a gate is left.
            start = self.gating.count - 0.5
            size = start * (wanted / start) ** min(1.0, done / SHRINKING)
            part = int(torch.randint(parts, (), generator=self.generator))
            loss = self._loss(part, self.gating.edges(self._gate(size, done)))
            self.optimiser.zero_grad()
            loss.backward()
            count_backward(len(self.cutter.parts[part].clean))
            self.optimiser.step()
            losses.append(float(require_finite("The objective of mask training", loss.detach())))
            sizes.append(size)
        return torch.tensor(losses), torch.tensor(sizes)

    def _gate(self, size: float, done: float) -> Float[Tensor, " gate"]:
        """3. How far each gate is open."""
        if self.gates == "top-k":
            heat = HEAT[0] * (HEAT[1] / HEAT[0]) ** done
            return torch.sigmoid(levelled(self.openness / heat, size))
        low, high = STRETCH
        closed = SOFTNESS * math.log(-low / high)  # a gate is more than 0 with probability sigmoid(x - closed)
        odds = levelled(self.openness - closed, size) + closed
        drawn = torch.rand(len(odds), generator=self.generator).clamp(1e-6, 1 - 1e-6)
        soft = torch.sigmoid((torch.logit(drawn) + odds) / SOFTNESS)
        return (soft * (high - low) + low).clamp(0, 1)

    def _loss(self, part: int, kept: Float[Tensor, "writer reader"]) -> Tensor:
        """5. How far what is left is from the clean run."""
        task, reference, metric = self.cutter.parts[part], self.cutter.references[part], self.cutter.metric
        logits = self.cutter.muxes[part].graded(1 - kept)
        if metric == "kl":
            return task.metric(logits, "kl", reference=reference).mean()
        return (task.metric(logits, metric) - task.metric(reference, metric)).abs().mean()


def levelled(x: Float[Tensor, " gate"], total: float) -> Float[Tensor, " gate"]:
    """x minus the one number for which sigmoid(x) sums to a total; gradients know that it moves with x.

    Args:
        x: Any numbers.
        total: More than 0 and less than how many there are.
    """
    with torch.no_grad():
        low, high = x.min() - 40, x.max() + 40
        middle = (low + high) / 2
        for _ in range(60):
            more = torch.sigmoid(x - middle).sum() > total
            low, high = torch.where(more, middle, low), torch.where(more, high, middle)
            middle = (low + high) / 2
        opened = torch.sigmoid(x - middle)
        weight = opened * (1 - opened)
        weight = weight / weight.sum().clamp(min=torch.finfo(x.dtype).tiny)
    shift = (weight * x).sum()
    return x - (middle + shift - shift.detach())


def _best(values: Float[Tensor, " gate"], count: int) -> Float[Tensor, " gate"]:
    return torch.zeros_like(values).index_fill_(0, values.topk(count).indices, 1.0)


def _count(size: int | float, gates: int) -> int:
    count = round(size * gates) if isinstance(size, float) else size
    if not 0 < count < gates:
        raise BadInput(explain(f"A mask keeps 1 to {gates - 1} of {gates} gates", found=f"size={size}"))
    return count


def _check(task: Task, over: str, gates: str, least: int, train: float) -> None:
    for asked, possible in ((over, OVER), (gates, GATES)):
        if asked not in possible:
            raise BadInput(explain(f"{asked!r} is not a way to train masks", possible=possible, near=asked))
    if len(task) < 2 or not 0 < train < 1 or least < 1:
        raise BadInput(
            explain(
                "Masks are trained on some examples and judged on others",
                found=f"{len(task)} examples, train={train}, {least} steps or random circuits",
                possible="two examples or more, 0 < train < 1, one step and one random circuit or more",
            )
        )
