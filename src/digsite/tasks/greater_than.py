"""Greater-than: "The war lasted from the year 1732 to the year 17" -> "33" to "99"."""

from collections.abc import Iterator

import numpy as np

from digsite.models import Model
from digsite.tasks.build import build
from digsite.tasks.examples import Example
from digsite.tasks.frames import Frame
from digsite.tasks.sampling import Keep, distinct, pick
from digsite.tasks.task import Task
from digsite.tasks.words import EVENTS

LASTED = Frame("The {event} lasted from the year {century}{start} to the year {again}")
CENTURIES = tuple(str(century) for century in range(11, 19))
YEARS = tuple(f"{year:02d}" for year in range(100))


def greater_than(model: Model, n: int = 200, *, seed: int = 0, keep: Keep | None = None) -> Task:
    """How much probability goes to years after the start year; in the corrupt prompt the start is 01.

    Right answers are all two-digit ends above the start, wrong ones the start and all below. Spans: event, century,
    start, again (the century before the answer).

    Args:
        model: Its tokenizer decides which examples can be used: it must cut 1732 into 17 and 32.
        n: Examples wanted.
        seed: Of the draw.
        keep: Takes an example and says whether it may be used.

    Units: the metric is a difference of probabilities, between -1 and 1.

    Source: Hanna, Liu & Variengien 2023, "How does GPT-2 compute greater-than?" (section 2); nouns are our own.
    """
    return build(
        model,
        "greater-than",
        "How does {model} know that an end comes after its start?",
        distinct(greater_than_examples(np.random.default_rng(seed)), n, keep),
        n,
        seed=seed,
        metric="prob_diff",
        description="an event with a start year and the century of its end; the corrupt prompt starts in year 01",
    )


def greater_than_examples(rng: np.random.Generator, *, first: int = 2) -> Iterator[Example]:
    """Endless greater-than pairs as text; starts from year `first` to 98."""
    while True:
        century, start = pick(rng, CENTURIES), first + int(rng.random() * (99 - first))
        words = {"event": pick(rng, EVENTS), "century": century, "start": YEARS[start], "again": century}
        clean = LASTED.fill(words)
        yield Example(
            clean=clean.text,
            corrupt=LASTED.fill(words | {"start": "01"}).text,
            right=YEARS[start + 1 :],
            wrong=YEARS[: start + 1],
            spans=clean.spans,
            group=words["event"],
        )
