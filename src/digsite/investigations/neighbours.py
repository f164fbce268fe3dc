"""The same question at another level: what there is closest to a subject, with the numbers that say so.

- head to latent, latent to head: how far what a latent writes moves when a head carries its corrupt value; the null is
  the largest of 19 moves of the head that are as far, in random directions.
- neuron to latent, latent to neuron: the cosine between what the two write; the null is what 95 % of random directions
  have at most with any of them.
- behaviour to head: what each head and MLP destroys by itself (activation patching, noise); the same in a random
  direction.
- circuit to head: the share of the circuit's edges that leave each of its heads and MLPs; all components alike.
- head to circuit: the same share, for every circuit given that has the head.

Only what lies beyond its null is given, the strongest first.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, explain
from digsite._core.progress import track
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.dictionaries import Dictionary, builtin, read_dictionary
from digsite.dictionaries import load as load_dictionary
from digsite.dictionaries.splice import encoded, rows_in, rows_of, site_of
from digsite.graphs import Circuit
from digsite.investigations.subjects import BEHAVIOUR, FEW, Component, Edges, Latent, Neuron, Subject, subject_of
from digsite.models import Edit, Model, made_by
from digsite.patching import activation_patching, components
from digsite.sites import Site
from digsite.tasks import Task

DRAWS, MOVES = 200, 19
"""Random directions that a cosine is compared with, and that a head is moved in."""


@dataclass(frozen=True, kw_only=True)
class Neighbours(Result):
    """What there is at another level, closest to a subject.

    Attributes:
        subject: Where the question was asked.
        level: Where it is asked now.
        what: What the score is.
        unit: Its unit.
        looked_at: How many candidates there were.
        subjects: Those beyond their null, the strongest first.
        scores: Of each.
        null: What chance gives, for each.
    """

    SCHEMA: ClassVar[str] = "investigations.neighbours/1"

    subject: str
    level: str
    what: str
    unit: str
    looked_at: int
    subjects: tuple[str, ...]
    scores: Float[Tensor, " chosen"]
    null: Float[Tensor, " chosen"]

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        asked = f"from {self.subject} to the level {self.level}"
        if not self.subjects:
            return f"{asked}: none of {self.looked_at} is beyond chance ({self.what})"
        first = f"{self.subjects[0]} ({self.what} {self.scores[0]:.3g} {self.unit}; chance {self.null[0]:.3g})"
        others = f", then {', '.join(self.subjects[1:4])}" if len(self.subjects) > 1 else ""
        return f"{asked}: {len(self.subjects)} of {self.looked_at} beyond chance, first {first}{others}"

    def to_frame(self) -> pl.DataFrame:
        """One row a candidate beyond its null: score and null."""
        return pl.DataFrame(
            {"subject": list(self.subjects), "score": self.scores.tolist(), "null": self.null.tolist()},
            schema={"subject": pl.String, "score": pl.Float64, "null": pl.Float64},
        )


@dataclass(frozen=True, eq=False)
class _Question:
    """What a way between two levels is told."""

    model: Model
    task: Task | None
    about: Subject
    address: str
    dictionary: str | None
    circuits: Mapping[str, Circuit]
    seed: int
    folder: Path

    @property
    def pairs(self) -> Task:
        """The task, where it is needed."""
        if self.task is None:
            raise BadInput(explain(f"The way from {self.address} needs prompts", do="pass a task"))
        return self.task


@dataclass(frozen=True, eq=False)
class _Scored:
    what: str
    unit: str
    names: list[str]
    scores: Tensor
    null: Tensor
    beyond: Tensor | None = None


@method
def neighbours(
    model: Model,
    subject: str,
    level: str,
    *,
    task: Task | None = None,
    dictionary: str | None = None,
    circuits: Mapping[str, Circuit] | None = None,
    seed: int = 0,
    folder: str | Path = ".",
) -> Neighbours:
    """What there is at another level, closest to a subject.

    Args:
        model: The model.
        subject: As for `battery`.
        level: Where to look: "latent", "head", "neuron" or "circuit"; see the head of this file.
        task: Prompts, where the way needs them.
        dictionary: The dictionary of the latents; if None the built-in SAE of the layer, where the model has one.
        circuits: Circuits to look in, by the address that each is to be called.
        seed: Of everything random.
        folder: Where relative paths begin.

    Raises:
        BadInput: There is no such way, or it lacks a task, a dictionary or circuits.

    Units:
        `unit` of the result: lengths in the model's activations, cosines, or shares.

    Caveats:
        Near is not the same: each of these is a question, to be tested as a finding of its own. Beyond chance is said
        of each candidate by itself: of many that do nothing, one in twenty is.
    """
    about = subject_of(model, subject, folder=folder)
    origin = {"component": "head"}.get(about.kind, about.kind)
    if (origin, level) not in WAYS:
        possible = [f"{a} to {b}" for a, b in WAYS]
        raise BadInput(explain(f"There is no way from {origin} ({subject}) to {level}", possible=possible))
    question = _Question(model, task, about, subject, dictionary, dict(circuits or {}), seed, Path(folder))
    with measure() as cost:
        found = WAYS[origin, level](question)
    beyond = found.scores > found.null if found.beyond is None else found.beyond
    beyond = beyond.nonzero().flatten()
    order = beyond[found.scores[beyond].argsort(descending=True, stable=True)]
    return Neighbours(
        subject=subject,
        level=level,
        what=found.what,
        unit=found.unit,
        looked_at=len(found.names),
        subjects=tuple(found.names[i] for i in order.tolist()),
        scores=found.scores[order],
        null=found.null[order],
        provenance=made_by(
            f"digsite.investigations.neighbours(model, {subject!r}, {level!r})",
            model,
            None if task is None else task.fingerprint,
            seed=seed,
        ),
        cost=cost,
    )


# -- heads and latents ------------------------------------------------------------------------------------------------
def _head_to_latent(q: _Question) -> _Scored:
    assert isinstance(q.about, Component)
    dictionary, name = _dictionary(q, q.about.site)
    if int(str(q.about.site.layer)) > (last := _last_layer(dictionary)):
        found = f"{name} reads layer {last}"
        raise BadInput(explain(f"{q.about.site} writes nothing into a layer before it", found=found))
    written, null = _written_by(q, dictionary, q.about)
    names = [f"{name}#{i}" for i in range(dictionary.width)]
    return _Scored("what it writes moves, without the head's clean value, by", "a token", names, written, null)


def _latent_to_head(q: _Question) -> _Scored:
    assert isinstance(q.about, Latent)
    dictionary, index = q.about.dictionary, q.about.index
    last = _last_layer(dictionary)
    heads = [Component(Site.parse(name)) for name in components(q.model, mlps=False)]
    heads = [head for head in heads if int(str(head.site.layer)) <= last]
    pairs = [_written_by(q, dictionary, head) for head in track(heads, "heads that write it")]
    scores, null = (torch.stack([pair[i][index] for pair in pairs]) for i in (0, 1))
    names = [str(head.site) for head in heads]
    return _Scored("what the latent writes moves, without its clean value, by", "a token", names, scores, null)


@torch.no_grad()
def _written_by(
    q: _Question, dictionary: Dictionary, head: Component
) -> tuple[Float[Tensor, " latent"], Float[Tensor, " latent"]]:
    """How far what each latent writes moves a token, when a head carries its corrupt value; and by chance."""
    task = q.pairs.take(slice(0, FEW))
    own = _values(q.model, task, dictionary, [])
    random = head.random(q.model, task, MOVES, torch.Generator().manual_seed(q.seed))
    lengths = torch.cat([_lengths(dictionary, number) for number in range(len(dictionary.blocks))])
    away, *chance = (
        (_values(q.model, task, dictionary, edits) - own).abs().mean(0) * lengths
        for edits in (head.away(q.model, task), *random)
    )
    return away, torch.stack(chance).amax(0)


def _values(model: Model, task: Task, dictionary: Dictionary, edits: list[Edit]) -> Float[Tensor, "row latent"]:
    sites = [site_of(name) for name in dictionary.reads]
    run = model.run(task.clean, read=sites, edits=edits, logits=None)
    latents = encoded(dictionary, rows_of(run, dictionary.reads, rows_in(task.clean)))
    return torch.cat([one.dense() for one in latents], 1).cpu()


def _last_layer(dictionary: Dictionary) -> int:
    """The last layer that it reads."""
    return max(int(str(Site.parse(site_of(name)).layer)) for name in dictionary.reads)


def _lengths(dictionary: Dictionary, block: int) -> Float[Tensor, " latent"]:
    """How long what each latent writes is, in the model's units, over all columns."""
    writes = dictionary.blocks[block].config.writes
    return torch.stack([dictionary.directions(name, block).detach().norm(dim=1) for name in writes]).norm(dim=0).cpu()


