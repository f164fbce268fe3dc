"""How much circuits overlap, and what chance gives.

1. The overlap of two circuits is that of their edges (Jaccard): in both, over in either. That of their nodes beside it.
2. By chance: two sets of a and b edges out of N share about a b / N.
3. The core is what all of them have.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import polars as pl
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from digsite._core.cost import Cost
from digsite._core.errors import BadInput, explain
from digsite._core.provenance import record
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.graphs import Circuit
from digsite.graphs.circuit import same_space


@dataclass(frozen=True, kw_only=True)
class CircuitOverlap(Result):
    """How much circuits of one model overlap, pair by pair, and what all of them share.

    Attributes:
        names: What each is called.
        sizes: Edges of each.
        edges: How many the model has.
        overlap: Of the edges of each pair (Jaccard).
        nodes: Of their heads and MLPs.
        core: The circuit that all share.
    """

    SCHEMA: ClassVar[str] = "circuits.overlap/1"

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    edges: int
    overlap: Float[Tensor, "circuit circuit"]
    nodes: Float[Tensor, "circuit circuit"]
    core: Circuit

    def to_frame(self) -> pl.DataFrame:
        """One row a pair: the overlap of edges, what chance gives circuits of these sizes, the overlap of nodes."""
        pairs = [(i, j) for j in range(len(self.names)) for i in range(j)]
        return pl.DataFrame(
            [
                {
                    "first": self.names[i],
                    "second": self.names[j],
                    "edges": float(self.overlap[i, j]),
                    "edges_by_chance": by_chance(self.sizes[i], self.sizes[j], self.edges),
                    "nodes": float(self.nodes[i, j]),
                }
                for i, j in pairs
            ]
        )

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        frame = self.to_frame()
        mean, chance = (float(frame[name].to_numpy().mean()) for name in ("edges", "edges_by_chance"))
        return (
            f"{len(self.names)} circuits share {len(self.core)} edges; two of them overlap by {mean:.2f} on average, "
            f"by chance {chance:.2f}"
        )


@method
def compare_circuits(circuits: Sequence[Circuit], names: Sequence[str] | None = None) -> CircuitOverlap:
    """How much circuits of one model overlap: of several tasks, methods, seeds of data, or steps of its training.

    Args:
        circuits: Two or more, with the same writers and readers.
        names: What each is called; what it is the circuit of if None.

    Raises:
        BadInput: Fewer than two circuits, or circuits that do not have the same edges and places.

    Caveats:
        Edges are compared by name. A head of one model has nothing to do with the head of that name in another model
        that was trained from another seed: `match_roles` compares those.
    """
    if len(circuits) < 2:
        raise BadInput(explain("A comparison needs two circuits", found=str(len(circuits))))
    same_space(circuits[0].space, circuits)
    if len({one.places for one in circuits}) > 1:
        found = "; ".join(", ".join(one.places) or "everywhere" for one in circuits)
        raise BadInput(explain("Circuits are compared where they are meant at the same places", found=found))
    core = torch.stack([one.kept for one in circuits]).all(0)
    names = tuple(one.name for one in circuits) if names is None else tuple(names)
    provenance = record(f"digsite.circuits.compare_circuits({', '.join(names)})")
    return CircuitOverlap(
        names=names,
        sizes=tuple(len(one) for one in circuits),
        edges=circuits[0].possible,
        overlap=overlaps(torch.stack([one.kept for one in circuits])),
        nodes=torch.tensor([[_of_nodes(one, other) for other in circuits] for one in circuits]),
        core=circuits[0].with_edges(core, method=f"shared by {len(circuits)} circuits"),
        provenance=provenance,
        cost=Cost(),
    )


def overlaps(kept: Bool[Tensor, "circuit *place writer reader"]) -> Float[Tensor, "circuit circuit"]:
    """The overlap (`jaccard`) of every pair of circuits, all at once; 1 where both are empty.

    Args:
        kept: Which edges each has.
    """
    flat = kept.flatten(1).float()
    both, sizes = flat @ flat.T, flat.sum(1)
    either = sizes[:, None] + sizes - both
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)


def by_chance(a: int, b: int, edges: int) -> float:
    """The overlap of two random sets of edges: what both are expected to have, over what either then has.

    Args:
        a: Edges of one.
        b: Of the other.
        edges: How many there are.
    """
    both = a * b / edges
    return both / (a + b - both) if a + b else 1.0


def _of_nodes(one: Circuit, other: Circuit) -> float:
    a, b = set(one.nodes), set(other.nodes)
    return len(a & b) / len(a | b) if a | b else 1.0
