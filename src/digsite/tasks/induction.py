"""Induction: random words, said again from the start."""

from collections.abc import Iterator, Sequence

import numpy as np

from digsite.models import Model
from digsite.tasks.build import build
from digsite.tasks.examples import Example
from digsite.tasks.sampling import Keep, distinct, pick_distinct
from digsite.tasks.task import Task
from digsite.tasks.words import LOOSE

OPENING = "The words are"
SHORTEST, LONGEST = 5, 9


def induction(
    model: Model, n: int = 200, *, seed: int = 0, words: Sequence[str] = LOOSE, keep: Keep | None = None
) -> Task:
    """What followed the last word when it was said before; in the corrupt prompt another word followed it.

    Five to nine random words without repeats, then the same words again, cut off somewhere. Spans: before (the earlier
    copy of the last word), target (what followed it: the answer), last.

    Args:
        model: Its tokenizer decides which examples can be used.
        n: Examples wanted.
        seed: Of the draw.
        words: Words to draw from.
        keep: Takes an example and says whether it may be used.

    Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"; Olsson et al. 2022, "In-context
    Learning and Induction Heads".
    """
    return build(
        model,
        "induction",
        "How does {model} continue a list that it has seen before?",
        distinct(induction_examples(np.random.default_rng(seed), words=words), n, keep),
        n,
        seed=seed,
        options={"words": words},
        description="random words and the beginning of the same words again; "
        "in the corrupt prompt another word stood where the answer comes from",
    )


def induction_examples(rng: np.random.Generator, *, words: Sequence[str] = LOOSE) -> Iterator[Example]:
    """Endless induction pairs as text."""
    while True:
        *said, other = pick_distinct(rng, words, SHORTEST + 1 + int(rng.random() * (LONGEST - SHORTEST + 1)))
        again = 1 + int(rng.random() * (len(said) - 1))  # words of the second round; the answer is said[again]
        clean, starts = OPENING, []
        for word in said + said[:again]:
            starts.append(len(clean) + 1)
            clean += f" {word}"
        spans = {
            name: (starts[index], starts[index] + len((said + said)[index]))
            for name, index in (("before", again - 1), ("target", again), ("last", len(starts) - 1))
        }
        start, end = spans["target"]
        yield Example(
            clean=clean,
            corrupt=clean[:start] + other + clean[end:],
            right=(f" {said[again]}",),
            wrong=(f" {other}",),
            spans=spans,
            group=f"{len(said)} words",
        )