# -- neurons and latents ----------------------------------------------------------------------------------------------
def _neuron_to_latent(q: _Question) -> _Scored:
    assert isinstance(q.about, Neuron)
    dictionary, name = _dictionary(q, q.about.site)
    rows = _neuron_rows(q.model, q.about.site)
    if q.about.index >= len(rows):
        raise BadInput(
            explain(f"There is no neuron {q.about.index} at {q.about.site}", possible=f"0 to {len(rows) - 1}")
        )
    directions = _stream_directions(dictionary, rows.shape[1])
    names = [f"{name}#{i}" for i in range(len(directions))]
    return _cosines(rows[q.about.index], directions, names, q.seed)


def _latent_to_neuron(q: _Question) -> _Scored:
    assert isinstance(q.about, Latent)
    layer = Site.parse(site_of(q.about.dictionary.writes[0])).layer
    site = Site("mlp.act", layer)
    rows = _neuron_rows(q.model, site)
    direction = _stream_directions(q.about.dictionary, rows.shape[1])[q.about.index]
    return _cosines(direction, rows, [f"{site}#{i}" for i in range(len(rows))], q.seed)


def _cosines(one: Tensor, others: Float[Tensor, "row width"], names: list[str], seed: int) -> _Scored:
    unit = torch.nn.functional.normalize(others, dim=1)
    scores = (unit @ torch.nn.functional.normalize(one, dim=0)).abs()
    random = torch.randn(DRAWS, len(one), generator=torch.Generator().manual_seed(seed))
    chance = (unit @ torch.nn.functional.normalize(random, dim=1).T).abs().amax(0).quantile(0.95)
    return _Scored("cosine of what the two write", "(size)", names, scores, chance.expand(len(scores)))


