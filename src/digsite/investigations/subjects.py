"""What a finding can be about, and the effect of it: one number an example, beside as many random ones of its kind.

1. A head, an MLP, a stream: `layers.2.attn.z[3]`. What the metric loses when it carries its corrupt value; the null are
   equally large changes of it in random directions.
2. Several heads and MLPs: `layers.2.attn.z[3], layers.1.mlp.out`. The same; random sets with as many of each,
   drawn from the others.
3. A neuron: `layers.1.mlp.act#17`. The same; other neurons of the layer.
4. A latent of a dictionary: `digsite/tinyworld/sae-0#12`, or a folder before the #. What the metric loses without it,
   the dictionary's error kept; latents that fire about as often.
5. A direction: the folder of one. What the metric loses when it is ablated; random directions at the site.
6. A circuit: the folder of one. What its edges alone keep of the metric; random circuits of its size.
7. The behaviour: `behaviour`. The metric; that of the answers of other examples.

No formula is made here: each kind calls the method that measures it.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from digsite._core.errors import BadInput, explain
from digsite.artifacts import load_result
from digsite.circuits import Cutter
from digsite.circuits.places import asked
from digsite.circuits.scores import random_circuit
from digsite.dictionaries import Dictionary, read_dictionary
from digsite.dictionaries import load as load_dictionary
from digsite.dictionaries.files import BUILTIN
from digsite.dictionaries.splice import Kept, encoded, rows_in, rows_of, site_of, written
from digsite.directions import Direction
from digsite.directions.files import load_direction
from digsite.graphs import Circuit
from digsite.graphs.circuit import same_space
from digsite.investigations.controls import others_answers
from digsite.models import Edit, Model, Tokens, ablate, apply, patch
from digsite.models import replace as put
from digsite.models.edits import changed
from digsite.patching import components, evaluate_sets, moved
from digsite.patching.places import lined_up
from digsite.patching.sets import random_flags
from digsite.sites import Site
from digsite.tasks import Task

FEW, ROWS = 32, 512
"""Examples on which random subjects are measured, and rows of one pass."""
BEHAVIOUR = "behaviour"


@dataclass(frozen=True, eq=False)
class Effect:
    """What a subject does, beside random ones.

    Attributes:
        values: The effect in each example, in the metric's unit.
        null: The mean effect of each random subject, over the first `few` examples.
        few: How many these are.
        whole: The mean of what there is to explain: the metric, clean less corrupt (or less nothing left).
    """

    values: Float[Tensor, " example"]
    null: Float[Tensor, " draw"]
    few: int
    whole: float


@runtime_checkable
class Subject(Protocol):
    """Something that a finding is about."""

    kind: ClassVar[str]

    def effect(self, model: Model, task: Task, metric: str, draws: int, seed: int) -> Effect:
        """What it does in this model and task."""
        ...


# -- subjects that an edit takes away ----------------------------------------------------------------------------------
@runtime_checkable
class Edited(Protocol):
    """A subject that edits take away, and random ones of its kind."""

    def away(self, model: Model, task: Task) -> list[Edit]:
        """Edits of the task's clean rows."""
        ...

    def random(self, model: Model, task: Task, draws: int, generator: torch.Generator) -> Iterator[list[Edit]]:
        """Edits that take a random one away, for each draw."""
        ...


@torch.no_grad()
def _effect_of(subject: Edited, model: Model, task: Task, metric: str, draws: int, seed: int) -> Effect:
    def scored(some: Task, edits: list[Edit]) -> Tensor:
        return some.metric(model.run(some.clean, edits=edits, logits=some.keep).logits, metric).float().cpu()

    few, generator = task.take(slice(0, FEW)), torch.Generator().manual_seed(seed)
    full = scored(task, [])
    corrupt = task.metric(model.run(task.require_corrupt(), logits=task.keep).logits, metric).float().cpu()
    without = _scored_together(model, few, subject.random(model, few, draws, generator), metric)
    return Effect(
        values=full - scored(task, subject.away(model, task)),
        null=full[: len(few)].mean() - without,
        few=len(few),
        whole=float((full - corrupt).mean()),
    )


