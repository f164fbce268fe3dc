"""The same events told in two languages, so that what a model shares between them can be measured.

Somebody gives something to one of two people, always the same two: in the clean prompt the first receives it, in the
corrupt prompt the second. English and Tavi tell the same events with words of the same rank in their lists.
"""

from collections.abc import Sequence

import numpy as np

from digsite.models import Model
from digsite.tasks.build import build
from digsite.tasks.examples import Example
from digsite.tasks.task import Task
from digsite.tasks.tongues import ENGLISH, TAVI

_FRAMES = ((0, 0), (1, 1), (2, 2), (4, 3), (10, 4), (11, 5))
"""Frames of English and of Tavi that say the same."""


def who_receives(
    model: Model, n: int = 100, *, people: Sequence[str] = ("Mary", "John"), seed: int = 0
) -> dict[str, Task]:
    """Events in which the first person receives (clean) or the second (corrupt), told in English and in Tavi.

    Args:
        model: One that knows both languages: digsite/tinyworld.
        n: Events.
        people: The two.
        seed: Of the draw.

    Returns:
        A task for each language; example i of both tells the same event.
    """
    drawn = np.random.default_rng(seed)
    told: dict[str, list[Example]] = {ENGLISH.name: [], TAVI.name: []}
    events: set[tuple] = set()
    kinds = len(_FRAMES) * len(TAVI.places) * len(TAVI.gifts) * 2
    while len(events) < min(n, kinds):
        frame, place, gift, order = (
            int(drawn.integers(count)) for count in (len(_FRAMES), len(TAVI.places), len(TAVI.gifts), 2)
        )
        if (frame, place, gift, order) in events:
            continue
        events.add((frame, place, gift, order))
        receiver, giver = people
        cast = {"A": people[order], "B": people[1 - order]}
        for speech, which in zip((ENGLISH, TAVI), _FRAMES[frame], strict=True):
            words = cast | {"place": speech.places[place], "gift": speech.gifts[gift]}
            clean, corrupt = (speech.giving[which].fill(words | {"C": third}) for third in (giver, receiver))
            told[speech.name].append(
                Example(
                    clean=clean.text,
                    corrupt=corrupt.text,
                    right=(f" {receiver}",),
                    wrong=(f" {giver}",),
                    group=speech.giving[which].text,
                )
            )
    question = "Who receives, says {model}?"
    return {
        name: build(model, f"who receives ({name})", question, examples, len(events), seed=seed)
        for name, examples in told.items()
    }
