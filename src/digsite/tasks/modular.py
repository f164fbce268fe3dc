"""Modular arithmetic: "15 + 9 mod 23 =" -> " 1"."""

from collections.abc import Iterator

import numpy as np

from digsite._core.errors import BadInput, explain
from digsite.models import Model
from digsite.tasks.build import build
from digsite.tasks.examples import Example
from digsite.tasks.frames import Frame
from digsite.tasks.sampling import Keep, distinct
from digsite.tasks.task import Task

SUM = Frame("{a} + {b} mod {modulus} =")
MODULUS = 23


def modular_arithmetic(
    model: Model, n: int = 200, *, seed: int = 0, modulus: int = MODULUS, keep: Keep | None = None
) -> Task:
    """What is left of a sum after division; the corrupt prompt has another second number. Spans: a, b, modulus.

    Args:
        model: Its tokenizer decides which examples can be used.
        n: Examples wanted.
        seed: Of the draw.
        modulus: The divisor, at least 2.
        keep: Takes an example and says whether it may be used.

    Raises:
        BadInput: If the modulus is below 2.

    Source: Nanda et al. 2023, "Progress Measures for Grokking via Mechanistic Interpretability" (theirs is 113).
    """
    if modulus < 2:
        raise BadInput(explain("A modulus is at least 2", found=str(modulus)))
    return build(
        model,
        "modular-arithmetic",
        "How does {model} add and wrap around?",
        distinct(modular_examples(np.random.default_rng(seed), modulus=modulus), n, keep),
        n,
        seed=seed,
        options={"modulus": modulus},
        description=f"a sum modulo {modulus}; the corrupt prompt has another second number",
    )


def modular_examples(rng: np.random.Generator, *, modulus: int = MODULUS) -> Iterator[Example]:
    """Endless sums as text."""
    while True:
        a, b, other = (int(rng.random() * modulus) for _ in range(3))
        if b == other:
            continue
        words = {"a": str(a), "b": str(b), "modulus": str(modulus)}
        clean = SUM.fill(words)
        yield Example(
            clean=clean.text,
            corrupt=SUM.fill(words | {"b": str(other)}).text,
            right=(f" {(a + b) % modulus}",),
            wrong=(f" {(a + other) % modulus}",),
            spans=clean.spans,
            group=str(a),
        )
