"""Prompts with a label each, and where in them a probe reads: what is split, read and compared."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from digsite._core.errors import BadInput, Unsupported, explain
from digsite._core.numerics import require_finite
from digsite.directions.labelled import split
from digsite.models import Model, Tokens
from digsite.models.tokens import Positions
from digsite.sites import Site
from digsite.tasks import Task

BATCH = 32


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelledPrompts:
    """Prompts with a label each.

    Attributes:
        name: What distinguishes this set from others: "affirmed", "negated", "Tavi".
        tokens: The prompts.
        labels: Yes or no.
        groups: Examples of one number are split and drawn again together (the two prompts of a pair, the sentences
            about one name); None where each is alone.
        at: Where a probe reads (see `Tokens.places`). Over several positions activations are averaged, which for a
            linear probe is the average of its scores.
    """

    name: str
    tokens: Tokens
    labels: Bool[Tensor, " example"]
    groups: Int[Tensor, " _"] | None = None
    at: Positions = -1

    def __post_init__(self):
        count, yes = len(self.tokens), int(self.labels.sum())
        given = {"labels": len(self.labels)} | ({} if self.groups is None else {"groups": len(self.groups)})
        if wrong := [f"{found} {what}" for what, found in given.items() if found != count]:
            found = f"{', '.join(wrong)}, {count} prompts"
            raise BadInput(explain(f"Every prompt of {self.name} has a label, and a group if any has", found=found))
        if yes in (0, count):
            found = f"{yes} with the label, {count - yes} without"
            raise BadInput(explain(f"The set {self.name} needs prompts with the label and without", found=found))

    @classmethod
    def answering(cls, task: Task, answers: Sequence[str], *, name: str = "", at: Positions = -1) -> "LabelledPrompts":
        """The clean and corrupt prompts of a task; those with the label whose right answer is one of these.

        Args:
            task: A task with pairs, whose wrong answers are right for the corrupt prompt.
            answers: Such as (" she", " She").
            name: Of the set; the task's unless given.
            at: Where a probe reads.

        Raises:
            BadInput: The task has no pairs, or no prompt (or each) is answered so.
            Unsupported: Answers of several tokens, which stand in the rows themselves.
        """
        if task.keep > 1:
            asked = f"The task {task.name} has answers of several tokens, which its rows hold"
            raise Unsupported(explain(asked, do="give the prompts yourself: LabelledPrompts(tokens=…, labels=…)"))
        sides = ((task.clean, task.right), (task.require_corrupt(), task.wrong))
        labels = [bool(set(texts) & set(answers)) for _, side in sides for texts in side.texts]
        ids, mask = (torch.cat([getattr(tokens, part) for tokens, _ in sides]) for part in ("ids", "mask"))
        return cls(
            name=name or task.name,
            tokens=replace(task.clean, ids=ids, mask=mask, texts=None),
            labels=torch.tensor(labels),
            groups=torch.arange(len(task)).repeat(2),
            at=at,
        )

    def __len__(self) -> int:
        """How many prompts."""
        return len(self.labels)

    @property
    def grouped(self) -> Int[Tensor, " example"]:
        """The group of each example; a number of its own where none are given."""
        return torch.arange(len(self)) if self.groups is None else self.groups

    def take(self, chosen: Int[Tensor, " chosen"]) -> "LabelledPrompts":
        """Some of the examples, in the order given."""
        at = _of_rows(self.at, chosen)
        groups = None if self.groups is None else self.groups[chosen]
        return replace(self, tokens=self.tokens[chosen], labels=self.labels[chosen], groups=groups, at=at)

    def split(self, held_out: float, seed: int) -> tuple["LabelledPrompts", "LabelledPrompts"]:
        """What is trained on, and what is held out: whole groups, and no prompt that is on both sides."""
        inside, outside = split(self.labels, self.groups, held_out, seed)
        train = self.take(inside)
        return train, self.take(outside).unseen_in(train)

    def unseen_in(self, train: "LabelledPrompts") -> "LabelledPrompts":
        """The examples whose tokens up to where they are read are not those of a training example.

        Raises:
            BadInput: With one label, or with none, there is none left.
        """
        known = set(train.seen())
        new = torch.tensor([row not in known for row in self.seen()])
        if not bool(self.labels[new].any()) or bool(self.labels[new].all()):
            found = f"{int(new.sum())} of {len(self)} prompts are not in {train.name}, with one label at most"
            asked = f"Nothing of {self.name} is left to judge a probe on that was fitted on {train.name}"
            raise BadInput(explain(asked, found=found, do="give more, or more different, prompts"))
        return self.take(new.nonzero().flatten())

    def seen(self) -> list[tuple[int, ...]]:
        """The ids of each prompt up to the last position that is read."""
        return seen(self.tokens, self.at)

    @property
    def span(self) -> int:
        """Positions that are read in an example, the median one."""
        return int(torch.bincount(self.tokens.places(self.at).rows).float().quantile(0.5))

    def activations(
        self, model: Model, site: str | Site, *, before: int = 0, batch: int = BATCH
    ) -> Float[Tensor, "example width"]:
        """What a site holds where each example is read, averaged over the positions of an example.

        Args:
            model: The model.
            site: One concrete site.
            before: Read so many tokens earlier; what lies before the prompt is zero.
            batch: Prompts in one pass.

        Raises:
            NotFinite: An activation is NaN or infinite.
        """
        parts = []
        for _, tokens, at in self.batches(batch):
            x = model.run(tokens, read=[site], logits=None, to="cpu")[site].flatten(2).double()
            places, starts = tokens.places(at), torch.tensor(tokens.starts)
            columns = places.columns - before
            there = columns >= starts[places.rows]
            read = x[places.rows, columns.clamp_min(0)] * there[:, None]
            total = torch.zeros(len(tokens), x.shape[-1], dtype=x.dtype).index_add_(0, places.rows, read)
            parts.append(total / torch.bincount(places.rows, minlength=len(tokens))[:, None])
        return require_finite(f"an activation of {self.name} at {site}", torch.cat(parts))

    def batches(self, size: int = BATCH) -> Iterator[tuple[Int[Tensor, " chosen"], Tokens, Positions]]:
        """Some prompts at a time: their numbers, their tokens, and where these are read."""
        for chosen in torch.arange(len(self)).split(size):
            yield chosen, self.tokens[chosen], _of_rows(self.at, chosen)


def seen(tokens: Tokens, at: Positions) -> list[tuple[int, ...]]:
    """The ids of each row up to the last position that is read, which is all that an activation there depends on."""
    places, rows = tokens.places(at), []
    for row, start in enumerate(tokens.starts):
        end = int(places.columns[places.rows == row].max()) + 1
        rows.append(tuple(tokens.ids[row, start:end].tolist()))
    return rows


def _of_rows(at: Positions, rows: Int[Tensor, " chosen"]) -> Positions:
    return at[rows] if isinstance(at, Tensor) and at.ndim else at
