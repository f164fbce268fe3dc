"""Roles: what each head and MLP does in a task, said without its name, so that two models can be compared.

A head's number means nothing in another model that was trained from another seed. Its role does:

1. The profile of a node has traits in six families, each a number that does not depend on the node's number:
   - depth: the layer, from 0 (first) to 1 (last).
   - effect: its node score, as a share of the sizes of all.
   - direct: the score of its edge into the logits, as a share of the sizes of all node scores.
   - attends (heads): how much attention the answer position gives to the first position, to itself and to each span;
     how much each span gives to each; and how much is given, on average, to the position before, to an earlier copy of
     the same token, and to the token after one.
   - reads: of the sizes of the scores of the edges into it, the share that comes from embeddings, heads and MLPs; for
     heads by query, key and value.
   - feeds: of those of the edges out of it, the share into queries, keys, values, MLPs and the logits.
2. Importance: the size of the node's score, as a share of all, and a hundredth shared out equally, so that nodes which
   do nothing are told apart as well.
3. The same for examples that are drawn again, so that a comparison knows how far a model differs from itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, explain
from digsite._core.progress import track
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.circuits.scores import EdgeScores
from digsite.graphs import EdgeSpace, edge_space
from digsite.graphs.edges import LOGITS
from digsite.heads.patterns import attention, duplicate_token, induction, previous_token, weights
from digsite.models import Model, made_by
from digsite.sites import Site
from digsite.tasks import Task

BATCH = 32
"""Examples in one pass."""
FLOOR = 0.01
"""How much of all importance is shared out equally."""
KINDS = ("head", "MLP")
FAMILIES = ("depth", "effect", "direct", "attends", "reads", "feeds")
"""The first word of a trait says to which it belongs."""


@dataclass(frozen=True, kw_only=True)
class Roles(Result):
    """What each head and MLP does in a task, by traits that do not depend on its name.

    Attributes:
        model: The model.
        task: The task.
        method: What scored the edges.
        writers: As in `EdgeSpace`; so are readers and before.
        readers: Inputs.
        before: How many writers each reader can read.
        nodes: Heads and MLPs, as `writers` names them.
        traits: What was measured; see the head of this file.
        profile: Of each node; NaN where a trait is one of heads alone.
        importance: Of each node; sums to 1.
        again: Profiles from examples that were drawn again with replacement.
    """

    SCHEMA: ClassVar[str] = "circuits.roles/1"

    model: str
    task: str
    method: str
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    before: tuple[int, ...]
    nodes: tuple[str, ...]
    traits: tuple[str, ...]
    profile: Float[Tensor, "node trait"]
    importance: Float[Tensor, " node"]
    again: Float[Tensor, "draw node trait"]

    @property
    def space(self) -> EdgeSpace:
        """All edges of the model."""
        return EdgeSpace(self.writers, self.readers, self.before)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Whether each node is a "head" or an "MLP"."""
        return tuple("head" if ".attn." in node else "MLP" for node in self.nodes)

    def to_frame(self) -> pl.DataFrame:
        """One row a node, the most important first: its importance and its traits."""
        traits = dict(zip(self.traits, self.profile.T.tolist(), strict=True))
        return (
            pl.DataFrame({"node": list(self.nodes), "importance": self.importance.tolist()} | traits)
            .with_columns(pl.selectors.float().fill_nan(None))
            .sort("importance", descending=True)
        )

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        first = self.to_frame().row(0, named=True)
        attends = {name: first[name] for name in self.traits if name.startswith("attends") and first[name] is not None}
        most = max(attends, key=lambda name: attends[name]) if attends else None
        looks = f"; most of its attention: {most.removeprefix('attends ')} ({attends[most]:.2f})" if most else ""
        top = self.importance.sort(descending=True).values
        return (
            f"the most important node of {self.model} for {self.task} is {first['node']} ({first['importance']:.0%} of "
            f"all scores{looks}); {int((top.cumsum(0) < 0.8).sum()) + 1} of {len(self.nodes)} nodes have 80 % of them"
        )


