"""The circuits of many prompts: what they share, what is left over for each, and how far that hangs on the prompts.

1. The circuit of a prompt: the best edges by the scores of that prompt alone, without those that dangle.
2. The shared core: the edges that are in the circuits of at least a given share of the prompts. By chance: the edges
   that circuits of these sizes, drawn at random, would share in this sense (binomial).
3. The remainder of a prompt: the edges of its circuit that are not in the core.
4. Halves: the prompts are split in two at random, again and again; the overlap (Jaccard) of the circuits of the mean
   scores of both halves, beside that of two random sets of edges of their sizes.
5. Groups (templates, orders, paraphrases): the overlap of the circuits of each two groups, beside the same with the
   prompts dealt out to the groups anew. Where groups overlap less than dealt ones do, they have circuits of their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float
from scipy import stats
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, explain
from digsite._core.numerics import wilson_interval
from digsite._core.progress import track
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.circuits.judging import jaccard
from digsite.circuits.overlap import by_chance, overlaps
from digsite.circuits.scores import EdgeScores, chosen
from digsite.graphs import Circuit, EdgeSpace
from digsite.graphs.circuit import circuit, prune
from digsite.tasks import Task


@dataclass(frozen=True, kw_only=True)
class Population(Result):
    """The circuits of many prompts, each from its own scores, and what they share.

    Attributes:
        method: What scored the edges.
        task: The task.
        size: Edges chosen for each prompt, before those that dangle were left out.
        select: How they were chosen.
        share: In the circuits of which share of the prompts an edge of the core is, at least.
        writers: As in `EdgeSpace`; so are readers and before.
        readers: Inputs.
        before: How many writers each reader can read.
        circuits: The edges of each prompt's circuit.
        scores: The mean score of every edge.
        halves: The overlap of the circuits of two halves of the prompts, for each split.
        halves_by_chance: Of two random sets of edges of their sizes.
        groups: The group of each prompt.
        kinds: The groups, each once.
        between: The overlap of the circuits of each two groups.
        dealt: The same with prompts dealt out to the groups anew.
    """

    SCHEMA: ClassVar[str] = "circuits.population/1"

    method: str
    task: str
    size: int
    select: str
    share: float
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    before: tuple[int, ...]
    circuits: Bool[Tensor, "example writer reader"]
    scores: Float[Tensor, "writer reader"]
    halves: Float[Tensor, " draw"]
    halves_by_chance: Float[Tensor, " draw"]
    groups: tuple[str, ...]
    kinds: tuple[str, ...]
    between: Float[Tensor, "group group"]
    dealt: Float[Tensor, "_ group group"]

    @property
    def space(self) -> EdgeSpace:
        """All edges of the model."""
        return EdgeSpace(self.writers, self.readers, self.before)

    @property
    def frequency(self) -> Float[Tensor, "writer reader"]:
        """In the circuits of which share of the prompts each edge is."""
        return self.circuits.float().mean(0)

    @property
    def core(self) -> Circuit:
        """The edges that most prompts share, dangling ones among them: what leads there may differ by prompt."""
        return circuit(
            self.space,
            self._in_core,
            name=self.task,
            method=f"{self.method} ({self.select}), shared by {self.share:.0%} of {len(self.circuits)} prompts",
            provenance=self.provenance,
            cost=self.cost,
            scores=self.scores,
        )

    @property
    def core_by_chance(self) -> float:
        """How many edges random circuits of these sizes would share in the same sense."""
        edges = len(self.space)
        mean = float(self.circuits.sum((1, 2)).float().mean()) / edges
        return edges * float(stats.binom.sf(_least(self.share, len(self.circuits)) - 1, len(self.circuits), mean))

    @property
    def remainders(self) -> Bool[Tensor, "example writer reader"]:
        """What each prompt's circuit has besides the core."""
        return self.circuits & ~self._in_core

    @property
    def alike(self) -> Float[Tensor, "example example"]:
        """The overlap of the circuits of each two prompts."""
        return overlaps(self.circuits)

    @property
    def _in_core(self) -> Bool[Tensor, "writer reader"]:
        return self.circuits.sum(0) >= _least(self.share, len(self.circuits))

    def to_frame(self) -> pl.DataFrame:
        """One row an edge that is in any circuit, the most frequent first: share of prompts with 95 % interval."""
        counts, n = self.circuits.sum(0), len(self.circuits)
        places = counts.nonzero()
        counts = counts[places[:, 0], places[:, 1]].tolist()
        ends = {count: wilson_interval(count, n) for count in set(counts)}
        return pl.DataFrame(
            {
                "writer": [self.writers[i] for i in places[:, 0].tolist()],
                "reader": [self.readers[j] for j in places[:, 1].tolist()],
                "share": [count / n for count in counts],
                "low": [ends[count][0] for count in counts],
                "high": [ends[count][1] for count in counts],
                "core": self._in_core[places[:, 0], places[:, 1]].tolist(),
                "score": self.scores[places[:, 0], places[:, 1]].tolist(),
                "n": n,
            }
        ).sort("share", pl.col("score").abs(), descending=True)

    def prompts(self) -> pl.DataFrame:
        """One row a prompt: its group, the size of its circuit, how much of it is core and how much is left over."""
        sizes, left = self.circuits.sum((1, 2)), self.remainders.sum((1, 2))
        n = len(self.circuits)
        return pl.DataFrame(
            {
                "prompt": list(range(n)),
                "group": list(self.groups),
                "size": sizes.tolist(),
                "core": (sizes - left).tolist(),
                "remainder": left.tolist(),
                "overlap": ((self.alike.sum(1) - 1) / (n - 1)).tolist(),
            }
        )

    def group_frame(self) -> pl.DataFrame:
        """One row a pair of groups: overlap of their circuits; mean and 5 % quantile with prompts dealt out anew."""
        low = torch.quantile(self.dealt, 0.05, dim=0) if len(self.kinds) > 1 else self.between
        return pl.DataFrame(
            [
                {
                    "first": self.kinds[i],
                    "second": self.kinds[j],
                    "overlap": float(self.between[i, j]),
                    "dealt": float(self.dealt[:, i, j].mean()),
                    "dealt_low": float(low[i, j]),
                    "p": float((1 + (self.dealt[:, i, j] <= self.between[i, j]).sum()) / (1 + len(self.dealt))),
                }
                for j in range(len(self.kinds))
                for i in range(j)
            ],
            schema={"first": str, "second": str, "overlap": float, "dealt": float, "dealt_low": float, "p": float},
        )

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        sizes, left = self.circuits.sum((1, 2)).float(), self.remainders.sum((1, 2)).float()
        low, high = torch.quantile(self.halves, torch.tensor([0.025, 0.975], dtype=self.halves.dtype)).tolist()
        said = (
            f"{int(self._in_core.sum())} of {len(self.space)} edges are in the circuits of {self.share:.0%} of "
            f"{len(self.circuits)} prompts of {self.task} (by chance {self.core_by_chance:.2g}); a prompt's circuit "
            f"has {float(sizes.mean()):.0f} edges, {float(left.mean()):.0f} of them its own; circuits of two halves "
            f"of the prompts overlap by {float(self.halves.mean()):.2f} (95 % {low:.2f} to {high:.2f}; by chance "
            f"{float(self.halves_by_chance.mean()):.2f})"
        )
        if len(self.kinds) < 2:
            return said
        pairs = ~torch.eye(len(self.kinds), dtype=torch.bool)
        mean, dealt = float(self.between[pairs].mean()), self.dealt[:, pairs].mean(1)
        p = float((1 + (dealt <= mean).sum()) / (1 + len(dealt)))
        return said + (
            f"; those of {len(self.kinds)} groups overlap by {mean:.2f}, with prompts dealt out to them anew by "
            f"{float(dealt.mean()):.2f} (p = {p:.2g}{'' if p < 0.05 else ': no sign that groups differ'})"
        )


