"""What is left of a behaviour when only some edges carry it.

Semantics, named in every result:
- "tree": the clean prompt runs; edges outside the circuit carry what their writer wrote in the donor; edges inside
  carry live values, so they pass on what changed upstream (EAP-IG's and MIB's evaluation, auto-circuit's TREE_PATCH).
- "edge": the corrupt prompt runs; edges inside the circuit carry what their writer wrote on the clean prompt; all
  others are live (auto-circuit's EDGE_PATCH). The same circuit gets another number (Miller et al. 2024,
  arXiv:2407.08734).

Donors: "corrupt" (the row's corrupt prompt), "zero", "mean" (over the real tokens of the corrupt prompts), "resample"
(another row's corrupt prompt).
"""

import itertools
from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from digsite._core.errors import BadInput, ShapeMismatch, explain
from digsite._core.recording import method
from digsite.circuits.attribution import BATCH
from digsite.circuits.mux import EdgeMux
from digsite.circuits.places import places
from digsite.circuits.written import Outputs, Written, sites
from digsite.graphs import Edge, EdgeSpace
from digsite.models import Model, Tokens
from digsite.patching.places import lined_up
from digsite.tasks import Task

HOW = ("corrupt", "zero", "mean", "resample")
SEMANTICS = ("tree", "edge")
MOST = 16
"""Edges whose subsets are all tried."""


class Cutter:
    """A task whose edges can be cut: the runs that all circuits share, made once.

    Args:
        model: The model.
        task: Clean and corrupt pairs of one length.
        how: What takes the place of an edge outside the circuit; see the head of this file.
        semantics: "tree" or "edge".
        metric: The task's own if None; "kl" is the distance from the clean logits.
        batch: Examples in one pass.
        seed: For "resample".
        at: The places of the circuits, as for `eap`; None if their edges are meant everywhere.

    Attributes:
        space: The edges.
        places: Names of the places.
        whole: The logits before anything is cut.
        clean: The metric of the model as it is.
    """

    def __init__(
        self,
        model: Model,
        task: Task,
        *,
        how: str = "corrupt",
        semantics: str = "tree",
        metric: str | None = None,
        batch: int = BATCH,
        seed: int = 0,
        at: str | Sequence[str] | None = None,
    ):
        if how not in HOW or semantics not in SEMANTICS:
            wrong, possible = (how, HOW) if how not in HOW else (semantics, SEMANTICS)
            raise BadInput(explain(f"{wrong!r} is not a way to cut edges", possible=possible, near=wrong))
        if semantics == "edge" and how != "corrupt":
            raise BadInput(explain("Edge semantics runs the corrupt prompt", found=f"how={how!r}", do='how="corrupt"'))
        lined_up(task)
        self.task, self.metric, self.semantics = task, metric, semantics
        self.parts = [task.take(slice(start, start + batch)) for start in range(0, len(task), batch)]
        self.muxes = []
        for part in self.parts:
            ends, of = (part.clean, part.require_corrupt()), places(part, at).of
            if semantics == "edge":
                self.muxes.append(EdgeMux(model, ends[1], ends[0], keep=task.keep, places=of))
            else:
                self.muxes.append(EdgeMux(model, ends[0], _donor(model, part, how, seed), keep=task.keep, places=of))
        self.space: EdgeSpace = self.muxes[0].space
        self.places = places(task, at).names
        self.references = [
            mux.logits if semantics == "tree" else model.run(part.clean, logits=task.keep).logits
            for part, mux in zip(self.parts, self.muxes, strict=True)
        ]
        self.whole = torch.cat([mux.logits for mux in self.muxes])
        self.clean = torch.cat([self._score(i, logits[None])[0] for i, logits in enumerate(self.references)])

    def __call__(self, kept: Bool[Tensor, "circuit *place writer reader"]) -> Float[Tensor, "circuit example"]:
        """The metric of every example when only some edges carry the behaviour, for many circuits at once."""
        if kept.ndim == 4 and kept.shape[1] != len(self.places):
            raise ShapeMismatch(
                explain(
                    "The circuits are about other places",
                    found=f"{kept.shape[1]} places",
                    possible=", ".join(self.places),
                    do="name their places: at=...",
                )
            )
        masks = kept if self.semantics == "edge" else ~kept
        each = enumerate(zip(self.parts, self.muxes, strict=True))
        return torch.cat([mux.scored(masks, partial(self._score, i), len(part)) for i, (part, mux) in each], 1)

    def logits(self, kept: Bool[Tensor, "circuit *place writer reader"]) -> Float[Tensor, "circuit row column vocab"]:
        """The logits behind these scores, all of them at once."""
        found = torch.stack([self.whole] * len(kept))
        masks, first = kept if self.semantics == "edge" else ~kept, 0
        for mux in self.muxes:
            for which, logits in mux(masks):
                found[which, first : first + len(mux.tokens)] = logits
            first += len(mux.tokens)
        return found

    def score(self, logits: Float[Tensor, "circuit row column vocab"]) -> Float[Tensor, "circuit example"]:
        """The metric of every example, from the logits of many circuits."""
        parts = logits.split([len(mux.tokens) for mux in self.muxes], 1)
        return torch.cat([self._score(i, part) for i, part in enumerate(parts)], 1)

    def _score(self, part: int, logits: Tensor) -> Tensor:
        reference = self.references[part] if self.metric == "kl" else None
        return self.parts[part].metric_of_many(logits, self.metric, reference=reference).float()


