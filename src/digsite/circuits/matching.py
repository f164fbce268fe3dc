"""Which node of one model does what which node of another does, and how much of their circuits is then the same.

1. Traits that both models have are put on one scale: over the nodes of both together, heads and MLPs apart, the mean of
   each is 0 and its spread 1. A trait that is the same for all says nothing and is left out.
2. similarity(i, j) = 1 − d²/2, where d² is the mean over families of traits of the mean squared difference: 1 for the
   same profile, 0 on average for two nodes at random, below it for opposites.
3. Nodes are matched one to one (Kuhn's assignment), heads to heads and MLPs to MLPs, so that the sum of
   (importance i + importance j)/2 · similarity is largest. That sum is the similarity of the models: 1 where all that
   matters in one has its like in the other. Nodes without a partner add nothing.
4. The first model's circuit is carried over: each edge becomes the edge between the partners of its ends. Overlap is
   that of sets (Jaccard), and weighted: Σ min / Σ max of the shares of score that the edges have in their circuits.
5. Null: nodes of the first model keep their layer, and all their other traits are dealt out anew among the nodes of
   their kind, each by itself; then 3 and 4. It is what layers alone give.
6. Ceiling: each model beside itself on examples that were drawn again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, explain
from digsite._core.progress import track
from digsite._core.provenance import record
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.circuits.roles import FAMILIES, KINDS, Roles
from digsite.graphs import Circuit, EdgeSpace
from digsite.graphs.circuit import same_space
from digsite.graphs.edges import LOGITS, owners

RoleEdge = tuple[str, str, str]
"""An edge as roles see it: its writer, the head or MLP that reads (or the logits), and by which input."""


@dataclass(frozen=True, kw_only=True)
class RoleMatch(Result):
    """Which nodes of two models do the same in a task, and how much of their circuits is the same after that.

    Attributes:
        names: Of the two models.
        tasks: Of the two tasks.
        traits: What they were compared by.
        first: Nodes of the first model, the pair that counts most first.
        second: Their partners.
        similar: How similar each pair is.
        weight: How much each pair counts: the mean importance of its two nodes.
        similarity: Of the models.
        similarity_null: With traits dealt out anew.
        similarity_again: With the examples of both drawn again.
        ceiling: Of each model and itself with the examples drawn again.
        overlap: Of the circuits after matching (Jaccard); NaN without circuits.
        overlap_null: With traits dealt out anew.
        weighted: The same, weighted by scores.
        weighted_null: With traits dealt out anew.
    """

    SCHEMA: ClassVar[str] = "circuits.matching/1"

    names: tuple[str, str]
    tasks: tuple[str, str]
    traits: tuple[str, ...]
    first: tuple[str, ...]
    second: tuple[str, ...]
    similar: Float[Tensor, " node"]
    weight: Float[Tensor, " node"]
    similarity: float
    similarity_null: Float[Tensor, " draw"]
    similarity_again: Float[Tensor, " _"]
    ceiling: Float[Tensor, " _"]
    overlap: float
    overlap_null: Float[Tensor, " draw"]
    weighted: float
    weighted_null: Float[Tensor, " draw"]

    def to_frame(self) -> pl.DataFrame:
        """One row a pair of nodes, the one that counts most first: its similarity and its weight."""
        return pl.DataFrame(
            {
                "first": list(self.first),
                "second": list(self.second),
                "similar": self.similar.tolist(),
                "weight": self.weight.tolist(),
            }
        )

    def numbers(self) -> pl.DataFrame:
        """One row a number: its value, the null's mean and 95 % quantile, and how often the null reaches it (p)."""
        rows = [("similarity", self.similarity, self.similarity_null)]
        if self.overlap == self.overlap:
            rows += [("overlap", self.overlap, self.overlap_null), ("weighted", self.weighted, self.weighted_null)]
        return pl.DataFrame(
            [
                {
                    "number": name,
                    "value": value,
                    "null": float(null.mean()),
                    "null_high": float(torch.quantile(null, 0.95)),
                    "p": float((1 + (null >= value - 1e-9).sum()) / (1 + len(null))),
                }
                for name, value, null in rows
            ]
        )

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        rows = {row["number"]: row for row in self.numbers().rows(named=True)}
        alike = rows["similarity"]
        ends = torch.quantile(self.similarity_again, torch.tensor([0.025, 0.975])).tolist()
        said = (
            f"the roles of {self.names[0]} and {self.names[1]} are similar by {self.similarity:.2f} (examples drawn "
            f"again: {ends[0]:.2f} to {ends[1]:.2f}; each beside itself {float(self.ceiling.mean()):.2f}), where "
            f"layers alone give {alike['null']:.2f} (p = {alike['p']:.2g})"
        )
        told = ""
        if "overlap" in rows:
            edges, scored = rows["overlap"], rows["weighted"]
            told = (
                f"; matched by role their circuits overlap by {edges['value']:.2f} (layers alone {edges['null']:.2f}, "
                f"p = {edges['p']:.2g}), weighted by score {scored['value']:.2f} ({scored['null']:.2f}, "
                f"p = {scored['p']:.2g})"
            )
        failed = [name for name, row in rows.items() if row["p"] >= 0.05]
        return said + told + (f"; no more than layers give: {', '.join(failed)}" if failed else "")


