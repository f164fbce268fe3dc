"""Is-a: "A cat is a kind of" -> " animal"."""

from collections.abc import Iterator

import numpy as np

from digsite.models import Model
from digsite.tasks.build import build
from digsite.tasks.examples import Example
from digsite.tasks.frames import frames
from digsite.tasks.sampling import Keep, distinct, pick, pick_distinct
from digsite.tasks.task import Task
from digsite.tasks.words import KINDS

KIND_FRAMES = frames(
    "A {thing} is a kind of",
    "The {thing} is a type of",
    "We all know that a {thing} is a kind of",
    "Every {thing} is some kind of",
)


def is_a(model: Model, n: int = 100, *, seed: int = 0, keep: Keep | None = None) -> Task:
    """What kind of thing a thing is; the corrupt prompt has a thing of another kind. Spans: thing.

    Args:
        model: Its tokenizer decides which examples can be used.
        n: Examples wanted.
        seed: Of the draw.
        keep: Takes an example and says whether it may be used.
    """
    return build(
        model,
        "is-a",
        "Where does {model} keep what kind of thing a thing is?",
        distinct(is_a_examples(np.random.default_rng(seed)), n, keep),
        n,
        seed=seed,
        description="a thing and its kind; the corrupt prompt has a thing of another kind",
    )


def is_a_examples(rng: np.random.Generator) -> Iterator[Example]:
    """Endless is-a pairs as text."""
    kinds = tuple(KINDS)
    while True:
        frame = pick(rng, KIND_FRAMES)
        kind, other = pick_distinct(rng, kinds, 2)
        clean = frame.fill({"thing": pick(rng, KINDS[kind])})
        yield Example(
            clean=clean.text,
            corrupt=frame.fill({"thing": pick(rng, KINDS[other])}).text,
            right=(f" {kind}",),
            wrong=(f" {other}",),
            spans=clean.spans,
            group=kind,
        )
