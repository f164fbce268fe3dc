"""`Trainer`: one dictionary, its optimiser and its counters; one step at a time.

1. A pass through the dictionary, and the terms of its recipe.
2. Gradients; those of thresholds in logarithms are multiplied by the threshold; where decoder rows have length one,
   what would change their length is taken off; the whole is limited in length.
3. A step of Adam at this step's rate; thresholds and lengths are put right.
4. What fired is counted: rows since each latent last fired, the threshold of BatchTopK, the pressure on the L0.

Nothing is read back from the device but the list of dead latents, where a term asks for it.

The L0 that a recipe wishes is met by a *pressure*, a factor of all penalties. After each step it is multiplied by
(L0 / wish)^g, the ratio limited to between 1/2 and 2; so it grows as long as too much fires. g is 0.01, and in runs of
fewer than 1000 steps 10 / steps, at most 0.05, for otherwise they would end before the wish is met.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from digsite._core.errors import BadInput, explain
from digsite.dictionaries.activations import BatchTopK
from digsite.dictionaries.config import Free, PerSource, PerTarget
from digsite.dictionaries.decoders import Matrices
from digsite.dictionaries.dictionary import Block, Dictionary, Pass
from digsite.dictionaries.losses import Clock
from digsite.dictionaries.monitor import Monitor
from digsite.dictionaries.recipes import Recipe
from digsite.dictionaries.resampling import resample
from digsite.dictionaries.sparsity import L0Step, TargetL0
from digsite.store import Rows

_SLOW, _FAST = 0.01, 0.05
"""Bounds of g."""
_LARGEST = 1e4
"""Bounds of the pressure: this and one over it."""
_SLOWEST = 0.01
"""The least weight of a new batch in the threshold of BatchTopK."""


class Trainer:
    """One dictionary in training.

    Attributes:
        dictionary: In training mode.
        recipe: How it is trained.
        steps: Of the whole run.
        done: Steps so far.
        seen: Rows so far.
        quiet: Of every block, the rows since each latent last fired.
        pressure: The factor of penalties that an L0 moves.
        leaves: What the optimiser changes, by name; thresholds may be logarithms.
        optimiser: Adam.
        monitor: Sums of what is to be told.
    """

    def __init__(self, dictionary: Dictionary, recipe: Recipe, *, steps: int, rows: int | None = None, seed: int = 0):
        _check(dictionary, recipe)
        self.dictionary, self.recipe, self.steps, self.seed = dictionary.train(), recipe, steps, seed
        self.done = self.seen = 0
        device = dictionary.blocks[0].b_enc.device
        self.quiet = [torch.zeros(block.config.latents, dtype=torch.long, device=device) for block in dictionary.blocks]
        self.pressure = torch.ones((), device=device)
        self.dead_after = recipe.dead_after if rows is None else min(recipe.dead_after, max(1, rows // 10))
        self.needs_pre = any(term.loss.needs_pre for term in recipe.terms)
        self.needs_dead = recipe.resample > 0 or any(term.name == "AuxK" for term in recipe.terms)
        self.leaves = {name: _leaf(name, x, recipe) for name, x in dictionary.named_parameters()}
        self._logs = {name: x for name, x in dictionary.named_parameters() if self.leaves[name] is not x}
        self._thresholds = [x for name, x in dictionary.named_parameters() if name.endswith("threshold")]
        self._units = _units(dictionary) if recipe.unit_norm else []
        self.optimiser = torch.optim.Adam(self._groups(), betas=recipe.betas, eps=recipe.eps, fused=_fused(device))
        self._resample_at = {round(steps * (i + 1) / (recipe.resample + 2)) for i in range(recipe.resample)}
        self.monitor = Monitor(dictionary, device)
        self._refuse_other_lengths()

    # -- a step ----------------------------------------------------------------------------------------------------
    def step(self, rows: Rows | Mapping[str, Tensor]) -> None:
        """One step on these rows.

        Args:
            rows: Activations by column, in the units of the model.
        """
        clock = Clock(self.done, self.steps, self.dead())
        passed = self.dictionary.run(rows, pre=self.needs_pre)
        terms = {term.name: term.loss(self.dictionary, passed, clock) for term in self.recipe.terms}
        total = torch.stack([self._weight(term) * terms[term.name] for term in self.recipe.terms]).sum()
        total.backward()  # 1.
        self._descend()
        count = len(next(iter(passed.targets.values())))
        self._count(passed, count)
        self.monitor.add(total.detach(), {name: x.detach() for name, x in terms.items()}, passed, count)
        self.done, self.seen = self.done + 1, self.seen + count
        if self.done in self._resample_at:
            self._revive(passed)

    def dead(self) -> list[Tensor]:
        """Of every block, the latents that have not fired for long; none where no term asks."""
        if not self.needs_dead:
            return [quiet.new_zeros(0) for quiet in self.quiet]
        return [(quiet >= self.dead_after).nonzero().squeeze(1) for quiet in self.quiet]

    def dead_share(self) -> float:
        """The share of latents that have not fired for long."""
        quiet = torch.cat(self.quiet)
        return float((quiet >= self.dead_after).float().mean())

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        latents = max(block.latents for block in self.dictionary.config.blocks) * (self.dictionary.slices or 1)
        base = 2e-4 / math.sqrt(latents / 2**14) if self.recipe.rate is None else self.recipe.rate
        return base * self.recipe.schedule(self.done, self.steps)

    def _weight(self, term) -> Tensor | float:
        weight = term.coefficient * term.schedule(self.done, self.steps)
        return weight * self.pressure if term.loss.sparsity and self.recipe.l0 is not None else weight

    @torch.no_grad()
    def _descend(self) -> None:
        for name, threshold in self._logs.items():  # 2.
            leaf = self.leaves[name]
            leaf.grad = None if threshold.grad is None else threshold.grad * threshold
            threshold.grad = None
        for rows in self._units:
            _take_off_lengths(rows)
        if self.recipe.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(list(self.leaves.values()), self.recipe.clip, self._length())
        for group in self.optimiser.param_groups:  # 3.
            group["lr"] = self.rate * group["factor"]
        self.optimiser.step()
        self.optimiser.zero_grad()
        self._lengthen()

    def _length(self) -> Tensor:
        """The length of the whole gradient."""
        return torch.nn.utils.get_total_norm([x.grad for x in self.leaves.values() if x.grad is not None])

    @torch.no_grad()
    def _lengthen(self) -> None:
        """Thresholds follow their logarithms and are never below zero; decoder rows get length one."""
        for name, threshold in self._logs.items():
            torch.exp(self.leaves[name], out=threshold)
        for threshold in self._thresholds:
            threshold.clamp_min_(0)
        for rows in self._units:
            lengths = torch.stack([W.norm(dim=1) for W in rows]).norm(dim=0)[:, None]
            for W in rows:
                W.div_(lengths.clamp_min(1e-30))

    @torch.no_grad()
    def _count(self, passed: Pass, count: int) -> None:
        l0 = torch.zeros_like(self.pressure)
        for block, quiet, latents in zip(self.dictionary.blocks, self.quiet, passed.latents, strict=True):  # 4.
            fired = self.monitor.fired(latents)
            quiet.add_(count).masked_fill_(fired > 0, 0)
            l0 += self._over(fired.sum()) / count
            if isinstance(block.config.activation, BatchTopK):
                smallest = self._over(_smallest(block, *latents.flat), least=True)
                _follow(block.own("threshold"), smallest, max(_SLOWEST, 1 / (self.done + 1)))
        if self.recipe.l0 is not None:
            ratio = (l0 / self.recipe.l0).clamp(0.5, 2)
            gain = min(_FAST, max(_SLOW, 10 / self.steps))
            self.pressure.mul_(ratio.pow(gain)).clamp_(1 / _LARGEST, _LARGEST)

    def _over(self, here: Tensor, *, least: bool = False) -> Tensor:
        """The sum (or the least) of a number over all slices of the latents; there is one, unless in `parallel`."""
        return here

    def _revive(self, passed: Pass) -> None:
        for number, dead in enumerate(self.dead()):
            changed = resample(self.dictionary, number, dead, passed, seed=self.seed + self.done)
            for x in changed:
                for moment in self.optimiser.state.get(x, {}).values():
                    if moment.shape == x.shape:
                        moment[dead] = 0
            self.quiet[number][dead] = 0
        self._lengthen()

    def _refuse_other_lengths(self) -> None:
        """Rows that are not yet of length one would be changed, and with them what the dictionary computes."""
        for rows in self._units:
            lengths = torch.stack([W.detach().norm(dim=1) for W in rows]).norm(dim=0)
            if (lengths - 1).abs().max() > 0.01:
                found = f"from {float(lengths.min()):.3g} to {float(lengths.max()):.3g}"
                do = "replace(recipe, unit_norm=False); or initialise a new dictionary"
                asked = f"{self.recipe.name} keeps decoder rows at length one, and this dictionary's have others"
                raise BadInput(explain(asked, found=found, do=do))

    # -- optimiser -------------------------------------------------------------------------------------------------
    def _groups(self) -> list[dict]:
        slow = {name for name in self.leaves if name.endswith("threshold")}
        groups = [
            {"params": [x for name, x in self.leaves.items() if name not in slow], "factor": 1.0},
            {"params": [self.leaves[name] for name in sorted(slow)], "factor": self.recipe.threshold_rate},
        ]
        return [group for group in groups if group["params"]]


def _leaf(name: str, x: Tensor, recipe: Recipe) -> Tensor:
    if not (recipe.logs and name.endswith("threshold")):
        return x
    return x.detach().clamp_min(1e-8).log().requires_grad_()


def _fused(device: torch.device) -> bool:
    return device.type in ("cpu", "cuda")


def _smallest(block: Block, values: Tensor, indices: Tensor) -> Tensor:
    """The smallest entry that was chosen, as it was compared; infinite where there is none."""
    gate = values * block.norms()[indices] if getattr(block.config.activation, "by_norm", False) else values
    return torch.where(gate > 0, gate, torch.inf).amin() if len(gate) else gate.new_tensor(torch.inf)


def _follow(threshold: Tensor, smallest: Tensor, weight: float) -> None:
    """The threshold of BatchTopK goes towards the smallest entry that a batch chose."""
    threshold.copy_(torch.where(smallest < torch.inf, threshold.lerp(smallest.to(threshold.dtype), weight), threshold))


def _take_off_lengths(rows: list[Tensor]) -> None:
    """The part of the gradient along each decoder row, which would change its length, is taken off."""
    along = torch.stack([(W * W.grad).sum(1) for W in rows if W.grad is not None]).sum(0)[:, None]
    for W in rows:
        if W.grad is not None:
            W.grad.addcmul_(W, along, value=-1)


def _units(dictionary: Dictionary) -> list[list[Tensor]]:
    """Matrices whose rows, taken together, are what each latent writes."""
    groups: dict[tuple[int, ...], list[Tensor]] = {}
    for block in dictionary.blocks:
        decoder, kind = block.decoder, block.config.decoder
        if not isinstance(decoder, Matrices) or not isinstance(kind, Free | PerSource | PerTarget):
            do = "replace(recipe, unit_norm=False)"
            raise BadInput(explain("Latents of this decoder cannot be kept at length one", found=kind.kind, do=do))
        different = list({id(W): W for W in decoder.W}.values())
        sets = [[W] for W in different] if isinstance(kind, PerTarget) else [different]
        if decoder.common is not None:
            sets.append([decoder.common])
        groups |= {tuple(map(id, one)): one for one in sets}
    return list(groups.values())


def _check(dictionary: Dictionary, recipe: Recipe) -> None:
    kinds = {block.activation.kind for block in dictionary.config.blocks}
    for term in recipe.terms:
        if term.loss.kinds and not kinds <= set(term.loss.kinds):
            raise BadInput(
                explain(
                    f"{term.name} of the recipe {recipe.name} cannot be asked of a dictionary of {', '.join(kinds)}",
                    possible=f"latents by {', '.join(term.loss.kinds)}",
                    do=f"make the dictionary with {recipe.activation}, or choose another recipe",
                )
            )
    steps = [term.name for term in recipe.terms if isinstance(term.loss, L0Step | TargetL0)]
    if steps and any(getattr(block.activation, "through", False) for block in dictionary.config.blocks):
        asked = f"{steps[0]} holds only thresholds, and here gradients pass through the jump to pre-activations too"
        raise BadInput(explain(asked, do="use Tanh, or JumpReLU(through=False)"))
    if recipe.l0 is not None and not any(term.loss.sparsity for term in recipe.terms):
        do = "set k of the activation, and l0=None"
        raise BadInput(explain(f"The recipe {recipe.name} wishes an L0, and has no penalty that could move it", do=do))
    names = [term.name for term in recipe.terms]
    if len(set(names)) < len(names):
        raise BadInput(explain(f"The recipe {recipe.name} has a loss twice", found=", ".join(names)))