@method
def match_roles(
    first: Roles,
    second: Roles,
    circuits: tuple[Circuit, Circuit] | None = None,
    *,
    names: tuple[str, str] | None = None,
    draws: int = 200,
    seed: int = 0,
) -> RoleMatch:
    """Whether two models do a task in the same way, whatever their heads are called.

    Args:
        first: Roles in one model.
        second: Roles in another, on the same task, or on one whose spans have the same names.
        circuits: Their circuits, to be carried over.
        names: What the models are called; as roles call them if None.
        draws: Of the null.
        seed: Of the draws.

    Raises:
        BadInput: The roles have no trait of attention or scores in common, or a circuit is of another model.

    Units:
        Fractions; similarity is at most 1 and about 0 for strangers.

    Caveats:
        The best matching is chosen by what it is judged by, so its similarity is above 0 for strangers too: read it
        beside its null. An untrained model of the same shape is a second null; make its roles in the same way.
        Drawing examples again adds noise to both models, so the interval may lie below the value. The plain overlap
        hangs on which edges just make it into a circuit; the weighted one less. Similar roles are not the same
        computation.
    """
    traits = tuple(name for name in first.traits if name in second.traits)
    if circuits is not None:
        for one, found in zip((first, second), circuits, strict=True):
            same_space(one.space, [found])
    if not any(name.startswith(("reads", "attends")) for name in traits):
        raise BadInput(explain("The roles have no trait in common", found=f"{len(first.traits)} and others"))
    with measure() as cost:
        models = [_Profiled(one, traits) for one in (first, second)]
        best = _matched(*models)
        value = _overlaps(models, best.pairs, circuits)
        rng = np.random.default_rng(seed)
        null = []
        for _ in track(range(draws), "null"):
            dealt = [models[0].dealt(rng), models[1]]
            by_chance = _matched(*dealt)
            null.append((by_chance.similarity, *_overlaps(dealt, by_chance.pairs, circuits)))
        again = zip(models[0].again(), models[1].again(), strict=False)
        ceiling = [_matched(model, one).similarity for model in models for one in model.again()]
        order = best.weight.argsort(descending=True)
    chance = torch.tensor(null).T
    return RoleMatch(
        names=names or (first.model, second.model),
        tasks=(first.task, second.task),
        traits=traits,
        first=tuple(first.nodes[i] for i in best.pairs[order, 0].tolist()),
        second=tuple(second.nodes[i] for i in best.pairs[order, 1].tolist()),
        similar=best.similar[order],
        weight=best.weight[order],
        similarity=best.similarity,
        similarity_null=chance[0],
        similarity_again=torch.tensor([_matched(*pair).similarity for pair in again]),
        ceiling=torch.tensor(ceiling),
        overlap=value[0],
        overlap_null=chance[1],
        weighted=value[1],
        weighted_null=chance[2],
        provenance=record(
            f"digsite.circuits.match_roles({first.model}, {second.model})", tokens=first.provenance.tokens, seed=seed
        ),
        cost=cost,
    )


# -- 1. to 3. profiles and the matching ------------------------------------------------------------------------------
class _Profiled:
    """The profiles of one model in the traits that both have."""

    def __init__(self, found: Roles, traits: Sequence[str], profile: Tensor | None = None):
        columns = [found.traits.index(name) for name in traits]
        self.found, self.traits = found, tuple(traits)
        self.profile = (found.profile[:, columns] if profile is None else profile).double()
        self.importance = found.importance.double()
        self.rows = {kind: [i for i, one in enumerate(found.kinds) if one == kind] for kind in KINDS}

    def dealt(self, rng: np.random.Generator) -> "_Profiled":
        """5. All traits but the layer dealt out anew among the nodes of a kind, each by itself."""
        profile = self.profile.clone()
        for rows in self.rows.values():
            for column, name in enumerate(self.traits):
                if name != "depth":
                    profile[rows, column] = profile[rng.permutation(rows), column]
        return _Profiled(self.found, self.traits, profile)

    def again(self) -> list["_Profiled"]:
        """6. From examples that were drawn again."""
        columns = [self.found.traits.index(name) for name in self.traits]
        return [_Profiled(self.found, self.traits, one[:, columns]) for one in self.found.again]


