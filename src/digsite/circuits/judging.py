"""Judging a circuit: how much of the behaviour its edges carry, at every size, beside circuits drawn at random.

1. The best k edges of a method are kept, everything else is cut: m(k).
   f(k) = (m(k) − m(no edge)) / (m(all) − m(no edge)).
2. Areas under f over the share of edges kept, by trapezoids between the sizes: CPR of f, CMD of |1 − f|. Both as the
   Mechanistic Interpretability Benchmark has them, over a linear axis on which circuits under 1 % weigh 1.4 %; and CMD
   over a logarithmic axis, on which they weigh as much as the others.
3. Completeness: the same with the circuit cut and the rest kept. A complete circuit leaves nothing.
4. Nulls: circuits of the same size from random scores, cut down to what does not dangle in the same way; and, if
   asked for, the same method on the same model with its weights shuffled.
5. Stability: Jaccard overlap of the circuit with those of resampled examples; under 0.8 it is a claim about these
   examples more than about the model (Méloux et al. 2025, arXiv:2510.00845).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, ShapeMismatch, explain
from digsite._core.numerics import ratio_interval
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.circuits.evaluate import BATCH, Cutter
from digsite.circuits.scores import EdgeScores, chosen
from digsite.graphs import EdgeSpace
from digsite.graphs.circuit import prune
from digsite.models import Model, made_by, untrained
from digsite.tasks import Task

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of all edges at which MIB evaluates."""


@dataclass(frozen=True, kw_only=True)
class Faithfulness(Result):
    """How much of a behaviour the best edges of a method carry, at every size.

    Attributes:
        method: What found the edges.
        task: The task they are judged on.
        metric_name: The metric.
        unit: Its unit.
        how: What takes the place of a cut edge.
        semantics: "tree" or "edge"; see `evaluate`.
        select: How the best edges were chosen.
        shares: Of all edges, before those that dangle were left out.
        sizes: Edges after that.
        edges: How many the model has.
        full: The metric with all edges.
        empty: The metric with none.
        kept: With only the circuit.
        rest: With everything but the circuit.
        random: The mean metric with random circuits of the same share.
        overlap: Mean Jaccard overlap with the circuits of resampled examples; NaN where examples cannot be resampled.
        untrained: f of the circuits that the method finds in the model with its weights shuffled; NaN if not asked for.
    """

    SCHEMA: ClassVar[str] = "circuits.faithfulness/2"

    method: str
    task: str
    metric_name: str
    unit: str
    how: str
    semantics: str
    select: str
    shares: tuple[float, ...]
    sizes: tuple[int, ...]
    edges: int
    full: Float[Tensor, " example"]
    empty: Float[Tensor, " example"]
    kept: Float[Tensor, "size example"]
    rest: Float[Tensor, "size example"]
    random: Float[Tensor, "size draw"]
    overlap: Float[Tensor, " size"]
    untrained: Float[Tensor, " size"]

    def _share(self, metric: Tensor) -> Tensor:
        return share_kept(metric, self.empty, self.full)

    @property
    def curve(self) -> Float[Tensor, " size"]:
        """f(k): the share of the behaviour that the circuit keeps. May exceed 1."""
        return self._share(self.kept.mean(1))

    @property
    def cpr(self) -> float:
        """MIB's circuit performance ratio: the area under f. Goes with select="signed"; random is near 0.25."""
        return area(self.shares, self.curve.tolist())

    @property
    def cmd(self) -> float:
        """MIB's circuit-model distance: the area under |1 − f|. Goes with select="absolute"; 0 is best."""
        return area(self.shares, (1 - self.curve).abs().tolist())

    @property
    def log_cmd(self) -> float:
        """The mean of |1 − f| over the logarithm of the share: every size counts alike; 0 is best."""
        logs = [math.log(share) for share in self.shares]
        return area(logs, (1 - self.curve).abs().tolist()) / (logs[-1] - logs[0])

    def size_at(self, share: float = 0.9) -> int | None:
        """Edges of the smallest circuit judged that keeps this share of the behaviour."""
        good = (self.curve >= share).nonzero().flatten().tolist()
        return self.sizes[good[0]] if good else None

    def to_frame(self, *, resamples: int = 1000, seed: int = 0) -> pl.DataFrame:
        """One row a size: f with its 95 % bootstrap interval, the rest's share, random circuits' share, the overlap."""
        n = len(self.full)
        low, high = share_interval(self.kept, self.empty, self.full, resamples=resamples, seed=seed)
        chance = self._share(self.random) if self.random.numel() else torch.full((len(self.shares), 1), torch.nan)
        return pl.DataFrame(
            {
                "share": list(self.shares),
                "edges": list(self.sizes),
                "kept": self.curve.tolist(),
                "low": low.tolist(),
                "high": high.tolist(),
                "rest": self._share(self.rest.mean(1)).tolist(),
                "random": chance.mean(1).tolist(),
                "random_best": chance.amax(1).tolist(),
                "overlap": self.overlap.tolist(),
                "untrained": self.untrained.tolist(),
                "n": n,
            }
        )

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        enough = self.size_at()
        said = (
            f"90 % of {self.task} is kept by {enough} of {self.edges} edges ({enough / self.edges:.1%})"
            if enough is not None
            else f"no circuit judged keeps 90 % of {self.task}"
        )
        row = self.to_frame().filter(pl.col("edges") == enough).to_dicts()[:1] if enough is not None else []
        chance = f"; random circuits of that size keep {row[0]['random']:.0%}" if row else ""
        loose = row and row[0]["overlap"] < 0.8
        caution = f"; which edges they are hangs on the examples (overlap {row[0]['overlap']:.2f})" if loose else ""
        areas = f"CPR {self.cpr:.2f}, CMD {self.cmd:.2f}, log CMD {self.log_cmd:.2f}"
        return f"{self.method}: {said}{chance}{caution}; {areas}"


