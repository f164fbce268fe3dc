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
from digsite.patching.places import places as columns
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
        at: As for `activation_patching`: None for all positions together, "each", or names of spans; what is in none
            of them is a place of its own, "elsewhere".

    Raises:
        BadInput: "each" with prompts of several lengths, unknown spans, or spans that overlap.
    """
    if at is None:
        return EVERYWHERE
    found = dict(columns(task, at))
    taken = torch.zeros(len(found), *task.clean.ids.shape, dtype=torch.bool)
    for flags, there in zip(taken, found.values(), strict=True):
        flags.scatter_(1, there, torch.ones_like(there, dtype=torch.bool))
    if bool((taken.sum(0) > 1).any()):
        raise BadInput(explain("Places overlap, so an edge would be counted twice", found=", ".join(found)))
    if at == EACH:  # nothing is left but padding, where nothing is read
        return Places(tuple(found), taken.int().argmax(0))
    return Places((*found, ELSEWHERE), torch.cat([taken, ~taken.any(0, keepdim=True)]).int().argmax(0))


def asked(names: Sequence[str]) -> str | list[str] | None:
    """The `at` that gives places of these names."""
    if tuple(names) in ((), (ALL,)):
        return None
    return EACH if all(name.isdigit() for name in names) else [name for name in names if name != ELSEWHERE]