@method
def node_roles(
    model: Model,
    task: Task,
    scores: EdgeScores,
    *,
    spans: Sequence[str] | None = None,
    draws: int = 20,
    batch: int = BATCH,
    seed: int = 0,
) -> Roles:
    """What each head and MLP does in a task, by traits that do not depend on its name.

    Args:
        model: The model.
        task: The examples that were scored.
        scores: Of every edge, by any method.
        spans: Spans of the task that attention is asked about; all that stand in every example if None.
        draws: How often the examples are drawn again.
        batch: Examples in one pass.
        seed: Of the draws.

    Raises:
        BadInput: Scores of other examples or of another model, or a span that the task does not have.

    Units:
        Fractions: of all scores, of a node's own, of attention, of depth.

    Caveats:
        Scores are first-order predictions: a node of saturated attention can seem to do nothing. Traits are chosen by
        us; two nodes with one profile may still compute different things.
    """
    space = edge_space(model)
    if space != scores.space or len(task) != len(scores.scores) or draws < 1:
        raise BadInput(
            explain(
                "Roles need the scores of this model on these examples, and a draw or more",
                found=f"{len(scores.space)} edges, {len(scores.scores)} examples, draws={draws}",
                possible=f"{len(space)} edges, {len(task)} examples",
            )
        )
    names = _usable(task) if spans is None else tuple(spans)
    with measure() as cost:
        attention, looks = _attention(model, task, names, batch)
        nodes = [i for i, name in enumerate(space.writers) if name.startswith("layers.")]
        each = scores.scores.sum(1)
        traits, profile, importance = _profile(space, nodes, each.mean(0), looks, attention.mean(0))
        rng, again = np.random.default_rng(seed), []
        for _ in range(draws):
            rows = torch.from_numpy(rng.integers(0, len(task), len(task)))
            again.append(_profile(space, nodes, each[rows].mean(0), looks, attention[rows].mean(0))[1])
    return Roles(
        model=model.name,
        task=task.name,
        method=scores.method,
        writers=space.writers,
        readers=space.readers,
        before=space.before,
        nodes=tuple(space.writers[i] for i in nodes),
        traits=traits,
        profile=profile,
        importance=importance,
        again=torch.stack(again) if again else profile.new_zeros(0, *profile.shape),
        provenance=made_by(
            f"digsite.circuits.node_roles(model, task, scores, spans={list(names)}) with scores = "
            f"{scores.provenance.made_by}",
            model,
            task.fingerprint,
            seed=seed,
        ),
        cost=cost,
    )


# -- the profile -----------------------------------------------------------------------------------------------------
def _profile(
    space: EdgeSpace,
    nodes: Sequence[int],
    scores: Float[Tensor, "writer reader"],
    looks: Sequence[str],
    attention: Float[Tensor, "node _"],
) -> tuple[tuple[str, ...], Float[Tensor, "node trait"], Float[Tensor, " node"]]:
    """1. and 2. Names of the traits, what they are, and how much each node counts."""
    effect = scores.sum(1)[nodes]
    whole = effect.abs().sum().clamp(min=1e-30)
    layers = torch.tensor([_layer(space.writers[i]) for i in nodes], dtype=scores.dtype)
    columns = {
        "depth": layers / layers.max().clamp(min=1),
        "effect": effect / whole,
        "direct": scores[nodes, space.readers.index(LOGITS)] / whole,
    }
    columns |= {f"attends {name}": values for name, values in zip(looks, attention.T, strict=True)}
    columns |= _reads(space, nodes, scores.abs())
    columns |= _feeds(space, nodes, scores.abs())
    importance = (1 - FLOOR) * effect.abs() / whole + FLOOR / len(nodes)
    return tuple(columns), torch.stack(list(columns.values()), 1).float(), (importance / importance.sum()).float()


def _layer(name: str) -> int:
    layer = Site.parse(name).layer
    assert isinstance(layer, int)
    return layer