@method
def faithfulness(
    model: Model,
    task: Task,
    scores: EdgeScores,
    *,
    shares: Sequence[float] = SHARES,
    select: str = "absolute",
    how: str = "corrupt",
    semantics: str = "tree",
    metric: str | None = None,
    random_circuits: int = 5,
    resamples: int = 100,
    rescore: Callable[[Model, Task], EdgeScores] | None = None,
    batch: int = BATCH,
    seed: int = 0,
) -> Faithfulness:
    """How much of a behaviour the best edges of a method carry, at every size, beside random circuits.

    Args:
        model: The model.
        task: What to judge on: best other examples than those the edges were scored on.
        scores: Of any method.
        shares: Of all edges, ascending.
        select: "signed" for CPR, "absolute" for CMD; "greedy" grows the circuit from the logits.
        how: What takes the place of a cut edge: "corrupt", "zero", "mean" or "resample".
        semantics: "tree" or "edge".
        metric: The task's own if None.
        random_circuits: Random circuits of each size.
        resamples: Resamples of the examples for the overlap; 0 for none.
        rescore: The method that made the scores, such as `eap`, for the control on a model with shuffled weights. It
            is scored and judged on the same examples there, which favours the control.
        batch: Examples in one pass.
        seed: Of everything random.

    Raises:
        BadInput: Shares that do not ascend within (0, 1], or a metric that no edge changes.
        ShapeMismatch: The scores are of another model.

    Source:
        Mueller et al. 2025, "MIB" (arXiv:2504.13151), for f, CPR and CMD; Wang et al. 2023 for completeness.
    """
    shares = tuple(shares)
    if not shares or list(shares) != sorted(set(shares)) or shares[0] <= 0 or shares[-1] > 1:
        raise BadInput(explain("Shares of edges ascend and lie within (0, 1]", found=f"{list(shares)}"))
    with measure() as cost:
        cut = partial(
            Cutter, task=task, how=how, semantics=semantics, metric=metric, batch=batch, seed=seed, at=scores.at
        )
        cutter = cut(model)
        space = cutter.space
        if space != scores.space:
            raise ShapeMismatch(
                explain(
                    "The scores are of another model",
                    found=f"{len(scores.writers)} writers and {len(scores.readers)} readers",
                    possible=f"{len(space.writers)} and {len(space.readers)}",
                )
            )
        mean = scores.placed().mean(0)
        every = space.real.expand(mean.shape)
        counts = [int(share * int(every.sum())) for share in shares]
        circuits = _best(space, mean, counts, select)
        ends = torch.stack([torch.zeros_like(every), every])
        generator = torch.Generator().manual_seed(seed)
        drawn = [torch.rand(mean.shape, generator=generator) for _ in range(random_circuits)]
        chance = [one for draw in drawn for one in _best(space, draw, counts, "absolute")]
        found = cutter(torch.cat([ends, circuits, every & ~circuits, *(one[None] for one in chance)]))
        empty, full = found[0], found[1]
        require_change(empty, full, metric or task.metric_name, f"{how}, {semantics}")
        shuffled = torch.full((len(shares),), torch.nan)
        if rescore is not None:
            other = untrained(model, seed=seed)
            theirs = cut(other)(torch.cat([ends, _best(space, rescore(other, task).placed().mean(0), counts, select)]))
            shuffled = share_kept(theirs[2:].mean(1), theirs[0], theirs[1])
    k = len(shares)
    return Faithfulness(
        method=scores.method,
        task=task.name,
        metric_name=metric or task.metric_name,
        unit=task.unit if metric is None else "",
        how=how,
        semantics=semantics,
        select=select,
        shares=shares,
        sizes=tuple(circuits.flatten(1).sum(1).tolist()),
        edges=int(every.sum()),
        full=full,
        empty=empty,
        kept=found[2 : 2 + k],
        rest=found[2 + k : 2 + 2 * k],
        random=found[2 + 2 * k :].mean(1).reshape(random_circuits, k).T.contiguous(),
        overlap=_overlap(scores, circuits, counts, select, resamples, seed),
        untrained=shuffled,
        provenance=made_by(
            f"digsite.faithfulness(model, task, scores, select={select!r}, how={how!r}, semantics={semantics!r}) "
            f"with scores = {scores.provenance.made_by}",
            model,
            task.fingerprint,
            seed=seed,
        ),
        cost=cost,
    )


