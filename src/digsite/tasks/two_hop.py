"""Two-hop in context, from notes: ring box, box park, so in the end the ring is in the ... park."""

from collections.abc import Iterator

import numpy as np

from digsite.models import Model
from digsite.tasks.build import build
from digsite.tasks.examples import Example
from digsite.tasks.frames import Frame
from digsite.tasks.sampling import Keep, distinct, pick_distinct
from digsite.tasks.task import Task
from digsite.tasks.words import CONTAINERS, GIFTS, PLACES

CHAIN = Frame(
    "Notes: {thing_1} {holder_1}, {thing_2} {holder_2}, {holder_3} {place_3}, {holder_4} {place_4}; in the end: {asked}"
)


def two_hop(model: Model, n: int = 200, *, seed: int = 0, keep: Keep | None = None) -> Task:
    """Where a thing is, by two facts that both stand in the prompt; the corrupt prompt asks for the other thing.

    Two things in two holders in two places, in random order. Spans: asked, and for the thing that is asked for: thing,
    holder (in the first fact), holder_again, place (in the second).

    Args:
        model: Its tokenizer decides which examples can be used.
        n: Examples wanted.
        seed: Of the draw.
        keep: Takes an example and says whether it may be used.
    """
    return build(
        model,
        "two-hop",
        "How does {model} join two facts that it has just read?",
        distinct(two_hop_examples(np.random.default_rng(seed)), n, keep),
        n,
        seed=seed,
        description="two things, their holders and the holders' places; the corrupt prompt asks for the other thing",
    )


def two_hop_examples(rng: np.random.Generator) -> Iterator[Example]:
    """Endless two-hop pairs as text."""
    while True:
        things, holders, places = (pick_distinct(rng, words, 2) for words in (GIFTS, CONTAINERS, PLACES))
        asked, turned = int(rng.random() < 0.5), rng.random() < 0.5
        order = (1, 0) if turned else (0, 1)  # in which order the holders' places are said
        words = {
            "thing_1": things[0],
            "thing_2": things[1],
            "holder_1": holders[0],
            "holder_2": holders[1],
            "holder_3": holders[order[0]],
            "holder_4": holders[order[1]],
            "place_3": places[order[0]],
            "place_4": places[order[1]],
        }
        clean = CHAIN.fill(words | {"asked": things[asked]})
        first, second = asked + 1, 3 + order.index(asked)
        yield Example(
            clean=clean.text,
            corrupt=CHAIN.fill(words | {"asked": things[1 - asked]}).text,
            right=(f" {places[asked]}",),
            wrong=(f" {places[1 - asked]}",),
            spans={
                "thing": clean.spans[f"thing_{first}"],
                "holder": clean.spans[f"holder_{first}"],
                "holder_again": clean.spans[f"holder_{second}"],
                "place": clean.spans[f"place_{second}"],
                "asked": clean.spans["asked"],
            },
            group="places in the same order" if not turned else "places in the other order",
        )
