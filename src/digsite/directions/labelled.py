"""Activations with a label each: what a probe is fitted on."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from digsite.models import Model
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
    """

    name: str
    rows: Rows
    labels: Bool[Tensor, " example"]
    groups: Int[Tensor, " example"] | None = None


def task_rows(model: Model, task: Task, columns: Sequence[str], *, at: int = -1, batch: int = 32) -> Labelled:
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
    parts = []
    for prompts in (task.clean, task.require_corrupt()):
        run = model.run(prompts, read=columns, logits=None, at=at, batch_size=batch)
        ids = prompts.ids[prompts.places(at).rows, prompts.places(at).columns]
        parts.append(Rows({name: run[name].flatten(1) for name in columns}, ids=ids))
    both = {name: torch.cat([part[name] for part in parts]) for name in columns}
    ids = torch.cat([part.ids for part in parts if part.ids is not None])
    return Labelled(
        name=f"{task.name}: clean or corrupt",
        rows=Rows(both, ids=ids),
        labels=torch.arange(2 * len(task)) < len(task),
        groups=torch.arange(len(task)).repeat(2),
    )