def share_kept(
    metric: Float[Tensor, "*cells"], empty: Float[Tensor, " example"], full: Float[Tensor, " example"]
) -> Float[Tensor, "*cells"]:
    """f: where a metric lies on the way from no edge (0) to all (1). May lie outside.

    Args:
        metric: What is asked about; the mean over examples for f of a circuit.
        empty: The metric of each example with no edge.
        full: The metric of each example with all.
    """
    none, every = empty.mean(), full.mean()
    return (metric - none) / (every - none)


def require_change(empty: Float[Tensor, " example"], full: Float[Tensor, " example"], metric: str, way: str) -> None:
    """Refuses to speak of shares of nothing.

    Args:
        empty: The metric of each example with no edge.
        full: With all.
        metric: Its name.
        way: Donor and semantics.

    Raises:
        BadInput: The means differ by no more than rounding.
    """
    if torch.isclose(full.mean(), empty.mean()):
        raise BadInput(
            explain(
                "Cutting every edge does not change the metric, so no share of it can be kept",
                found=f"mean {metric} {float(full.mean()):.4g} with all edges and with none ({way})",
                do="use another corruption, another metric or another way of cutting",
            )
        )


def share_interval(
    kept: Float[Tensor, "*cells example"],
    empty: Float[Tensor, " example"],
    full: Float[Tensor, " example"],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[Float[Tensor, "*cells"], Float[Tensor, "*cells"]]:
    """The 95 % bootstrap interval of f, both ends being drawn again with the circuit; NaN for one example.

    Args:
        kept: The metric of each example with each circuit.
        empty: With no edge.
        full: With all.
        resamples: How often the examples are drawn with replacement.
        seed: Of the draws.
    """
    return ratio_interval(kept - empty, full - empty, resamples=resamples, seed=seed)


def area(x: Sequence[float], y: Sequence[float]) -> float:
    """The area under a curve by trapezoids, as MIB takes it: from the first x to the last."""
    return float(np.trapezoid(y, x))


def jaccard(a: Bool[Tensor, "*axes"], b: Bool[Tensor, "*axes"]) -> float:
    """How much two circuits overlap: edges in both over edges in either; 1 where both are empty."""
    either = int((a | b).sum())
    return int((a & b).sum()) / either if either else 1.0


def _best(
    space: EdgeSpace, scores: Tensor, counts: Sequence[int], select: str
) -> Bool[Tensor, "size *place writer reader"]:
    kept = torch.stack([chosen(space, scores, count, select=select) for count in counts])
    return prune(space, kept, placed=scores.ndim > 2)


def _overlap(
    scores: EdgeScores, circuits: Tensor, counts: Sequence[int], select: str, resamples: int, seed: int
) -> Float[Tensor, " size"]:
    n = len(scores.scores)
    if n < 2 or resamples < 1:
        return torch.full((len(counts),), torch.nan)
    each = scores.placed()
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(resamples):
        again = each[torch.from_numpy(rng.integers(0, n, n))].mean(0)
        drawn = _best(scores.space, again, counts, select)
        found.append([jaccard(a, b) for a, b in zip(circuits, drawn, strict=True)])
    return torch.tensor(found).mean(0)