@method
def shared_core(
    scores: EdgeScores,
    task: Task,
    size: int | float,
    *,
    share: float = 0.8,
    select: str = "absolute",
    groups: Sequence[str] | None = None,
    draws: int = 100,
    seed: int = 0,
) -> Population:
    """The circuit of every prompt from its own scores, what all share, and whether groups of prompts differ.

    Args:
        scores: Of any method, for the prompts of the task.
        task: The prompts.
        size: Edges of each circuit, or which share of all (0.01).
        share: In the circuits of which share of the prompts an edge of the core is, at least.
        select: "absolute", "signed" or "greedy".
        groups: The group of each prompt; the task's own if None (for `ioi` its order and template).
        draws: Splits in halves, and deals to groups.
        seed: Of the draws.

    Raises:
        BadInput: Scores of other prompts, a share that is not between 0 and 1, or fewer than four prompts.

    Units:
        Edges; overlaps are fractions.

    Caveats:
        The scores of one prompt are noisier than their mean, so what prompts do not share is in part noise; the measure
        of what core and remainder do is `core_faithfulness`. The overlap of halves speaks of circuits from half of
        the prompts, and is lower than what all of them would give.
    """
    groups = tuple(task.groups if groups is None else groups)
    space, each = scores.space, scores.scores.sum(1)
    count = int(size * len(space)) if isinstance(size, float) else size
    _check(each, task, groups, share, count, len(space))
    rng = np.random.default_rng(seed)
    best = partial(_best, space, count=count, select=select)
    with measure() as cost:
        halves, chance = [], []
        for _ in track(range(draws), "halves"):
            one, other = best(_means(each, np.array_split(rng.permutation(len(each)), 2)))
            halves.append(jaccard(one, other))
            chance.append(by_chance(int(one.sum()), int(other.sum()), len(space)))
        kinds, label = np.unique(groups, return_inverse=True)
        dealings = [label, *(rng.permutation(label) for _ in range(draws if len(kinds) > 1 else 0))]
        between, *dealt = (
            overlaps(best(_means(each, [np.flatnonzero(dealing == kind) for kind in range(len(kinds))])))
            for dealing in dealings
        )
    return Population(
        method=scores.method,
        task=scores.task,
        size=count,
        select=select,
        share=share,
        writers=scores.writers,
        readers=scores.readers,
        before=scores.before,
        circuits=best(each),
        scores=scores.mean(),
        halves=torch.tensor(halves),
        halves_by_chance=torch.tensor(chance),
        groups=groups,
        kinds=tuple(kinds.tolist()),
        between=between,
        dealt=torch.stack(dealt) if dealt else between.new_zeros(0, len(kinds), len(kinds)),
        provenance=replace(
            scores.provenance,
            made_by=f"digsite.circuits.shared_core(scores, task, {size}, share={share}, select={select!r}) with "
            f"scores = {scores.provenance.made_by}",
            seed=seed,
        ),
        cost=cost,
    )