def _similarities(first: _Profiled, second: _Profiled) -> Float[Tensor, "node _"]:
    """2. How similar each node of one is to each of the other; −∞ for a head and an MLP."""
    found = torch.full((len(first.profile), len(second.profile)), -torch.inf, dtype=torch.float64)
    family = torch.tensor([next(i for i, name in enumerate(FAMILIES) if t.startswith(name)) for t in first.traits])
    for kind in KINDS:
        rows, others = first.rows[kind], second.rows[kind]
        if not rows or not others:
            continue
        both = torch.cat([first.profile[rows], second.profile[others]])
        spread = both.std(0, correction=0)
        telling = spread > 1e-6  # a trait of heads alone is NaN for MLPs, and is left out too
        scaled = (both - both.mean(0))[:, telling] / spread[telling]
        square = (scaled[: len(rows), None] - scaled[None, len(rows) :]) ** 2
        members = [family[telling] == i for i in family[telling].unique()]
        distance = torch.stack([square[..., one].mean(-1) for one in members]).mean(0)
        found[torch.tensor(rows)[:, None], torch.tensor(others)] = 1 - distance / 2
    return found


class _Matched(NamedTuple):
    """3. The pairs of the best matching, how similar they are, how much each counts, and what that makes."""

    pairs: Int[Tensor, "pair 2"]
    similar: Float[Tensor, " pair"]
    weight: Float[Tensor, " pair"]

    @property
    def similarity(self) -> float:
        return float((self.weight * self.similar).sum())


def _matched(first: _Profiled, second: _Profiled) -> _Matched:
    similar = _similarities(first, second)
    weight = (first.importance[:, None] + second.importance) / 2
    found = []
    for kind in KINDS:
        rows, others = first.rows[kind], second.rows[kind]
        if rows and others:
            one, other = linear_sum_assignment((weight * similar)[rows][:, others].numpy(), maximize=True)
            found += [(rows[i], others[j]) for i, j in zip(one, other, strict=True)]
    pairs = torch.tensor(found)
    return _Matched(pairs, similar[pairs[:, 0], pairs[:, 1]], weight[pairs[:, 0], pairs[:, 1]])


# -- 4. the circuits -------------------------------------------------------------------------------------------------
def _overlaps(
    models: Sequence[_Profiled], pairs: Int[Tensor, "pair 2"], circuits: tuple[Circuit, Circuit] | None
) -> tuple[float, float]:
    """The overlap of the circuits when the first is carried over; plain, and weighted by scores."""
    if circuits is None:
        return float("nan"), float("nan")
    partner = {models[0].found.nodes[i]: models[1].found.nodes[j] for i, j in pairs.tolist()}
    one, other = (role_edges(found) for found in circuits)
    moved = {carried(edge, partner): share for edge, share in one.items()}
    every = moved.keys() | other.keys()
    both = [min(moved[edge], other[edge]) for edge in moved.keys() & other.keys()]
    largest = sum(max(moved.get(edge, 0.0), other.get(edge, 0.0)) for edge in every)
    return (len(both) / len(every), sum(both) / largest) if every else (1.0, 1.0)


def carried(edge: RoleEdge, partner: dict[str, str]) -> RoleEdge:
    """An edge between the partners of its ends; where one has none, an edge that the other model cannot have.

    Args:
        edge: Of the first model.
        partner: Of each of its nodes, the second model's.
    """
    ends = (partner.get(name, name if not name.startswith("layers.") else f"no partner of {name}") for name in edge[:2])
    writer, reader = ends
    return writer, reader, edge[2]


def role_edges(found: Circuit) -> dict[RoleEdge, float]:
    """The edges of a circuit, and which share of its score each has; a key that heads share counts for each of them.

    Args:
        found: A circuit; where it has no scores, its edges have equal shares.
    """
    groups = EdgeSpace(found.writers, found.readers, found.before).groups
    sizes = found.scores.abs().nan_to_num(nan=0.0)
    sizes = sizes.sum(0) if found.places else sizes
    sizes = sizes if float(sizes[found.anywhere].sum()) > 0 else torch.ones_like(sizes)
    edges: dict[RoleEdge, float] = {}
    for writer, reader in found.anywhere.nonzero().tolist():
        name = found.readers[reader]
        heads = owners(name, groups) or (LOGITS,)
        part = name.split(".")[-1].split("[")[0]
        for head in heads:
            edges[found.writers[writer], head, part] = float(sizes[writer, reader]) / len(heads)
    whole = sum(edges.values())
    return {edge: size / whole for edge, size in edges.items()}
