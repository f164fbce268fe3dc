"""Seeded draws from word lists, and streams of examples without repeats."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from digsite.tasks.examples import Example

T = TypeVar("T")
Keep = Callable[[Example], bool]

# A stream that brings nothing new for this many draws has run dry: small families (the days of a week) are finite.
_DRY = 20_000


def pick(rng: np.random.Generator, words: Sequence[T]) -> T:
    """One of the words, all equally likely."""
    return words[int(rng.random() * len(words))]


def pick_distinct(rng: np.random.Generator, words: Sequence[T], count: int) -> list[T]:
    """Several different words, in random order."""
    chosen: dict[int, T] = {}
    while len(chosen) < count:
        index = int(rng.random() * len(words))
        chosen[index] = words[index]
    return list(chosen.values())


def distinct(stream: Iterable[Example], n: int, keep: Keep | None = None) -> Iterator[Example]:
    """Up to 20 n + 200 different examples of a stream: more than `n`, because a tokenizer may not serve them all.

    Args:
        stream: Examples in random order, possibly without end.
        n: How many are wanted in the task.
        keep: Takes an example and says whether it may be used; None keeps all.
    """
    seen: set[tuple[str, str | None]] = set()
    dry = 0
    for example in stream:
        key = (example.clean, example.corrupt)
        if key in seen or (keep is not None and not keep(example)):
            dry += 1
            if dry == _DRY:
                return
            continue
        dry = 0
        seen.add(key)
        yield example
        if len(seen) == 20 * n + 200:
            return
