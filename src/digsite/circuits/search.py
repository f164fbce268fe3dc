"""ACDC, and other searches that cut edges and look.

`acdc`, the algorithm:
1. Go through the readers from the logits down to the embedding, and through the writers of each from the last up.
2. Give the edge the donor's value. If the behaviour is damaged by less than the threshold more than it was, leave the
   edge cut, else put it back.
3. Edges into a head or MLP from which nothing is kept any more are cut without a look.

Speculation makes it fast and changes nothing in its result:
4. Many candidates are tried in one pass. Each row cuts one more, on top of what is guessed of those before it.
5. The guesses are checked in order. Up to the first wrong one every row was the very circuit that the algorithm would
   have tried there. The next pass starts behind it. The rows after it had one edge wrong, but they say how each cut
   changes the logits. If such changes add up, it follows which cuts stay: those are the guesses. The guess about an
   edge that was never tried is that it stays cut; few of those are tried in one pass.
6. What comes before the reader is taken from the clean run, for nothing is cut there yet; what the circuit does not
   read any more is not run (`EdgeMux`).

`minimise` is delta debugging (Zeller & Hildebrandt 2002): what is left is 1-minimal, that is, nothing in it can be left
out by itself. It serves prompts, circuits and sets of features alike.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TypeVar

import torch
from jaxtyping import Bool
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, explain
from digsite._core.progress import track
from digsite._core.recording import method
from digsite.circuits.evaluate import BATCH, Cutter
from digsite.circuits.judging import require_change, share_kept
from digsite.circuits.mux import BYTES
from digsite.circuits.places import asked
from digsite.graphs import Circuit, EdgeSpace
from digsite.graphs.circuit import circuit, prune, same_space
from digsite.models import Model, made_by
from digsite.tasks import Task

WINDOW, FRESH = 64, 16
"""How many candidates are tried in one pass at most, and how many of them nothing is known about."""
AHEAD = 8
"""How many cuts at once are added up to make guesses."""

Item = TypeVar("Item")


@method
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
        window: How many candidates are tried in one pass at most; 1 is the algorithm as published, with the same
            result.
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
    """The state of one search.

    Attributes:
        kept: What is left so far: every decision up to `done` is in it.
        logits: What that gives.
        damage: What that does to the behaviour.
        done: How far the search has come in the order.
        effects: How the logits changed when the edge at a place of the order was last cut.
        window: How many candidates a pass tries at most; fewer where their logits are large.
    """

    def __init__(self, cutter: Cutter, threshold: float, window: int):
        self.cutter, self.threshold = cutter, threshold
        self.space: EdgeSpace = cutter.space
        self.inputs = self.space.inputs
        self.order = [
            (writer, reader)
            for reader in reversed(range(len(self.space.readers)))
            for writer in reversed(range(self.space.before[reader]))
        ]
        self.kept, self.logits, self.done = self.space.real.clone(), cutter.whole, 0
        self.damage = self._damages(self.logits[None])[0]
        self.effects: dict[int, Tensor] = {}
        self.window = max(1, min(window, BYTES // self.logits.nbytes))

    def run(self) -> Bool[Tensor, "writer reader"]:
        """The edges that are left."""
        progress = iter(track(range(len(self.order)), "acdc"))
        while self.done < len(self.order):
            start = self.done
            self._step()
            for _ in range(self.done - start):
                next(progress, None)
        return self.kept

    def _step(self) -> None:
        """Tries some candidates in one pass, and goes as far as the guesses were right."""
        tries, after, end = self._window()
        right = True
        base, before = self.logits, self.damage  # of the circuit that a candidate is cut from
        for (place, guess, without), (logits, damage) in zip(tries, self._tried(tries), strict=True):
            cut = damage - before < self.threshold
            self.effects[place] = logits - base
            if guess:
                base, before = logits, damage
            if right and cut:
                self.logits, self.damage = logits, damage
            if right and cut != guess:
                right, after, end = False, without, place + 1
                after[self.order[place]] = not cut
        self.kept, self.done = after, end
        self.effects = {place: effect for place, effect in self.effects.items() if place >= end}

    def _window(self) -> tuple[list[tuple[int, bool, Tensor]], Tensor, int]:
        """Some candidates: the place, whether the guess is that it stays cut, and the circuit with it cut; then what is
        left if all guesses are right, and where the window ends."""
        tries: list[tuple[int, bool, Tensor]] = []
        guesses, kept = self._guesses(), self.kept.clone()
        place, last, used, fresh = self.done, -1, False, 0
        while place < len(self.order):
            writer, reader = self.order[place]
            if reader != last:  # whether it is used was settled when the readers after it were
                last, used = reader, self._used(kept, reader)
            if used:
                fresh += place not in guesses
                if len(tries) == self.window or fresh > FRESH:
                    break
            kept[writer, reader] = False
            if used:
                guess = guesses.get(place, True)
                tries.append((place, guess, kept.clone()))
                kept[writer, reader] = not guess
            place += 1
        return tries, kept, place

    def _guesses(self) -> dict[int, bool]:
        """Whether each edge that was tried before will stay cut, if what cuts do to the logits adds up."""
        guesses, logits, damage = {}, self.logits, self.damage
        places = sorted(self.effects)
        while places:
            ahead = logits + torch.stack([self.effects[place] for place in places[:AHEAD]]).cumsum(0)
            damages = [damage, *self._damages(ahead)]
            stays = [after - before < self.threshold for before, after in pairwise(damages)]
            count = [*stays, False].index(False)  # cuts that stay, before the first that does not
            if count:
                logits, damage = ahead[count - 1], damages[count]
            guesses |= dict(zip(places, stays[: count + 1], strict=False))
            places = places[len(stays[: count + 1]) :]
        return guesses

    def _used(self, kept: Tensor, reader: int) -> bool:
        """Whether the circuit goes on from the component that reads here."""
        owners = self.inputs[:, reader]
        return not bool(owners.any()) or bool(kept[owners].any())

    def _tried(self, tries: list[tuple[int, bool, Tensor]]) -> Iterator[tuple[Tensor, float]]:
        """What each circuit gives, and its damage."""
        if not tries:
            return iter(())
        logits = self.cutter.logits(torch.stack([without for _, _, without in tries]))
        return zip(logits, self._damages(logits), strict=True)

    def _damages(self, logits: Tensor) -> list[float]:
        scores = self.cutter.score(logits).mean(1)
        return (scores if self.cutter.metric == "kl" else self.cutter.clean.mean() - scores).tolist()


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


@method
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
        BadInput: The circuit belongs to another model, keeps less than the share already, or the metric is the same
            with all edges and with none.
    """
    with measure() as cost:
        cutter = Cutter(model, task, how=how, metric=metric, batch=batch, at=asked(found.places))
        same_space(cutter.space, [found])
        ends = torch.stack([torch.zeros_like(cutter.space.real), cutter.space.real])
        empty, full = cutter(ends)
        require_change(empty, full, metric or task.metric_name, how)
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