@method
def evaluate_circuit(
    model: Model,
    task: Task,
    kept: Bool[Tensor, "circuit *place writer reader"],
    *,
    how: str = "corrupt",
    semantics: str = "tree",
    metric: str | None = None,
    batch: int = BATCH,
    seed: int = 0,
    at: str | Sequence[str] | None = None,
) -> Float[Tensor, "circuit example"]:
    """The metric of every example when only the edges of a circuit carry it, for many circuits at once.

    Args:
        model: The model.
        task: Clean and corrupt pairs of one length.
        kept: For each circuit (and place), which edges of `edge_space(model)` it has. All edges give the clean metric,
            none the donor's ("corrupt": the corrupt metric).
        how: What takes the place of the other edges: "corrupt", "zero", "mean" or "resample".
        semantics: "tree" or "edge"; see the head of this file.
        metric: The task's own if None; "kl" is the distance from the clean logits.
        batch: Examples in one pass.
        seed: For "resample".
        at: The places of the circuits, as for `eap`.

    Raises:
        BadInput: No corrupt prompts, prompts that do not line up, or a choice that does not exist.
        ShapeMismatch: Circuits that are about other places.

    Units:
        Those of the metric.
    """
    cutter = Cutter(model, task, how=how, semantics=semantics, metric=metric, batch=batch, seed=seed, at=at)
    return cutter(kept)


def exhaustive(
    model: Model, task: Task, edges: Sequence[Edge], *, how: str = "corrupt", metric: str | None = None
) -> tuple[Bool[Tensor, "subset edge"], Float[Tensor, "subset example"]]:
    """The metric for every subset of some edges, all other edges being kept: the truth about them.

    Args:
        model: The model.
        task: Clean and corrupt pairs of one length.
        edges: At most 16.
        how: What takes the place of an edge that is not in the subset.
        metric: The task's own if None.

    Returns:
        Which edges each of the 2^k subsets keeps, the empty one first, and the metric.

    Raises:
        BadInput: More than 16 edges.
    """
    if len(edges) > MOST:
        raise BadInput(explain(f"All subsets of {len(edges)} edges are too many", possible=f"at most {MOST} edges"))
    cutter = Cutter(model, task, how=how, metric=metric)
    subsets = torch.tensor(list(itertools.product([False, True], repeat=len(edges))))
    kept = cutter.space.real.repeat(len(subsets), 1, 1)
    for i, edge in enumerate(edges):
        writer, reader = cutter.space.index(edge)
        kept[:, writer, reader] = subsets[:, i]
    return subsets, cutter(kept)


def _donor(model: Model, task: Task, how: str, seed: int) -> Tokens | Written | None:
    """What is written in the place of a cut edge."""
    tokens = task.require_corrupt()
    if how in ("corrupt", "zero"):
        return tokens if how == "corrupt" else None
    written = Outputs(model).of(model.run(tokens, read=sites(model), logits=None))
    if how == "resample":
        order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(seed))
        return written.rows(order)
    mask = tokens.mask.to(written.embed[0].device)
    return written.map(lambda x: x[mask].mean(0).expand(1, x.shape[1], *x.shape[2:]))
