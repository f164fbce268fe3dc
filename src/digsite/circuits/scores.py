"""`EdgeScores`: what a method says about every edge, for every example.

Conventions, the same for every method that scores edges:
1. A score is the drop of the metric that is predicted if the edge carried what its writer writes on the corrupt prompt,
   everything else being clean (the direction "noise"). Positive: the edge helps. It is in the metric's unit.
2. Scores are kept for each example, so that every claim about them has an interval.
3. Size counts edges, after edges that dangle are gone.
4. Choosing "signed" takes the largest scores, "absolute" the largest by size; "greedy" grows from the logits towards
   the embedding, so that nothing dangles from above. MIB's CPR goes with signed, its CMD with absolute.
"""

import heapq
from dataclasses import dataclass
from typing import ClassVar

import polars as pl
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from digsite._core.errors import BadInput, explain
from digsite._core.numerics import bootstrap_interval
from digsite.artifacts import Result
from digsite.circuits.places import asked
from digsite.graphs import Circuit, EdgeSpace
from digsite.graphs.circuit import circuit, prune
from digsite.graphs.edges import owners

SELECT = ("absolute", "signed", "greedy")
SHOWN = 200
"""Edges in the table, with intervals."""


@dataclass(frozen=True, kw_only=True)
class EdgeScores(Result):
    """What every edge is worth to the metric, by one method, for every example.

    Attributes:
        method: Its name.
        task: The task.
        metric_name: The metric.
        unit: Its unit.
        clean: The metric on clean prompts.
        corrupt: The metric on corrupt prompts.
        places: "all", or the positions or spans over which scores were summed apart.
        writers: As in `EdgeSpace`; so are readers and before.
        readers: Inputs.
        before: How many writers each reader can read.
        scores: Predicted drop of the metric if the edge carried the corrupt value; 0 where there is no edge.
    """

    SCHEMA: ClassVar[str] = "circuits.scores/1"

    method: str
    task: str
    metric_name: str
    unit: str
    clean: Float[Tensor, " example"]
    corrupt: Float[Tensor, " example"]
    places: tuple[str, ...]
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    before: tuple[int, ...]
    scores: Float[Tensor, "example place writer reader"]

    @property
    def space(self) -> EdgeSpace:
        """All edges of the model."""
        return EdgeSpace(self.writers, self.readers, self.before)

    @property
    def at(self) -> str | list[str] | None:
        """The places that were asked for, as `eap` takes them."""
        return asked(self.places)

    def mean(self) -> Float[Tensor, "writer reader"]:
        """The score of every edge: summed over places, the mean over examples."""
        return self.scores.sum(1).mean(0)

    def placed(self) -> Float[Tensor, "example *place writer reader"]:
        """The scores of every example, without a place axis where there is one place."""
        return self.scores if self.at else self.scores.squeeze(1)

    def nodes(self) -> Float[Tensor, "example writer"]:
        """What every writer is worth (node attribution): the sum over the readers of what it writes.

        The gradient at a writer's output is the sum of the gradients at all inputs that read it, so this is exactly
        what attribution patching of nodes gives.
        """
        return self.scores.sum((1, 3))

    def predicted(self) -> float:
        """What the edges out of the embeddings say the metric drops in all; the measured drop is clean - corrupt."""
        first = [i for i, name in enumerate(self.writers) if "layers" not in name]
        return float(self.scores.sum((1, 3)).mean(0)[first].sum())

    def to_frame(self, shown: int = SHOWN) -> pl.DataFrame:
        """One row an edge and place, the largest first: score with its 95 % interval over examples, n.

        Args:
            shown: How many edges; an interval is drawn for each.
        """
        means = self.scores.mean(0)
        top = means.abs().flatten().topk(min(shown, len(self.places) * len(self.space))).indices
        values = self.scores.flatten(1)[:, top]
        low, high = bootstrap_interval(values)
        where = torch.stack(torch.unravel_index(top, means.shape)).tolist()
        return pl.DataFrame(
            {
                "writer": [self.writers[i] for i in where[1]],
                "reader": [self.readers[j] for j in where[2]],
                "place": [self.places[p] for p in where[0]],
                "score": values.mean(0).tolist(),
                "low": low.tolist(),
                "high": high.tolist(),
                "n": len(self.scores),
            }
        )

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        best = self.to_frame(1).row(0, named=True)
        drop = float((self.clean - self.corrupt).mean())
        return (
            f"{self.method} gives {best['writer']} → {best['reader']} the largest score, {best['score']:.3g} "
            f"{self.unit} (95 % {best['low']:.3g} to {best['high']:.3g}); out of the embeddings it predicts a drop of "
            f"{self.predicted():.3g} where {drop:.3g} is measured (n = {len(self.scores)})"
        )

    def circuit(self, size: int | float, *, select: str = "absolute") -> Circuit:
        """The best edges as a circuit; where places were scored apart, the best edges at their places.

        Args:
            size: How many edges, or which share of all of them if between 0 and 1 (1.0 is all; 1 is one edge).
            select: "absolute", "signed" or "greedy"; see the conventions above.

        Returns:
            Without edges that dangle, so it may be smaller than was asked for.

        Raises:
            BadInput: No such size or choice.
        """
        space, mean = self.space, self.placed().mean(0)
        possible = len(space) * len(self.places)
        count = int(size * possible) if isinstance(size, float) else size
        if not 0 <= count <= possible:
            raise BadInput(explain(f"A circuit has 0 to {possible} edges", found=f"size={size}"))
        return circuit(
            space,
            prune(space, chosen(space, mean, count, select=select), placed=bool(self.at)),
            name=self.task,
            method=f"{self.method} ({select})",
            provenance=self.provenance,
            cost=self.cost,
            scores=mean,
            places=self.places if self.at else (),
        )


