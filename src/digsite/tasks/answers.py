"""Answers as ids: which tokens count as right or wrong, and on which row of logits each is read."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from digsite.models.tokens import grid
from digsite.tasks.encoding import Ids


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers of every example on one side, right or wrong; any of them counts.

    Attributes:
        ids: Token ids, aligned to the right: the last token of every answer is in the last place.
        mask: True where a place holds a token of an answer. An example may have fewer answers than others.
        rows: The row of logits on which each answer is read.
        texts: The answers as written, for each example.
    """

    ids: Int[Tensor, "example choice token"]
    mask: Bool[Tensor, "example choice token"]
    rows: Int[Tensor, "example choice"]
    texts: tuple[tuple[str, ...], ...]

    @property
    def real(self) -> Bool[Tensor, "example choice"]:
        """True where an example has this choice, False where it has fewer."""
        return self.mask.any(-1)

    @property
    def columns(self) -> Int[Tensor, " token"]:
        """The column, counted from the end, whose logits predict each place."""
        width = self.ids.shape[-1]
        return torch.arange(-width, 0, device=self.ids.device)

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits that identify ids and rows."""
        digest = hashlib.sha256(str(tuple(self.ids.shape)).encode())
        for tensor in (self.ids.masked_fill(~self.mask, -1), self.rows.masked_fill(~self.real, -1)):
            digest.update(tensor.contiguous().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def take(self, examples: Int[Tensor, " chosen"]) -> "Answers":
        """The answers of the chosen examples; their rows are still those of the whole."""
        texts = tuple(self.texts[i] for i in examples.tolist())
        return Answers(self.ids[examples], self.mask[examples], self.rows[examples], texts)

    def repeated(self, times: int, rows: int) -> "Answers":
        """The answers once for each of several runs of the same rows, the runs one after the other."""
        shift = rows * torch.arange(times, device=self.rows.device).repeat_interleave(len(self.rows))
        tiled = (x.repeat(times, *(1,) * (x.ndim - 1)) for x in (self.ids, self.mask, self.rows))
        ids, mask, own = tiled
        return Answers(ids, mask, own + shift[:, None], self.texts * times)

    def to(self, device: torch.device) -> "Answers":
        """The same answers on another device."""
        return replace(self, ids=self.ids.to(device), mask=self.mask.to(device), rows=self.rows.to(device))

    def spelled(self, example: int, tokenizer: Any) -> list[list[str]]:
        """The token strings of each answer of an example."""
        chosen = zip(self.ids[example], self.mask[example], strict=True)
        answers = [ids[mask].tolist() for ids, mask in chosen if mask.any()]
        return grid(answers, tokenizer=tokenizer).strings if answers else []


def pad_answers(sides: Sequence[Mapping[str, Ids]]) -> Answers:
    """Answers of every example as one grid; not yet on any row.

    Args:
        sides: For each example, the answers of one side: text -> ids.
    """
    choices = max(map(len, sides))
    width = max((len(ids) for side in sides for ids in side.values()), default=1)
    ids = torch.zeros(len(sides), choices, width, dtype=torch.long)
    mask = torch.zeros(len(sides), choices, width, dtype=torch.bool)
    for i, side in enumerate(sides):
        for j, answer in enumerate(side.values()):
            ids[i, j, width - len(answer) :] = torch.tensor(answer)
            mask[i, j, width - len(answer) :] = True
    rows = torch.zeros(len(sides), choices, dtype=torch.long)
    return Answers(ids, mask, rows, tuple(tuple(side) for side in sides))


def share_rows(side: Answers) -> Answers:
    """The same answers, all those of an example read on its one row: the layout of one-token answers."""
    examples = torch.arange(len(side.rows))[:, None]
    return replace(side, rows=examples.expand_as(side.rows).clone())


def number_rows(right: Answers, wrong: Answers) -> tuple[Answers, Answers]:
    """The same answers, each read on a row of its own, the right ones first: the layout of longer answers."""
    numbered, start = [], 0
    for side in (right, wrong):
        rows = torch.zeros_like(side.rows)
        count = int(side.real.sum())
        rows[side.real] = torch.arange(start, start + count)
        numbered.append(replace(side, rows=rows))
        start += count
    return numbered[0], numbered[1]
