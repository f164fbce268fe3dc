"""The edges of a model: every way in which what one part writes to the residual stream can be read by a later part.

1. Writers are the embedding, learned positions, every head and every MLP, in the order of the forward pass.
2. Readers are the query, key and value input of every head, the input of every MLP, and the logits.
3. A reader reads the stream, which is the sum of what was written before it. So the writers of a reader are the first
   few of all writers, and one number for each reader says everything about who can reach whom: in a block whose
   attention and MLP are parallel the MLP does not read the heads beside it.

Keys and values have one reader for each key/value head. Where several query heads share one (grouped-query attention)
it is one input, read once, and cutting it for some of the query heads is nothing that the model could do.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool
from torch import Tensor

from digsite._core.errors import NoSuchSite, Unsupported, explain
from digsite.models import Model
from digsite.sites import Site

Edge = tuple[str, str]
"""(writer, reader), both as site addresses."""

EMBED, POSITIONS, LOGITS = "embed", "pos_embed", "logits"


@dataclass(frozen=True)
class EdgeSpace:
    """Everything that writes to the stream, everything that reads it, and who comes before whom.

    Attributes:
        writers: "embed", "pos_embed", heads ("layers.0.attn.result[1]") and MLPs ("layers.0.mlp.out").
        readers: Inputs of heads ("layers.1.attn.q_in[0]"), of MLPs ("layers.1.mlp.in"), and "logits".
        before: For each reader, how many of the writers come before it.
    """

    writers: tuple[str, ...]
    readers: tuple[str, ...]
    before: tuple[int, ...]

    def __len__(self) -> int:
        """How many edges there are."""
        return sum(self.before)

    @cached_property
    def real(self) -> Bool[Tensor, "writer reader"]:
        """Which pairs of a writer and a reader are edges."""
        return torch.arange(len(self.writers))[:, None] < torch.tensor(self.before)

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """Every edge, by reader in the order of the forward pass."""
        return tuple(
            (writer, reader)
            for reader, before in zip(self.readers, self.before, strict=True)
            for writer in self.writers[:before]
        )

    @cached_property
    def _places(self) -> tuple[dict[str, int], dict[str, int]]:
        return {name: i for i, name in enumerate(self.writers)}, {name: i for i, name in enumerate(self.readers)}

    def index(self, edge: Edge) -> tuple[int, int]:
        """Where an edge stands in a [writer, reader] array.

        Raises:
            NoSuchSite: No such writer or reader, or the writer comes after the reader.
        """
        writer, reader = edge
        for name, known, what in ((writer, self._places[0], "writes to"), (reader, self._places[1], "reads")):
            if name not in known:
                raise NoSuchSite(explain(f"Nothing called {name!r} {what} the stream", possible=known, near=name))
        i, j = self._places[0][writer], self._places[1][reader]
        if i >= self.before[j]:
            raise NoSuchSite(explain(f"{reader} cannot read {writer}, which comes after it"))
        return i, j

    def flags(self, edges: Iterable[Edge]) -> Bool[Tensor, "writer reader"]:
        """Some edges as an array."""
        found = torch.zeros(len(self.writers), len(self.readers), dtype=torch.bool)
        for edge in edges:
            found[self.index(edge)] = True
        return found

    def named(self, flags: Bool[Tensor, "writer reader"]) -> tuple[Edge, ...]:
        """The edges of an array, in the order of `edges`."""
        chosen = (flags & self.real).T.nonzero().tolist()
        return tuple((self.writers[writer], self.readers[reader]) for reader, writer in chosen)

    @cached_property
    def moves(self) -> Bool[Tensor, " reader"]:
        """Which readers are keys and values: what they read at one position is handed on at others."""
        return torch.tensor([".k_in[" in name or ".v_in[" in name for name in self.readers])

    @cached_property
    def groups(self) -> int:
        """How many query heads share one key and value."""
        heads = {name: sum(f".{name}_in[" in reader for reader in self.readers) for name in "qk"}
        return heads["q"] // heads["k"] if heads["k"] else 1

    @cached_property
    def inputs(self) -> Bool[Tensor, "writer reader"]:
        """Which readers are inputs of which writer: the edges inside components. A shared key belongs to its group."""
        found = torch.zeros(len(self.writers), len(self.readers), dtype=torch.bool)
        for j, reader in enumerate(self.readers):
            for writer in owners(reader, self.groups):
                found[self._places[0][writer], j] = True
        return found


def owners(reader: str, groups: int = 1) -> tuple[str, ...]:
    """The writers whose input this reader is: a head, an MLP, or the query heads that share a key or value."""
    if reader == LOGITS:
        return ()
    site = Site.parse(reader)
    if site.name == "mlp.in":
        return (f"layers.{site.layer}.mlp.out",)
    assert isinstance(site.head, int)
    heads = [site.head] if site.name == "attn.q_in" else range(site.head * groups, (site.head + 1) * groups)
    return tuple(f"layers.{site.layer}.attn.result[{head}]" for head in heads)


def edge_space(model: Model) -> EdgeSpace:
    """The edges of a model.

    Raises:
        Unsupported: A layer has no heads with inputs of their own, or norms inside the stream; says which and why.
    """
    anatomy = model.anatomy
    writers = [name for name in ("embed", "pos_embed") if anatomy.has((None, name))]
    readers: list[str] = []
    before: list[int] = []

    def reads(names: Sequence[str]) -> None:
        readers.extend(names)
        before.extend([len(writers)] * len(names))

    for block in anatomy.blocks:
        layer = block.index
        missing = [name for name in ("attn.q_in", "attn.result", "mlp.in", "mlp.out") if not anatomy.has((layer, name))]
        if missing:
            raise Unsupported(
                explain(
                    f"Layer {layer} of {model.name} is not a sum of heads and an MLP that read one stream",
                    found=f"no {missing[0]}: {anatomy.refused.get((layer, missing[0]), 'no such part')}",
                    do="patch whole sites instead (digsite.activation_patching)",
                )
            )
        heads = {"q": model.n_heads, "k": model.n_kv_heads, "v": model.n_kv_heads}
        for part, count in heads.items():
            reads([f"layers.{layer}.attn.{part}_in[{head}]" for head in range(count)])
        if anatomy.arch.parallel:
            reads([f"layers.{layer}.mlp.in"])
        writers += [f"layers.{layer}.attn.result[{head}]" for head in range(model.n_heads)]
        if not anatomy.arch.parallel:
            reads([f"layers.{layer}.mlp.in"])
        writers.append(f"layers.{layer}.mlp.out")
    reads([LOGITS])
    return EdgeSpace(tuple(writers), tuple(readers), tuple(before))
