"""`Places`: where on the rows an edge is meant, when not everywhere alike.

An edge joins what its writer writes and its reader reads at one position. Over all positions together an edge whose
score is positive at one and negative at another seems to do nothing; so edges can be scored, cut and kept at places of
their own: named spans of the task, or each position of prompts of one length.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from digsite._core.errors import BadInput, explain
from digsite.tasks import Task

ALL, EACH, ELSEWHERE = "all", "each", "elsewhere"


@dataclass(frozen=True)
class Places:
    """Names of places, and to which of them each position of each row belongs.

    Attributes:
        names: "all", positions ("0", "1", ...), or spans and "elsewhere".
        of: Number of the place; None if all positions are one place.
    """

    names: tuple[str, ...]
    of: Int[Tensor, "batch pos"] | None


EVERYWHERE = Places((ALL,), None)
"""All positions together."""


def places(task: Task, at: str | Sequence[str] | None) -> Places:
    """The places of a task's rows.

    Args:
        task: The task.
        at: None for all positions together, "each" for every position, or names of spans; what is in none of them is
            a place of its own, "elsewhere".

    Raises:
        BadInput: "each" with prompts of several lengths, unknown spans, or spans that overlap.
    """
    if at is None:
        return EVERYWHERE
    tokens = task.clean
    column = torch.arange(tokens.ids.shape[1]) - torch.tensor(tokens.starts)[:, None]
    if at == EACH:
        if len(set(tokens.lengths)) > 1:
            raise BadInput(
                explain(
                    'at="each" needs prompts of one length',
                    found=f"{min(tokens.lengths)} to {max(tokens.lengths)} tokens",
                    do="name spans, or take the examples of one template",
                )
            )
        return Places(tuple(map(str, range(tokens.lengths[0]))), column.clamp(min=0))
    names = [at] if isinstance(at, str) else list(at)
    spans = [task.row_spans(name) for name in names]
    taken = torch.stack([(column >= span[:, :1]) & (column < span[:, 1:]) for span in spans])
    if bool((taken.sum(0) > 1).any()):
        raise BadInput(explain("Spans overlap, so an edge would be counted twice", found=", ".join(names)))
    return Places((*names, ELSEWHERE), torch.cat([taken, ~taken.any(0, keepdim=True)]).int().argmax(0))


def asked(names: Sequence[str]) -> str | list[str] | None:
    """The `at` that gives places of these names."""
    if tuple(names) in ((), (ALL,)):
        return None
    return EACH if all(name.isdigit() for name in names) else [name for name in names if name != ELSEWHERE]
