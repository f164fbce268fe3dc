"""Successor: "Monday, Tuesday, Wednesday," -> " Thursday"."""

from collections.abc import Iterator, Sequence

import numpy as np

from digsite._core.errors import BadInput, explain
from digsite.models import Model
from digsite.tasks.build import build
from digsite.tasks.examples import Example
from digsite.tasks.frames import frames
from digsite.tasks.sampling import Keep, distinct, pick
from digsite.tasks.task import Task
from digsite.tasks.words import SEQUENCES

# {1} is the last item that is said, {2} the one before it, and so on.
ORDERS = frames(
    "{2}, {1},",
    "{3}, {2}, {1},",
    "{4}, {3}, {2}, {1},",
    "Next after {1} comes",
    "First {2}, then {1}, then",
    "After {1} comes",
)


def successor(
    model: Model,
    n: int = 100,
    *,
    seed: int = 0,
    sequences: Sequence[str] = tuple(SEQUENCES),
    keep: Keep | None = None,
) -> Task:
    """What comes next in a known order; the corrupt prompt stands elsewhere in the same order.

    Days and months go round; numbers and letters end. Spans: last (the last item that is said).

    Args:
        model: Its tokenizer decides which examples can be used.
        n: Examples wanted.
        seed: Of the draw.
        sequences: Any of "days", "months", "number words", "numbers", "letters".
        keep: Takes an example and says whether it may be used.

    Raises:
        BadInput: An unknown sequence.

    Source: Gould et al. 2023, "Successor Heads"; frames are our own.
    """
    if unknown := [name for name in sequences if name not in SEQUENCES]:
        raise BadInput(explain(f"There is no sequence {unknown[0]!r}", possible=list(SEQUENCES), near=unknown[0]))
    return build(
        model,
        "successor",
        "How does {model} know what comes next in a known order?",
        distinct(successor_examples(np.random.default_rng(seed), sequences=sequences), n, keep),
        n,
        seed=seed,
        options={"sequences": sequences},
        description=f"items of a known order ({', '.join(sequences)}); the corrupt prompt stands elsewhere in it",
    )


def successor_examples(rng: np.random.Generator, *, sequences: Sequence[str] = tuple(SEQUENCES)) -> Iterator[Example]:
    """Endless successor pairs as text."""
    while True:
        name = pick(rng, sequences)
        items, goes_round = SEQUENCES[name]
        frame = pick(rng, ORDERS)
        longest = max(map(int, frame.gaps))
        first, last = (0, len(items)) if goes_round else (longest - 1, len(items) - 1)
        here, elsewhere = (first + int(rng.random() * (last - first)) for _ in range(2))
        if here == elsewhere:
            continue
        clean, corrupt = (
            frame.fill({gap: items[(at + 1 - int(gap)) % len(items)] for gap in frame.gaps}) for at in (here, elsewhere)
        )
        yield Example(
            clean=clean.text,
            corrupt=corrupt.text,
            right=(f" {items[(here + 1) % len(items)]}",),
            wrong=(f" {items[(elsewhere + 1) % len(items)]}",),
            spans={"last": clean.spans["1"]},
            group=name,
        )