def _neuron_rows(model: Model, site: Site) -> Float[Tensor, "d_mlp d_model"]:
    if site.name != "mlp.act" or not isinstance(site.layer, int):
        raise BadInput(explain(f"What a number of {site} writes is not one direction", do="name layers.1.mlp.act#17"))
    return model.weights.W_out[site.layer].detach().float().cpu()


def _stream_directions(dictionary: Dictionary, width: int) -> Float[Tensor, "latent d_model"]:
    column = dictionary.writes[0]
    directions = dictionary.directions(column).detach().float().cpu()
    if len(dictionary.blocks) > 1 or directions.shape[1] != width:
        found = f"{len(dictionary.blocks)} blocks; {directions.shape[1]} numbers at {column}, {width} in the stream"
        raise BadInput(
            explain("Neurons are compared with the latents of one block that writes the stream", found=found)
        )
    return directions


# -- behaviour, circuits and heads ------------------------------------------------------------------------------------
def _behaviour_to_head(q: _Question) -> _Scored:
    names = components(q.model)
    frame = activation_patching(q.model, q.pairs, names, direction="noise", seed=q.seed).to_frame()
    effect, low, null, high = (torch.tensor(frame[x].to_list()) for x in ("effect", "low", "null", "null_high"))
    return _Scored(
        "destroyed when it carries its corrupt value", "of the metric", list(names), effect, null, low > high
    )


def _circuit_to_head(q: _Question) -> _Scored:
    assert isinstance(q.about, Edges)
    shares = _shares(q.about.circuit)
    chance = torch.full((len(shares),), 1 / len(shares))
    scores = torch.tensor(list(shares.values()))
    return _Scored("share of the circuit's edges that leave it", "", list(shares), scores, chance, scores > 0)


def _head_to_circuit(q: _Question) -> _Scored:
    assert isinstance(q.about, Component)
    if not q.circuits:
        do = "record one in the dig (digsite circuit find …), or pass circuits="
        raise BadInput(explain("There is no circuit to look in", do=do))
    own = str(q.about.site).replace(".result[", ".z[")
    shares = [_shares(circuit) for circuit in q.circuits.values()]
    scores = torch.tensor([share.get(own, 0.0) for share in shares])
    chance = torch.tensor([1 / len(share) for share in shares])
    return _Scored("share of its edges that leave the head", "", list(q.circuits), scores, chance, scores > 0)


def _shares(circuit: Circuit) -> dict[str, float]:
    """Of a circuit's edges, which share leaves each head and MLP of the model."""
    out, every = circuit.anywhere.sum(1).tolist(), max(1, int(circuit.anywhere.sum()))
    counts = zip(circuit.writers, out, strict=True)
    return {name.replace(".result[", ".z["): count / every for name, count in counts if name.startswith("layers.")}


def _dictionary(q: _Question, site: Site) -> tuple[Dictionary, str]:
    """The dictionary that was named, or the built-in SAE of the layer."""
    name = q.dictionary
    if name is None:
        name = f"{q.model.name}/sae-{site.layer}"
        if name not in builtin():
            asked = f"{q.model.name} has no built-in dictionary of layer {site.layer}"
            raise BadInput(explain(asked, possible=builtin(), do="name one: dictionary="))
    found = load_dictionary(name) if name in builtin() else read_dictionary(q.folder / name)
    return found, name


WAYS: dict[tuple[str, str], Callable[[_Question], _Scored]] = {
    ("head", "latent"): _head_to_latent,
    ("latent", "head"): _latent_to_head,
    ("neuron", "latent"): _neuron_to_latent,
    ("latent", "neuron"): _latent_to_neuron,
    (BEHAVIOUR, "head"): _behaviour_to_head,
    ("circuit", "head"): _circuit_to_head,
    ("head", "circuit"): _head_to_circuit,
}
"""Every way from one level to another."""
