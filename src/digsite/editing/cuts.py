"""Cutting a part of a model on any text: some of its heads and MLPs, or some of its edges.

1. What takes the place of what is cut: zero; the mean over the real tokens of a text; or what stands at the same place
   of another row of the same text ("resample").
2. Nodes: what they write is replaced, for everybody who reads it.
3. Edges: their readers see the replacement, all others the live value (`EdgeMux`).
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from digsite._core.errors import BadInput, ShapeMismatch, explain
from digsite.circuits import EdgeMux
from digsite.circuits.written import Outputs, Written, sites
from digsite.graphs import Circuit, edge_space
from digsite.graphs.circuit import same_space
from digsite.models import Edit, Model, Tokens, ablate, replace
from digsite.patching import components
from digsite.patching.components import checked
from digsite.patching.sets import random_flags

HOW = ("mean", "zero", "resample")
BATCH = 64
"""Rows in one pass over the text that a mean is taken over."""


def node_edits(model: Model, nodes: Sequence[str], *, how: str = "mean", over: Any = None) -> list[Edit]:
    """The edits that switch nodes off in any run or generation of the model.

    Args:
        model: The model.
        nodes: Heads ("layers.3.attn.z[2]") and MLPs ("layers.3.mlp.out"); wildcards allowed.
        how: "mean" or "zero".
        over: Tokens or corpus that the mean is taken over.

    Raises:
        BadInput: An unknown node, or another way to replace it.
    """
    if how not in ("mean", "zero"):
        raise BadInput(explain(f"how={how!r} is not a fixed replacement", possible=["mean", "zero"], near=how))
    names = checked(model, nodes)
    if how == "zero":
        return [ablate(name) for name in names]
    means = _means(model, names, over)
    return [replace(name, _of(means[name.partition("[")[0]], name)) for name in names]


class NodeCut:
    """Heads and MLPs, and others of their number, that can be cut on any rows.

    Args:
        model: The model.
        nodes: Their names.
        how: "mean", "zero" or "resample".
        over: Tokens or corpus that a mean is taken over.
        seed: For "resample".

    Attributes:
        names: What is cut.
        own: The same as flags.
    """

    what = "heads and MLPs"

    def __init__(self, model: Model, nodes: Sequence[str], *, how: str, over: Any, seed: int):
        self.model, self.how, self.seed = model, how, seed
        self.names, self.all = checked(model, nodes), components(model)
        if not self.names:
            raise BadInput(explain("There is nothing to switch off", do="name at least one head or MLP"))
        self.own = torch.tensor([name in self.names for name in self.all])
        self.means = _means(model, self.all, over) if how == "mean" else {}

    def random(self, count: int, *, seed: int) -> list[Tensor]:
        """As many heads and as many MLPs, drawn at random."""
        return list(random_flags(self.all, self.own, count, seed=seed))

    def logits(
        self, tokens: Tokens, parts: Sequence[Tensor], keep: int
    ) -> Iterator[Float[Tensor, "batch columns vocab"]]:
        """The last columns of the logits without each set of nodes in turn."""
        values = self.means
        if self.how == "resample":
            order = other_rows(tokens, self.seed)
            whole = sorted({name.partition("[")[0] for name in self.all})
            run = self.model.run(tokens, read=whole, logits=None)
            values = {site: run[site][order] for site in whole}
        for part in parts:
            names = [name for name, cut in zip(self.all, part.tolist(), strict=True) if cut]
            yield self.model.run(tokens, edits=[self._edit(name, values) for name in names], logits=keep).logits

    def _edit(self, name: str, values: dict[str, Tensor]) -> Edit:
        return ablate(name) if self.how == "zero" else replace(name, _of(values[name.partition("[")[0]], name))


class EdgeCut:
    """The edges of a circuit, and others of their number, that can be cut on any rows.

    Args:
        model: The model.
        circuit: Its edges are cut, at every position: other texts do not have its places.
        how: "mean", "zero" or "resample".
        over: Tokens or corpus that a mean is taken over.
        seed: For "resample".

    Attributes:
        names: What is cut.
        own: The same as flags.
    """

    what = "edges"

    def __init__(self, model: Model, circuit: Circuit, *, how: str, over: Any, seed: int):
        self.model, self.how, self.seed = model, how, seed
        self.space, self.outputs = edge_space(model), Outputs(model)
        same_space(self.space, [circuit])
        if not len(circuit):
            raise BadInput(explain("There is nothing to switch off", found="a circuit without edges"))
        self.own, self.names = circuit.anywhere, tuple(f"{writer} → {reader}" for writer, reader in circuit.edges)
        self.mean = self._mean(over) if how == "mean" else None

    def random(self, count: int, *, seed: int) -> list[Tensor]:
        """As many edges, drawn at random from all."""
        generator = torch.Generator().manual_seed(seed)
        real, found = self.space.real.nonzero(), []
        for _ in range(count):
            chosen = real[torch.randperm(len(real), generator=generator)[: len(self.names)]]
            flags = torch.zeros_like(self.space.real)
            flags[chosen[:, 0], chosen[:, 1]] = True
            found.append(flags)
        return found

    def logits(
        self, tokens: Tokens, parts: Sequence[Tensor], keep: int
    ) -> Iterator[Float[Tensor, "batch columns vocab"]]:
        """The last columns of the logits without each set of edges in turn."""
        mux = EdgeMux(self.model, tokens, self._donor(tokens), keep=keep)
        for part in parts:
            yield from (one for _, some in mux(part[None]) for one in some)

    def _donor(self, tokens: Tokens) -> Written:
        width = tokens.ids.shape[1]
        if self.mean is not None:
            return self.mean.map(lambda x: x.expand(1, width, *x.shape[2:]))
        own = self.outputs.of(self.model.run(tokens, read=sites(self.model), logits=None))
        return own.rows(other_rows(tokens, self.seed)) if self.how == "resample" else own.map(lambda x: 0 * x[:1])

    def _mean(self, over: Any) -> Written:
        """What every writer writes on average, as one row of one position."""
        total, count = None, 0
        for rows in over.batches(BATCH):
            real = rows.mask.to(self.model.device)
            found = self.outputs.of(self.model.run(rows, read=sites(self.model), logits=None))
            part = found.map(lambda x, real=real: x[real.to(x.device)].double().sum(0)[None, None])
            total, count = (part if total is None else total.map(torch.add, part)), count + int(real.sum())
        if total is None:
            raise BadInput(explain("A mean needs a text to be taken over", found="an empty one"))
        return total.map(lambda x: (x / count).to(self.model.dtype))


Cut = NodeCut | EdgeCut


def other_rows(tokens: Tokens, seed: int) -> Int[Tensor, " batch"]:
    """For each row another, randomly drawn row of the same length and padding.

    Raises:
        ShapeMismatch: A row has no other of its length.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.arange(len(tokens))
    kinds = list(zip(tokens.starts, tokens.lengths, strict=True))
    for kind in set(kinds):
        same = torch.tensor([i for i, one in enumerate(kinds) if one == kind])
        if len(same) == 1:
            raise ShapeMismatch(
                explain(
                    'how="resample" takes the place of a row from another row of its length',
                    found=f"row {int(same)} is the only one of {kind[1]} tokens",
                    do='give more rows of each length, or use how="mean"',
                )
            )
        drawn = same[torch.randperm(len(same), generator=generator)]
        order[drawn] = drawn.roll(1)
    return order


def _means(model: Model, names: Sequence[str], over: Any) -> dict[str, Tensor]:
    """The mean of every site over a text: z as [head, d_head], an MLP's output as [d_model]."""
    if over is None:
        raise BadInput(explain('how="mean" needs a text to take the mean over', do="pass over=tokens or over=corpus"))
    whole = sorted({name.partition("[")[0] for name in names})
    found = {site: model.resolved(ablate(site, how="mean", over=over), None).value for site in whole}
    return {site: value for site, value in found.items() if isinstance(value, Tensor)}


def _of(value: Float[Tensor, "*lead d_in"], name: str) -> Tensor:
    """The part of a site's value that is a node's: one head of z, or all of an MLP's output."""
    site, _, head = name.partition("[")
    return value if site.endswith("mlp.out") else value[..., int(head.rstrip("]")), :]
