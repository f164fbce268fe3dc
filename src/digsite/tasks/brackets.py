"""Brackets: "( [ ( ) ] [" -> " ]", the closing bracket of the innermost open one."""

from collections.abc import Iterator

import numpy as np

from digsite.models import Model
from digsite.tasks.build import build
from digsite.tasks.examples import Example
from digsite.tasks.sampling import Keep, distinct, pick
from digsite.tasks.task import Task

CLOSES = {"(": ")", "[": "]"}
SHORTEST, LONGEST, DEEPEST = 6, 12, 4


def brackets(model: Model, n: int = 200, *, seed: int = 0, keep: Keep | None = None) -> Task:
    """Which bracket closes; in the corrupt prompt the innermost open bracket is of the other kind.

    Two kinds, 6 to 12 brackets, at most 4 open at once. Spans: opener (the innermost open bracket).

    Args:
        model: Its tokenizer decides which examples can be used.
        n: Examples wanted.
        seed: Of the draw.
        keep: Takes an example and says whether it may be used.
    """
    return build(
        model,
        "brackets",
        "How does {model} know which bracket closes?",
        distinct(brackets_examples(np.random.default_rng(seed)), n, keep),
        n,
        seed=seed,
        description="open and closed brackets of two kinds; "
        "in the corrupt prompt the innermost open bracket is of the other kind",
    )


def brackets_examples(rng: np.random.Generator) -> Iterator[Example]:
    """Endless bracket pairs as text."""
    kinds = tuple(CLOSES)
    while True:
        length = SHORTEST + int(rng.random() * (LONGEST - SHORTEST + 1))
        signs: list[str] = []
        still_open: list[int] = []
        while len(signs) < length:
            if still_open and (len(still_open) == DEEPEST or rng.random() < 0.6):
                signs.append(CLOSES[signs[still_open.pop()]])
            else:
                still_open.append(len(signs))
                signs.append(pick(rng, kinds))
        if not still_open:
            continue
        at = still_open[-1]
        opener, other = signs[at], next(kind for kind in kinds if kind != signs[at])
        yield Example(
            clean=" ".join(signs),
            corrupt=" ".join([*signs[:at], other, *signs[at + 1 :]]),
            right=(f" {CLOSES[opener]}",),
            wrong=(f" {CLOSES[other]}",),
            spans={"opener": (2 * at, 2 * at + 1)},
            group=f"{len(still_open)} open",
        )
