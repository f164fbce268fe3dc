"""Activations with a label each: what a probe is fitted on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from digsite._core.errors import BadInput, explain
from digsite._core.provenance import Provenance
from digsite.directions.measuring import content
from digsite.directions.texts import clean_or_corrupt
from digsite.models import Model, Tokens, made_by
from digsite.models.tokens import Positions
from digsite.sites import Site
from digsite.store import Rows
from digsite.tasks import Task


@dataclass(frozen=True, eq=False, kw_only=True)
class Labelled:
    """Activations with a label each.

    Attributes:
        name: What the label says.
        rows: Activations, one row an example; a column for each site.
        labels: Yes or no.
        groups: Examples of one number lie on one side of a split (the two prompts of a pair); None where each is alone.
        provenance: Of the model and the tokens that were read; None where activations are of no model.
    """

    name: str
    rows: Rows
    labels: Bool[Tensor, " example"]
    groups: Int[Tensor, " example"] | None = None
    provenance: Provenance | None = None

    def take(self, examples: Int[Tensor, " chosen"]) -> "Labelled":
        """Some of the examples, in the order given."""
        groups = None if self.groups is None else self.groups[examples]
        return Labelled(
            name=self.name,
            rows=self.rows.take(examples),
            labels=self.labels[examples],
            groups=groups,
            provenance=self.provenance,
        )


def labelled_rows(
    model: Model,
    tokens: Tokens,
    labels: Sequence[bool] | Bool[Tensor, "batch *pos"],
    sites: str | Site | Iterable[str | Site],
    *,
    at: Positions = -1,
    groups: Sequence[int] | Int[Tensor, " batch"] | None = None,
    name: str = "label",
    batch: int = 32,
) -> Labelled:
    """Activations of some texts, labelled text by text or token by token.

    Args:
        model: The model.
        tokens: The texts.
        labels: Yes or no for each text, or for each column of `tokens`.
        sites: Where they are read, wildcards allowed.
        at: At which positions; None for every token but the BOS. Tokens of one text lie on one side of a split.
        groups: Texts of one number lie on one side of a split, too; None where each is alone.
        name: What the label says.
        batch: Texts in one pass.

    Raises:
        BadInput: There are not as many labels, or groups, as texts; or a label is neither yes nor no.
    """
    known = yes_or_no(labels)
    alone = torch.arange(len(tokens)) if groups is None else torch.as_tensor(groups)
    if known.shape not in ((len(tokens),), tokens.ids.shape) or len(alone) != len(tokens):
        found = f"labels of shape {list(known.shape)} and {len(alone)} groups for {len(tokens)} texts"
        raise BadInput(explain("Every text, or every token, has a label", found=found))
    columns = [str(site) for one in several(sites) for site in model.anatomy.expand(one)]
    if at is None:
        rows, places = content(tokens, model.tokenizer).nonzero().unbind(1)
    else:
        rows, places, _ = tokens.places(at)
    found = read_at(model, tokens, columns, rows, places, batch=batch)
    call = f"digsite.directions.labelled_rows(model, tokens, labels, {columns}, at={at})"
    return Labelled(
        name=name,
        rows=Rows(found, ids=tokens.ids[rows, places], places=torch.stack([rows, tokens.positions[rows, places]], 1)),
        labels=known[rows] if known.ndim == 1 else known[rows, places],
        groups=alone[rows],
        provenance=made_by(call, model, tokens.fingerprint),
    )


def task_rows(
    model: Model, task: Task, columns: str | Site | Iterable[str | Site], *, at: int = -1, batch: int = 32
) -> Labelled:
    """Activations of a task's prompts at one position, labelled by whether the prompt is the clean one.

    Args:
        model: The model.
        task: Clean and corrupt prompts in pairs.
        columns: The sites that are read.
        at: The position.
        batch: Prompts in one pass.

    Raises:
        BadInput: A task without corrupt prompts.
    """
    texts = clean_or_corrupt(task)
    return labelled_rows(
        model, texts.tokens, texts.labels, columns, at=at, groups=texts.groups, name=texts.name, batch=batch
    )


def read_at(
    model: Model, tokens: Tokens, columns: Sequence[str], rows: Tensor, places: Tensor, *, batch: int = 32
) -> dict[str, Tensor]:
    """Activations of some cells [row, column] of a grid, in float32, heads side by side; one pass over the texts."""
    found: dict[str, list[Tensor]] = {name: [] for name in columns}
    order = []
    for start in range(0, len(tokens), batch):
        part = tokens[start : start + batch]
        mine = ((rows >= start) & (rows < start + batch)).nonzero().flatten()
        order.append(mine)
        # A batch is as wide as it needs to be: columns are counted from where each row begins.
        shift = torch.tensor(part.starts) - torch.tensor(tokens.starts[start : start + batch])
        row = rows[mine] - start
        run = model.run(part, read=columns, logits=None, to="cpu")
        for name in columns:
            found[name].append(run[name].detach()[row, places[mine] + shift[row]].float().flatten(1))
    back = torch.cat(order).argsort()
    return {name: torch.cat(parts)[back] for name, parts in found.items()}


def split(
    labels: Bool[Tensor, " example"], groups: Int[Tensor, " example"] | None, held_out: float, seed: int
) -> tuple[Int[Tensor, " chosen"], Int[Tensor, " other"]]:
    """Which examples are fitted on, and which are held out: whole groups, the same share of each kind.

    There are three kinds of groups: all of it has the label, none of it has, some of it has.

    Args:
        labels: Of the examples.
        groups: Of the examples; None where each is alone.
        held_out: The share of the groups that is held out.
        seed: Of the draw.

    Raises:
        BadInput: The share is not between 0 and 1, or there is one group only.
    """
    if not 0 < held_out < 1:
        raise BadInput(explain(f"held_out={held_out} is no share of the examples", possible="between 0 and 1"))
    place, counts = _census(labels, groups)
    if len(counts) < 2:
        raise BadInput(explain("To hold out examples there must be two groups or more", found=f"{len(counts)}"))
    generator, away = np.random.default_rng([seed, 0]), np.zeros(len(counts), dtype=bool)
    kinds = (counts > 0) @ np.array([1, 2])
    for kind in np.unique(kinds):
        mine = np.flatnonzero(kinds == kind)
        away[generator.permutation(mine)[: round(held_out * len(mine))]] = True
    out = torch.from_numpy(away)[torch.from_numpy(place)]
    return (~out).nonzero().flatten(), out.nonzero().flatten()


def _census(labels: Tensor, groups: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    """The group of each example, from 0 on, and for each group how many examples are without and with the label."""
    known = labels.numpy()
    place = np.arange(len(known)) if groups is None else groups.unique(return_inverse=True)[1].numpy()
    counts = np.zeros((int(place.max()) + 1, 2), dtype=int)
    np.add.at(counts, (place, known.astype(int)), 1)
    return place, counts


def shuffled(
    labels: Bool[Tensor, " example"],
    groups: Int[Tensor, " example"] | None,
    draws: int,
    generator: np.random.Generator,
    *parts: Int[Tensor, "_"],
) -> Bool[Tensor, "draw example"]:
    """Labels that say nothing, in the structure that the true ones have.

    Where all examples of a group have one label (the tokens of a text), groups exchange their labels; where every group
    is a pair with one of each, pairs turn round or do not; otherwise labels are dealt out anew.

    Args:
        labels: The true ones.
        groups: Of each example; None where each is alone.
        draws: How many labellings.
        generator: Makes the draws.
        parts: Parts of the examples that must have both labels.

    Raises:
        BadInput: In a hundred draws no labelling gives every part both labels.
    """
    known, (place, counts) = labels.numpy(), _census(labels, groups)
    drawn: list[np.ndarray] = []
    for _ in range(100 * max(1, draws)):
        if len(drawn) == draws:
            break
        if (counts == 1).all():
            new = known ^ generator.integers(0, 2, len(counts)).astype(bool)[place]
        elif (counts.min(1) == 0).all():
            new = generator.permutation(counts[:, 1] > 0)[place]
        else:
            new = generator.permutation(known)
        if all(0 < new[part.numpy()].sum() < len(part) for part in parts):
            drawn.append(new)
    if len(drawn) < draws:
        raise BadInput(explain("There are too few groups to shuffle their labels", found=f"{len(counts)} groups"))
    return torch.from_numpy(np.array(drawn, dtype=bool).reshape(draws, len(known)))


def yes_or_no(labels: Sequence[bool | int | float] | Shaped[Tensor, "*batch"]) -> Bool[Tensor, "*batch"]:
    """Labels as True and False; 0 and 1 are understood.

    Raises:
        BadInput: Other numbers: classes are not put into an order.
    """
    known = torch.as_tensor(labels)
    if known.dtype != torch.bool:
        others = [value for value in known.unique().tolist() if value not in (0, 1)]
        if others:
            do = "give labels == 1 for one class against the others, or use directions.probes.class_probe"
            raise BadInput(explain("A label between two classes is yes or no", found=f"also {others[0]}", do=do))
        known = known.bool()
    return known


def several(sites: str | Site | Iterable[str | Site]) -> list[str | Site]:
    """One address or many, as a list."""
    return [sites] if isinstance(sites, str | Site) else list(sites)