def _scored_together(model: Model, task: Task, every: Iterable[list[Edit]], metric: str) -> Float[Tensor, " draw"]:
    """The mean metric under each of many lists of edits of the same sites; several share a pass."""
    tokens, means = task.clean, []
    rows = len(tokens)
    for some in _batches(every, max(1, ROWS // rows)):
        grid = Tokens(tokens.ids.repeat(len(some), 1), tokens.mask.repeat(len(some), 1), tokenizer=tokens.tokenizer)
        edits = [apply(at_one[0].site, partial(_each, edits=at_one)) for at_one in zip(*some, strict=True)]
        logits = model.run(grid, edits=edits, logits=task.keep).logits.unflatten(0, (len(some), rows))
        means.append(task.metric_of_many(logits, metric).float().mean(1).cpu())
    return torch.cat(means) if means else torch.zeros(0)


def _each(x: Tensor, *, edits: Sequence[Edit]) -> Tensor:
    """Each edit in its own part of the rows."""
    return torch.cat([changed(edit, part) for edit, part in zip(edits, x.chunk(len(edits)), strict=True)])


def _batches(every: Iterable[list[Edit]], size: int) -> Iterator[list[list[Edit]]]:
    left = iter(every)
    while some := list(islice(left, size)):
        yield some


@dataclass(frozen=True)
class Component:
    """A head, an MLP, a stream: a site whose value is exchanged for that of the corrupt prompt."""

    site: Site
    kind: ClassVar[str] = "component"

    def effect(self, model: Model, task: Task, metric: str, draws: int, seed: int) -> Effect:
        """What the metric loses when it carries its corrupt value."""
        lined_up(task)
        return _effect_of(self, model, task, metric, draws, seed)

    def away(self, model: Model, task: Task) -> list[Edit]:
        """Its value on the corrupt rows."""
        return [patch(self.site, model.run(task.require_corrupt(), read=[self.site], logits=None))]

    def random(self, model: Model, task: Task, draws: int, generator: torch.Generator) -> Iterator[list[Edit]]:
        """Its own value, moved as far in a random direction."""
        own, other = (model.run(x, read=[self.site], logits=None)[self.site] for x in _ends(task))
        for _ in range(draws):
            yield [put(self.site, moved(own, other, generator))]


@dataclass(frozen=True)
class Neuron:
    """One number of a site."""

    site: Site
    index: int
    kind: ClassVar[str] = "neuron"

    def effect(self, model: Model, task: Task, metric: str, draws: int, seed: int) -> Effect:
        """What the metric loses when it carries its corrupt value."""
        lined_up(task)
        return _effect_of(self, model, task, metric, draws, seed)

    def away(self, model: Model, task: Task) -> list[Edit]:
        """Its value on the corrupt rows."""
        source = model.run(task.require_corrupt(), read=[self.site], logits=None)
        width = source[self.site].shape[-1]
        if self.index >= width:
            asked = f"There is no neuron {self.index} at {self.site}"
            raise BadInput(explain(asked, possible=f"0 to {width - 1}"))
        return [patch(self.site, source, within=torch.eye(width)[[self.index]])]

    def random(self, model: Model, task: Task, draws: int, generator: torch.Generator) -> Iterator[list[Edit]]:
        """Other neurons of the site."""
        source = model.run(task.require_corrupt(), read=[self.site], logits=None)
        width = source[self.site].shape[-1]
        others = [one for one in torch.randperm(width, generator=generator).tolist() if one != self.index]
        for one in others[:draws]:
            yield [patch(self.site, source, within=torch.eye(width)[[one]])]


@dataclass(frozen=True, eq=False)
class Latent:
    """A latent of a dictionary; the latents of all blocks are counted one block after the other."""

    dictionary: Dictionary
    index: int
    kind: ClassVar[str] = "latent"

    def effect(self, model: Model, task: Task, metric: str, draws: int, seed: int) -> Effect:
        """What the metric loses without it, the rest of the model's activation kept."""
        return _effect_of(self, model, task, metric, draws, seed)

    def away(self, model: Model, task: Task) -> list[Edit]:
        """What it writes is taken from what the model computed."""
        return self._without(model, task, self.index)

    def random(self, model: Model, task: Task, draws: int, generator: torch.Generator) -> Iterator[list[Edit]]:
        """Latents that fire about as often on these prompts."""
        rates = self._rates(model, task)
        nearest = (rates - rates[self.index]).abs().argsort(stable=True).tolist()
        pool = [one for one in nearest if one != self.index and rates[one] > 0][: 2 * draws]
        for at in torch.randperm(len(pool), generator=generator)[:draws].tolist():
            yield self._without(model, task, pool[at])

    def _rates(self, model: Model, task: Task) -> Float[Tensor, " latent"]:
        run, where = self._read(model, task)
        latents = encoded(self.dictionary, rows_of(run, self.dictionary.reads, where))
        return torch.cat([one.fired() / len(one) for one in latents]).cpu()

    def _read(self, model: Model, task: Task):
        sites = [site_of(name) for name in self.dictionary.reads]
        return model.run(task.clean, read=sites, logits=None), rows_in(task.clean)

    def _without(self, model: Model, task: Task, index: int) -> list[Edit]:
        run, where = self._read(model, task)
        rows = rows_of(run, self.dictionary.reads, where)
        flags = torch.ones(self.dictionary.width, dtype=torch.bool)
        flags[index] = False
        kept: Kept = flags.split([block.config.latents for block in self.dictionary.blocks])
        rows = rows.to(self.dictionary.b_dec[0].device, self.dictionary.b_dec[0].dtype)
        whole, rest = (self.dictionary.decode(encoded(self.dictionary, rows, some), rows) for some in (None, kept))
        return written({name: partial(_less, what=whole[name] - rest[name]) for name in self.dictionary.writes}, where)


def _less(x: Float[Tensor, "row d"], *, what: Float[Tensor, "row d"]) -> Float[Tensor, "row d"]:
    return x - what.to(x)


@dataclass(frozen=True, eq=False)
class Along:
    """A direction, which is ablated at its site."""

    direction: Direction
    kind: ClassVar[str] = "direction"

    def effect(self, model: Model, task: Task, metric: str, draws: int, seed: int) -> Effect:
        """What the metric loses when activations have nothing along it."""
        return _effect_of(self, model, task, metric, draws, seed)

    def away(self, model: Model, task: Task) -> list[Edit]:
        """Its ablation; not `Direction.ablate`'s check of the model, for it is also made in one of random weights."""
        return [ablate(self.direction.site, direction=self.direction.vector)]

    def random(self, model: Model, task: Task, draws: int, generator: torch.Generator) -> Iterator[list[Edit]]:
        """Random directions; an ablation does not ask for their length."""
        for _ in range(draws):
            vector = torch.randn(len(self.direction.vector), generator=generator)
            yield [ablate(self.direction.site, direction=vector)]


# -- subjects that have a method of their own --------------------------------------------------------------------------
@dataclass(frozen=True)
class Components:
    """A set of heads and MLPs."""

    names: tuple[str, ...]
    kind: ClassVar[str] = "set of components"

    def effect(self, model: Model, task: Task, metric: str, draws: int, seed: int) -> Effect:
        """What the metric loses when all of them carry their corrupt values."""
        every = components(model)
        flags = torch.tensor([name in self.names for name in every])
        ends = torch.stack([torch.zeros_like(flags), torch.ones_like(flags), flags])
        full, corrupt, without = evaluate_sets(model, task, ends, metric=metric, seed=seed).cpu()
        few = task.take(slice(0, FEW))
        drawn = random_flags(every, flags, draws, seed=seed, apart=True)
        random = evaluate_sets(model, few, drawn, metric=metric, seed=seed, description="random sets").mean(1).cpu()
        return Effect(full - without, full[: len(few)].mean() - random, len(few), float((full - corrupt).mean()))


@dataclass(frozen=True, eq=False)
class Edges:
    """A circuit: its edges carry what they carry, all others what they carry on the corrupt prompt."""

    circuit: Circuit
    kind: ClassVar[str] = "circuit"

    def effect(self, model: Model, task: Task, metric: str, draws: int, seed: int) -> Effect:
        """What its edges alone keep of the metric."""
        kept, at, few = self.circuit.kept, asked(self.circuit.places), task.take(slice(0, FEW))
        cutter = Cutter(model, task, metric=metric, seed=seed, at=at)
        same_space(cutter.space, [self.circuit])
        every = cutter.space.real.expand(kept.shape)
        full, empty, alone = cutter(torch.stack([every, torch.zeros_like(every), kept])).cpu()
        generator = torch.Generator().manual_seed(seed)
        drawn = [random_circuit(cutter.space, kept, len(self.circuit), generator) for _ in range(draws)]
        random = Cutter(model, few, metric=metric, seed=seed, at=at)(torch.stack(drawn)).mean(1).cpu()
        return Effect(alone - empty, random - empty[: len(few)].mean(), len(few), float((full - empty).mean()))


@dataclass(frozen=True)
class Behaviour:
    """The behaviour itself."""

    kind: ClassVar[str] = BEHAVIOUR

    @torch.no_grad()
    def effect(self, model: Model, task: Task, metric: str, draws: int, seed: int) -> Effect:
        """The metric, beside that of the answers of other examples."""
        logits = model.run(task.clean, logits=task.keep).logits
        values, null = task.metric(logits, metric).float().cpu(), []
        for draw in range(draws):
            other = others_answers(task, seed=seed * draws + draw + 1)
            if task.keep > 1:  # each answer has rows of its own
                logits = model.run(other.clean, logits=other.keep).logits
            null.append(other.metric(logits, metric).float().mean().cpu())
        return Effect(values, torch.stack(null), len(task), float(values.mean()))


def subject_of(model: Model, address: str, *, folder: str | Path = ".") -> Subject:
    """What an address names; see the table at the head of this file.

    Args:
        model: The model that the finding is about.
        address: The subject as it is written.
        folder: Where relative paths begin.

    Raises:
        BadInput: It names nothing that a finding can be about.
        NoSuchSite: The model lacks the site.
        LoadError: A folder that holds something else.
    """
    address = address.strip()
    if address == BEHAVIOUR:
        return Behaviour()
    place, mark, number = address.rpartition("#")
    if mark:
        return _unit(model, place, number, address, Path(folder))
    if "/" not in address and re.match(r"(layers|blocks)\.", address):
        sites = [site for part in re.split(r"[,;]\s*", address) for site in model.anatomy.expand(part)]
        if len(sites) == 1:
            return Component(sites[0])
        known, names = components(model), tuple(dict.fromkeys(str(site).replace(".result[", ".z[") for site in sites))
        if wrong := [name for name in names if name not in known]:
            possible = "heads such as layers.3.attn.z[2], MLPs such as layers.3.mlp.out"
            raise BadInput(explain(f"{wrong[0]} is no component of a set", possible=possible))
        return Components(names)
    return _stored(model, Path(folder) / address)


def _unit(model: Model, place: str, number: str, address: str, folder: Path) -> Subject:
    """A neuron or a latent."""
    if not number.isdigit():
        do = "write layers.1.mlp.act#17 for a neuron, digsite/tinyworld/sae-0#12 for a latent"
        raise BadInput(explain(f"{address!r} has no number behind its #", do=do))
    if re.fullmatch(r"(layers|blocks)\.\d+\.[a-z_.]+", place):
        (site,) = model.anatomy.expand(place)
        return Neuron(site, int(number))
    dictionary = load_dictionary(place) if place.startswith(BUILTIN) else read_dictionary(folder / place)
    if int(number) >= dictionary.width:
        raise BadInput(explain(f"{place} has no latent {number}", possible=f"0 to {dictionary.width - 1}"))
    return Latent(dictionary, int(number))


def _stored(model: Model, path: Path) -> Subject:
    """A circuit or a direction in a folder."""
    if (path / "directions.json").is_file():
        direction = load_direction(path)
        direction.check(model)
        return Along(direction)
    if (path / "result.json").is_file():
        result = load_result(path)
        if isinstance(result, Circuit):
            return Edges(result)
        raise BadInput(explain(f"{path} holds no circuit", found=f"{type(result).__name__}: {result.verdict}"))
    possible = (
        "layers.2.attn.z[3], several of them with commas, layers.1.mlp.act#17, digsite/tinyworld/sae-0#12, "
        "the folder of a circuit or direction, behaviour"
    )
    raise BadInput(explain(f"{path} is nothing that a finding can be about", found="no such folder", possible=possible))


def _ends(task: Task):
    return task.clean, task.require_corrupt()
