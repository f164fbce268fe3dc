"""`Circuit`: the edges of a model that are said to do the work."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import polars as pl
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from digsite._core.cost import Cost
from digsite._core.errors import BadInput, explain
from digsite._core.provenance import Provenance
from digsite.artifacts import Result
from digsite.graphs.edges import LOGITS, Edge, EdgeSpace

ROLES = "roles"
"""The folder of what its nodes do, in a circuit's own."""


@dataclass(frozen=True, kw_only=True)
class Circuit(Result):
    """Some edges of a model, as one claim: these do the work, the others may be cut.

    What "size" counts is edges. An edge *dangles* when no way leads over it from an embedding to the logits; finding
    methods keep such edges only until `pruned` is called.

    Attributes:
        name: What it is the circuit of, such as the task.
        method: What found it.
        writers: As in `EdgeSpace`; so are readers and before.
        readers: Inputs.
        before: How many writers each reader can read.
        places: Where on the prompts its edges are meant, spans or positions; none if they are meant everywhere.
        kept: Which edges are in the circuit, with a place axis if there are places.
        scores: What each edge was scored, where it was; positive where the edge helps. NaN where it was not.
    """

    SCHEMA: ClassVar[str] = "graphs.circuit/2"
    PARTS: ClassVar[tuple[str, ...]] = (ROLES,)

    name: str
    method: str
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    before: tuple[int, ...]
    places: tuple[str, ...] = ()
    kept: Bool[Tensor, "*place writer reader"]
    scores: Float[Tensor, "*place writer reader"]

    @cached_property
    def space(self) -> EdgeSpace:
        """All edges of the model."""
        return EdgeSpace(self.writers, self.readers, self.before)

    def __len__(self) -> int:
        """How many edges are in the circuit; one at two places counts twice."""
        return int(self.kept.sum())

    def __bool__(self) -> bool:
        """A circuit without edges is still a circuit."""
        return True

    @property
    def anywhere(self) -> Bool[Tensor, "writer reader"]:
        """Which edges are in the circuit at some place."""
        return self.kept.any(0) if self.places else self.kept

    @property
    def possible(self) -> int:
        """How many edges it might have had."""
        return len(self.space) * max(1, len(self.places))

    @property
    def edges(self) -> tuple[Edge, ...]:
        """Its edges, by reader in the order of the forward pass."""
        return self.space.named(self.anywhere)

    @property
    def nodes(self) -> tuple[str, ...]:
        """The heads and MLPs that it uses: those with an edge out of them."""
        out = self.anywhere.any(1).tolist()
        return tuple(name for name, used in zip(self.writers, out, strict=True) if used and "layers" in name)

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        heads = sum("attn" in name for name in self.nodes)
        mlps = len(self.nodes) - heads
        share = len(self) / self.possible
        where = f" at {len(self.places)} places" if self.places else ""
        return (
            f"{self.method} keeps {len(self)} of {self.possible} edges{where} ({share:.1%}) for {self.name}: "
            f"{heads} {'head' if heads == 1 else 'heads'} and {mlps} {'MLP' if mlps == 1 else 'MLPs'}"
        )

    def to_frame(self) -> pl.DataFrame:
        """One row an edge of the circuit (and place), the largest score first."""
        placed = self.kept if self.places else self.kept.unsqueeze(0)
        where, reader, writer = placed.mT.nonzero(as_tuple=True)
        return pl.DataFrame(
            {
                "writer": [self.writers[i] for i in writer.tolist()],
                "reader": [self.readers[j] for j in reader.tolist()],
                "place": [(self.places or ("all",))[p] for p in where.tolist()],
                "score": self.scores.reshape(placed.shape)[where, writer, reader].tolist(),
            },
            schema={"writer": pl.String, "reader": pl.String, "place": pl.String, "score": pl.Float64},
        ).sort(pl.col("score").abs(), descending=True, nulls_last=True)

    def pruned(self) -> "Circuit":
        """The circuit without its dangling edges."""
        return replace(self, kept=prune(self.space, self.kept, placed=bool(self.places)))

    def with_edges(self, kept: Bool[Tensor, "*place writer reader"], *, method: str | None = None) -> "Circuit":
        """The same claim about other edges."""
        return replace(self, kept=kept & self.space.real, method=method or self.method)


def prune(
    space: EdgeSpace, kept: Bool[Tensor, "*lead writer reader"], *, placed: bool = False
) -> Bool[Tensor, "*lead writer reader"]:
    """Edges over which a way leads from an embedding to the logits; for any number of circuits at once.

    Args:
        space: All edges.
        kept: Of each circuit.
        placed: Whether the last leading axis is places. A query or an MLP hands on what it reads at its own place, a
            key or value at any.
    """
    here, across = ((space.inputs & which).float() for which in (~space.moves, space.moves))

    def anywhere(flags: Tensor) -> Tensor:
        return flags.any(-2, keepdim=True) if placed else flags

    source = torch.tensor([not name.startswith("layers.") for name in space.writers])
    sink = torch.tensor([name == LOGITS for name in space.readers])
    kept = kept & space.real
    while True:
        read, wrote = kept.any(-2), kept.any(-1)
        # Writers that something of the circuit flows into, and readers whose component the circuit goes on from.
        fed = source | (read.float() @ here.T > 0) | (anywhere(read).float() @ across.T > 0)
        used = sink | (wrote.float() @ here > 0) | (anywhere(wrote).float() @ across > 0)
        left = kept & fed[..., :, None] & used[..., None, :]
        if torch.equal(left, kept):
            return kept
        kept = left


def circuit(
    space: EdgeSpace,
    edges: Iterable[Edge] | Bool[Tensor, "*place writer reader"],
    *,
    name: str,
    method: str,
    provenance: Provenance,
    cost: Cost | None = None,
    scores: Float[Tensor, "*place writer reader"] | None = None,
    places: Sequence[str] = (),
) -> Circuit:
    """A circuit from its edges.

    Args:
        space: All edges of the model.
        edges: Pairs of addresses, or an array.
        name: What it is the circuit of.
        method: What found it.
        provenance: Where it comes from.
        cost: What finding it cost.
        scores: What each edge was scored.
        places: Where its edges are meant, if they have a place axis.
    """
    kept = edges if isinstance(edges, Tensor) else space.flags(edges)
    none = torch.full(kept.shape, torch.nan)
    return Circuit(
        name=name,
        method=method,
        writers=space.writers,
        readers=space.readers,
        before=space.before,
        places=tuple(places),
        kept=kept & space.real,
        scores=none if scores is None else scores,
        provenance=provenance,
        cost=cost or Cost(),
    )


def same_space(space: EdgeSpace, circuits: Sequence[Circuit]) -> None:
    """Refuses circuits of another model.

    Raises:
        BadInput: A circuit has other writers or readers.
    """
    for one in circuits:
        if one.space != space:
            strange = [name for name in (*one.writers, *one.readers) if name not in (*space.writers, *space.readers)]
            raise BadInput(
                explain(
                    f"The circuit of {one.name} belongs to another model",
                    found=f"{len(one.writers)} writers and {len(one.readers)} readers, "
                    + (f"such as {strange[0]}" if strange else "in another order"),
                    possible=f"{len(space.writers)} writers and {len(space.readers)} readers of this one",
                )
            )