def chosen(
    space: EdgeSpace, scores: Float[Tensor, "*place writer reader"], count: int, *, select: str = "absolute"
) -> Bool[Tensor, "*place writer reader"]:
    """The best edges, dangling ones among them.

    Args:
        space: All edges.
        scores: Of each, everywhere or at each place.
        count: How many.
        select: "absolute", "signed" or "greedy".
    """
    if select not in SELECT:
        raise BadInput(explain(f"select={select!r} is not a way to choose edges", possible=SELECT, near=select))
    kept = torch.zeros(scores.shape, dtype=torch.bool)
    if select == "greedy":
        shape = (-1, *space.real.shape)
        _grow(space, scores.abs().reshape(shape), count, kept.view(shape))
        return kept
    value = (scores.abs() if select == "absolute" else scores).masked_fill(~space.real, -torch.inf)
    best = value.flatten().topk(count).indices
    kept.view(-1)[best] = True
    return kept


def random_circuit(
    space: EdgeSpace, like: Bool[Tensor, "*place writer reader"], count: int, generator: torch.Generator
) -> Bool[Tensor, "*place writer reader"]:
    """A circuit grown from the logits with random scores: its edges lead somewhere, and nothing else speaks for them.

    Args:
        space: All edges.
        like: A circuit with the same places.
        count: How many edges.
        generator: Of the scores.
    """
    return chosen(space, torch.rand(like.shape, generator=generator), count, select="greedy")


def _grow(space: EdgeSpace, scores: Tensor, count: int, kept: Tensor) -> None:
    """From the logits on, again and again the best edge into anything that is already in; [place, writer, reader]."""
    inputs = {name: [] for name in space.writers}
    for reader, name in enumerate(space.readers):
        for owner in owners(name, space.groups):
            inputs[owner].append(reader)
    heap: list[tuple[float, int, int, int]] = []
    seen: set[tuple[int, int]] = set()
    everywhere, moves = range(len(scores)), space.moves.tolist()

    def enter(place: int, reader: int) -> None:
        if (place, reader) not in seen:
            seen.add((place, reader))
            for writer, score in enumerate(scores[place, : space.before[reader], reader].tolist()):
                heapq.heappush(heap, (-score, place, reader, writer))

    for place in everywhere:
        enter(place, len(space.readers) - 1)
    while heap and count:
        _, place, reader, writer = heapq.heappop(heap)
        kept[place, writer, reader] = True
        count -= 1
        for one in inputs[space.writers[writer]]:
            for there in everywhere if moves[one] else (place,):
                enter(there, one)
