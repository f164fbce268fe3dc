"""ACDC, and other searches that cut edges and look.

`acdc`, the algorithm:
1. Go through the readers from the logits down to the embedding, and through the writers of each from the last up.
2. Give the edge the donor's value. If the behaviour is damaged by less than the threshold more than it was, leave the
   edge cut, else put it back.
3. Edges into a head or MLP from which nothing is kept any more are cut without a look.

Speculation makes it fast and changes nothing in its result: most edges are cut, so a window of candidates is run at
once, row i with the first i of them cut; all are accepted up to the first that is put back, and the window starts again
behind it. Layers below the reader are taken from the clean run, for nothing is cut there yet.

`minimise` is delta debugging (Zeller & Hildebrandt 2002): what is left is 1-minimal, that is, nothing in it can be left
out by itself. It serves prompts, circuits and sets of features alike.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TypeVar

import torch
from jaxtyping import Bool
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, explain
from digsite._core.progress import track
from digsite.circuits.evaluate import BATCH, Cutter
from digsite.circuits.judging import share_kept
from digsite.circuits.places import asked
from digsite.graphs import Circuit, EdgeSpace
from digsite.graphs.circuit import circuit, prune, same_space
from digsite.models import Model, made_by
from digsite.tasks import Task

WINDOW = 64
"""The most candidates that are tried in one pass."""

Item = TypeVar("Item")


def acdc(
    model: Model,
    task: Task,
    threshold: float,
    *,
    how: str = "corrupt",
    metric: str = "kl",
    window: int = WINDOW,
    batch: int = BATCH,
    seed: int = 0,
) -> Circuit:
    """The circuit that is left when every edge that can be cut has been cut.

    Args:
        model: The model.
        task: Clean and corrupt pairs of one length.
        threshold: How much more damage one cut may do, in nats for "kl".
        how: What takes the place of a cut edge: "corrupt", "zero", "mean" or "resample".
        metric: "kl" measures damage as the divergence from the clean logits; another metric as its drop.
        window: The most candidates in one pass; 1 is the algorithm as published, with the same result.
        batch: Examples in one pass.
        seed: For "resample".

    Returns:
        The circuit, without edges that dangle.

    Raises:
        BadInput: A threshold that is not positive.

    Source:
        Conmy et al. 2023 (arXiv:2304.14997), algorithm 1.

    Caveats:
        The result depends on the order: where two paths do the same (an OR), the later-cut one stays. Damage that cuts
        do together adds up: `faithfulness` says what is left.
    """
    if not threshold > 0 or window < 1:
        raise BadInput(explain("ACDC needs a positive threshold", found=f"threshold={threshold}, window={window}"))
    with measure() as cost:
        cutter = Cutter(model, task, how=how, metric=metric, batch=batch, seed=seed)
        search = _Search(cutter, threshold, window)
        kept = search.run()
    return circuit(
        cutter.space,
        prune(cutter.space, kept),
        name=task.name,
        method=f"ACDC (threshold {threshold:g}, {how})",
        provenance=made_by(
            f"digsite.circuits.acdc(model, task, {threshold}, how={how!r})", model, task.fingerprint, seed=seed
        ),
        cost=cost,
    )


class _Search:
    """The state of one search."""

    def __init__(self, cutter: Cutter, threshold: float, window: int):
        self.cutter, self.threshold, self.window = cutter, threshold, window
        self.space: EdgeSpace = cutter.space
        self.inputs = self.space.inputs
        self.order = [
            (writer, reader)
            for reader in reversed(range(len(self.space.readers)))
            for writer in reversed(range(self.space.before[reader]))
        ]

    def run(self) -> Bool[Tensor, "writer reader"]:
        """The edges that are left."""
        kept, damage, done, size = self.space.real.clone(), 0.0, 0, min(8, self.window)
        progress = iter(track(range(len(self.order)), "acdc"))
        while done < len(self.order):
            tried, ends, end = self._window(kept, done, size)
            accepted = 0
            for one in self._damage(tried):
                if one - damage >= self.threshold:
                    break
                damage, accepted = one, accepted + 1
            if accepted < len(tried):  # the next one is put back, and the window starts again behind it
                end = ends[accepted] + 1
                size = min(self.window, max(2, 2 * accepted))
            else:
                size = min(self.window, 2 * size)
            kept = self._cut(kept, done, end, put_back=ends[accepted:])
            for _ in range(end - done):
                next(progress, None)
            done = end
        return kept

    def _cut(self, kept: Tensor, start: int, end: int, *, put_back: Sequence[int]) -> Tensor:
        """The circuit after a stretch of the order, in which all was cut but what was put back."""
        kept = kept.clone()
        for place in range(start, end):
            if place not in put_back:
                kept[self.order[place]] = False
        return kept

    def _window(self, kept: Tensor, start: int, size: int) -> tuple[list[Tensor], list[int], int]:
        """Circuits with one more candidate cut each, where each candidate stands in the order, and where it ends."""
        tried: list[Tensor] = []
        ends: list[int] = []
        kept, place = kept.clone(), start
        while place < len(self.order) and len(tried) < size:
            writer, reader = self.order[place]
            if self._used(kept, reader):
                kept[writer, reader] = False
                tried.append(kept.clone())
                ends.append(place)
            else:
                kept[writer, reader] = False
            place += 1
        return tried, ends, place

    def _used(self, kept: Tensor, reader: int) -> bool:
        """Whether the circuit goes on from the component that reads here."""
        owners = self.inputs[:, reader]
        return not bool(owners.any()) or bool(kept[owners].any())

    def _damage(self, circuits: list[Tensor]) -> list[float]:
        if not circuits:
            return []
        scores = self.cutter(torch.stack(circuits)).mean(1)
        return (scores if self.cutter.metric == "kl" else self.cutter.clean.mean().cpu() - scores).tolist()


def minimise(items: Sequence[Item], holds: Callable[[list[list[Item]]], Sequence[bool]]) -> list[Item]:
    """The items that cannot be left out: a subset of which `holds` is true, and of which it is false without any one.

    Args:
        items: What may be left out.
        holds: From several subsets, tried at once, to whether each still does what is wanted.

    Raises:
        BadInput: It does not hold of all items together.

    Source:
        Zeller & Hildebrandt 2002, "Simplifying and isolating failure-inducing input", ddmin, complements only.
    """
    kept = list(items)
    if not holds([kept])[0]:
        raise BadInput(explain("There is nothing to minimise: what is wanted does not hold of all items together"))
    parts = 2
    while kept:
        parts = min(parts, len(kept))
        bounds = [len(kept) * i // parts for i in range(parts + 1)]
        without = [kept[:a] + kept[b:] for a, b in pairwise(bounds)]
        good = next((subset for subset, ok in zip(without, holds(without), strict=True) if ok), None)
        if good is not None:
            kept, parts = good, max(2, parts - 1)
        elif parts == len(kept):
            break
        else:
            parts *= 2
    return kept


def minimise_circuit(
    model: Model,
    task: Task,
    found: Circuit,
    *,
    share: float = 0.85,
    how: str = "corrupt",
    metric: str | None = None,
    batch: int = BATCH,
) -> Circuit:
    """The circuit without everything that the behaviour does without: no edge of it can be left out by itself.

    Args:
        model: The model.
        task: Clean and corrupt pairs of one length.
        found: The circuit to begin with.
        share: How much of the behaviour must stay: (metric − none) / (all − none).
        how: What takes the place of an edge.
        metric: The task's own if None.
        batch: Examples in one pass.

    Raises:
        BadInput: The circuit belongs to another model, or keeps less than the share already.
    """
    with measure() as cost:
        cutter = Cutter(model, task, how=how, metric=metric, batch=batch, at=asked(found.places))
        same_space(cutter.space, [found])
        ends = torch.stack([torch.zeros_like(cutter.space.real), cutter.space.real])
        empty, full = cutter(ends)
        places = found.kept.nonzero().tolist()

        def holds(subsets: list[list[list[int]]]) -> list[bool]:
            masks = torch.zeros(len(subsets), *found.kept.shape, dtype=torch.bool)
            for mask, subset in zip(masks, subsets, strict=True):
                if subset:
                    mask[tuple(torch.tensor(subset).T)] = True
            return (share_kept(cutter(masks).mean(1), empty, full) >= share).tolist()

        left = minimise(places, holds)
    kept = torch.zeros_like(found.kept)
    if left:
        kept[tuple(torch.tensor(left).T)] = True
    call = f"digsite.circuits.minimise_circuit(model, task, found, share={share}, how={how!r})"
    return replace(
        found.with_edges(kept, method=f"{found.method}, minimised to {share:.0%}"),
        provenance=made_by(f"{call} with found = {found.provenance.made_by}", model, task.fingerprint),
        cost=cost,
    )
