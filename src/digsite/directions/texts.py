"""Texts with a label each: from a task, or from a table of your own."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from digsite._core.errors import BadInput, explain
from digsite.models import Model, Tokens
from digsite.models.tokens import grid, pad_id
from digsite.tasks import Task
from digsite.tasks.records import read_records

YES = ("1", "true", "yes")
"""Labels in a table that mean yes by themselves, in any case."""


class Texts(NamedTuple):
    """Texts with a label each.

    Attributes:
        name: What the label says.
        tokens: The texts.
        labels: Yes or no.
        groups: Texts of one number lie on one side of a split.
    """

    name: str
    tokens: Tokens
    labels: Bool[Tensor, " batch"]
    groups: Int[Tensor, " batch"]


def clean_or_corrupt(task: Task) -> Texts:
    """The clean prompts of a task and then its corrupt ones, labelled by whether they are clean; pairs are groups.

    Raises:
        BadInput: A task without corrupt prompts.
    """
    sides = (task.clean, task.require_corrupt())
    ids = [row[mask].tolist() for side in sides for row, mask in zip(side.ids, side.mask, strict=True)]
    tokenizer = task.clean.tokenizer
    prompts = grid(ids, pad=pad_id(tokenizer), padding="left", bos=task.clean.bos, tokenizer=tokenizer)
    labels = torch.arange(len(prompts)) < len(task.clean)
    return Texts(f"{task.name}: clean or corrupt", prompts, labels, task.example_rows.repeat(2))


def two_answers(task: Task) -> list[str]:
    """The right answers of a task, if there are just two (" She" and " she" are one), the more frequent first."""
    names = [name for name, _ in Counter(map(_spelled, task.right.texts)).most_common()]
    return names if len(names) == 2 else []


def by_answer(task: Task) -> Texts:
    """The clean prompts of a task with two answers, labelled by whether theirs is the more frequent one.

    Prompts of the same tokens are a group.

    Raises:
        BadInput: There are not two answers.
    """
    names = two_answers(task)
    if not names:
        found = ", ".join(sorted(set(map(_spelled, task.right.texts)))[:6])
        do = "tell clean from corrupt prompts, or give texts with labels of your own"
        raise BadInput(explain(f"The task {task.name} has not two answers", found=found, do=do))
    labels = torch.tensor([_spelled(some) == names[0] for some in task.right.texts])[task.example_rows]
    return Texts(f"{task.name}: {names[0]} or {names[1]}", task.clean, labels, same_texts(task.clean))


def own_texts(model: Model, frame: Any, *, yes: str | None = None, name: str | None = None) -> Texts:
    """The texts of a table with the columns `text` and `label`, and `group` where texts belong together.

    Args:
        model: Its tokenizer makes the tokens.
        frame: A CSV, TSV, JSONL or Parquet file, a polars or pandas frame, a mapping of columns or a list of rows.
        yes: The label that is meant by yes, all others by no; unless given there must be two: 1, true or yes is meant
            by yes, else the one that comes first.
        name: What the label says.

    Raises:
        BadInput: A column is missing, a cell is empty, or the labels are not two.
        LoadError: The file cannot be read.
    """
    table = read_records(frame)
    if missing := [column for column in ("text", "label") if column not in table.columns]:
        asked = f"The table lacks the column {missing[0]!r}"
        raise BadInput(explain(asked, found=f"columns {', '.join(table.columns)}", possible="text, label, group"))
    if empty := [row for row, cells in enumerate(table.select("text", "label").iter_rows()) if None in cells]:
        raise BadInput(
            explain("Every text has a label (rows are counted from 0)", found=f"an empty cell in row {empty[0]}")
        )
    labels = [str(label) for label in table["label"]]
    names = list(dict.fromkeys(labels))
    if yes is None:
        if len(names) != 2:
            do = "say which one is meant: --yes LABEL, or yes=..."
            raise BadInput(explain("A probe tells two labels apart", found=", ".join(names[:8]), do=do))
        yes = next((label for label in names if label.lower() in YES), names[0])
    if yes not in names or len(names) < 2:
        asked = f"Some texts have the label {yes}, and others have not"
        raise BadInput(explain(asked, found=", ".join(names[:8]), possible=names, near=yes))
    others = [label for label in names if label != yes]
    tokens = model.tokens([str(text) for text in table["text"]], padding="left")
    groups = same_texts(tokens)
    if "group" in table.columns:
        number = {group: at for at, group in enumerate(table["group"].unique(maintain_order=True))}
        groups = torch.tensor([number[group] for group in table["group"]])
    against = others[0] if len(others) == 1 else f"one of {len(others)} others"
    known = torch.tensor([label == yes for label in labels])
    return Texts(name or f"{yes} or {against}", tokens, known, groups)


def same_texts(tokens: Tokens) -> Int[Tensor, " batch"]:
    """A number for each text, which texts of the same tokens share."""
    rows = [tuple(row[mask].tolist()) for row, mask in zip(tokens.ids, tokens.mask, strict=True)]
    number = {row: at for at, row in enumerate(dict.fromkeys(rows))}
    return torch.tensor([number[row] for row in rows])


def _spelled(answers: Sequence[str]) -> str:
    return " or ".join(dict.fromkeys(text.strip().lower() for text in answers))
