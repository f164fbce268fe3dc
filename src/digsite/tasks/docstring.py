"""Docstring-like: the parameters of a signature, documented in order."""

from collections.abc import Iterator

import numpy as np

from digsite.models import Model
from digsite.tasks.build import build
from digsite.tasks.examples import Example
from digsite.tasks.frames import Frame
from digsite.tasks.sampling import Keep, distinct, pick, pick_distinct
from digsite.tasks.task import Task
from digsite.tasks.words import FUNCTIONS, PARAMETERS, TYPES

SIGNATURE = Frame(
    "def {function}(self, {first}, {second}, {third}):\n"
    "    :param {first_again}: {type_1}\n"
    "    :param {second_again}: {type_2}\n"
    "    :param"
)


def docstring_like(model: Model, n: int = 200, *, seed: int = 0, keep: Keep | None = None) -> Task:
    """Which parameter is documented next; the corrupt signature has another third parameter.

    Spans: first, second, third (in the signature), second_again (the parameter documented last).

    Args:
        model: Its tokenizer decides which examples can be used.
        n: Examples wanted.
        seed: Of the draw.
        keep: Takes an example and says whether it may be used.

    Source: Heimersheim & Janiak 2023, "A circuit for Python docstrings in a 4-layer attention-only transformer";
    our frame is shorter than theirs.
    """
    return build(
        model,
        "docstring",
        "How does {model} know which parameter to document next?",
        distinct(docstring_examples(np.random.default_rng(seed)), n, keep),
        n,
        seed=seed,
        description="a function's signature and the documentation of its first parameters; "
        "the corrupt signature has another third parameter",
    )


def docstring_examples(rng: np.random.Generator) -> Iterator[Example]:
    """Endless docstring pairs as text."""
    while True:
        first, second, third, other = pick_distinct(rng, PARAMETERS, 4)
        words = {
            "function": pick(rng, FUNCTIONS),
            "first": first,
            "second": second,
            "third": third,
            "first_again": first,
            "second_again": second,
            "type_1": pick(rng, TYPES),
            "type_2": pick(rng, TYPES),
        }
        clean = SIGNATURE.fill(words)
        yield Example(
            clean=clean.text,
            corrupt=SIGNATURE.fill(words | {"third": other}).text,
            right=(f" {third}",),
            wrong=(f" {other}",),
            spans={name: clean.spans[name] for name in ("first", "second", "third", "second_again")},
            group=words["function"],
        )