def _best(
    space: EdgeSpace, scores: Float[Tensor, "circuit writer reader"], *, count: int, select: str
) -> Bool[Tensor, "circuit writer reader"]:
    return prune(space, torch.stack([chosen(space, one, count, select=select) for one in scores]))


def _means(
    each: Float[Tensor, "example writer reader"], parts: Sequence[np.ndarray]
) -> Float[Tensor, "circuit writer reader"]:
    """The mean scores of some parts of the examples."""
    return torch.stack([each[torch.from_numpy(part)].mean(0) for part in parts])


def _least(share: float, prompts: int) -> int:
    """In how many prompts' circuits an edge of the core is, at least."""
    return max(1, int(np.ceil(share * prompts - 1e-9)))


def _check(each: Tensor, task: Task, groups: Sequence[str], share: float, count: int, edges: int) -> None:
    if len(each) != len(task) or len(groups) != len(task):
        raise BadInput(
            explain(
                f"A population needs scores and a group for each of the {len(task)} prompts of {task.name}",
                found=f"scores of {len(each)} prompts, {len(groups)} groups",
                do="score the edges on this task: eap_ig(model, task)",
            )
        )
    if len(task) < 4 or not 0 < share <= 1 or not 0 < count <= edges:
        raise BadInput(
            explain(
                "A population is four prompts or more, each with a circuit",
                found=f"{len(task)} prompts, share={share}, {count} of {edges} edges",
                possible="0 < share <= 1, one edge or more",
            )
        )