def _reads(space: EdgeSpace, nodes: Sequence[int], sizes: Float[Tensor, "writer reader"]) -> dict[str, Tensor]:
    """Of the scores of the edges into each node, which share comes from what, through which input."""
    kinds = [_kind(name) for name in space.writers]
    by_kind = torch.stack([sizes[[kind == one for kind in kinds]].sum(0) for one in ("embeddings", "heads", "MLPs")])
    inputs, parts = space.inputs[nodes].to(sizes), [_part(name) for name in space.readers]
    whole = (inputs @ sizes.sum(0)).clamp(min=1e-30)
    found = {}
    for part, name in (("q", "by query"), ("k", "by key"), ("v", "by value"), ("mlp", "")):
        of_part = torch.tensor([one == part for one in parts]).to(sizes)
        for kind, values in zip(("embeddings", "heads", "MLPs"), by_kind, strict=True):
            share = inputs @ (values * of_part) / whole
            is_mlp = torch.tensor([".mlp." in space.writers[i] for i in nodes])
            found[f"reads {kind} {name}".strip()] = share.masked_fill(is_mlp != (part == "mlp"), torch.nan)
    return found


def _feeds(space: EdgeSpace, nodes: Sequence[int], sizes: Float[Tensor, "writer reader"]) -> dict[str, Tensor]:
    """Of the scores of the edges out of each node, which share goes into what."""
    parts, whole = [_part(name) for name in space.readers], sizes[nodes].sum(1).clamp(min=1e-30)
    names = {"q": "queries", "k": "keys", "v": "values", "mlp": "MLPs", LOGITS: LOGITS}
    return {
        f"feeds {name}": sizes[nodes][:, [one == part for one in parts]].sum(1) / whole for part, name in names.items()
    }


def _kind(writer: str) -> str:
    return "heads" if ".attn." in writer else "MLPs" if ".mlp." in writer else "embeddings"


def _part(reader: str) -> str:
    return reader if reader == LOGITS else "mlp" if ".mlp." in reader else reader.split("attn.")[1][0]


# -- attention -------------------------------------------------------------------------------------------------------
def _usable(task: Task) -> tuple[str, ...]:
    """Spans that stand in every example."""
    return tuple(name for name in sorted(task.spans) if bool((task.spans[name][:, 1] > task.spans[name][:, 0]).all()))


def _attention(
    model: Model, task: Task, spans: Sequence[str], batch: int
) -> tuple[Float[Tensor, "example node _"], tuple[str, ...]]:
    """How each head attends in each example, and what the numbers are called; NaN for MLPs."""
    names: dict[str, None] = {}
    found = []
    for start in track(range(0, len(task), batch), "attention"):
        part = task.take(slice(start, start + batch))
        summed = _places(part, spans)
        names = dict.fromkeys(summed)
        run = model.run(part.clean, read=["layers.*.attn.pattern"], logits=1)
        by_layer = []
        for layer in range(model.n_layers):
            pattern = run[f"layers.{layer}.attn.pattern"].float()
            each = [attention(pattern, one).cpu() for one in summed.values()]
            heads = torch.stack(each, -1)  # [row, head, number]
            by_layer += [heads, torch.full_like(heads[:, :1], torch.nan)]
        rows = torch.cat(by_layer, 1)
        total = rows.new_zeros(len(part), *rows.shape[1:]).index_add_(0, part.example_rows, rows)
        found.append(total / torch.bincount(part.example_rows, minlength=len(part))[:, None, None])
    return torch.cat(found), tuple(names)


def _places(task: Task, spans: Sequence[str]) -> dict[str, Float[Tensor, "batch dst src"]]:
    """For each number the weights of attention that it sums: means over destinations, sums over sources."""
    mask = task.clean.mask
    width = mask.shape[1]
    column = torch.arange(width)[None] - torch.tensor(task.clean.starts)[:, None]
    last = torch.zeros_like(mask)
    last[:, -1] = True
    at = {name: task.inside([name]) for name in spans}
    found = {"answer → first": _pairs(last, column == 0), "answer → itself": _pairs(last, last)}
    found |= {f"answer → {name}": _pairs(last, where) for name, where in at.items()}
    found |= {f"{a} → {b}": _pairs(at[a], at[b]) for a in at for b in at}
    return found | {
        "position before": weights(previous_token(task.clean)),
        "same token before": weights(duplicate_token(task.clean)),
        "what followed the same token": weights(induction(task.clean)),
    }


def _pairs(dst: Bool[Tensor, "batch dst"], src: Bool[Tensor, "batch src"]) -> Float[Tensor, "batch dst src"]:
    return weights(dst[:, :, None] & src[:, None])
