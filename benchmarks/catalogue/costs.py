"""A method's law of cost, from what was counted.

1. Call it on models of several depths and widths, and on tasks of several sizes; the result says how many rows went
   through the model.
2. Try all products of the symbols that may occur (`TERMS`), first each alone, then up to four together, by least
   squares without negative factors.
3. The law is the first that explains every count; where none does, the one of at most two terms with the least error.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import nnls
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import digsite
from digsite._core.cost import measure
from digsite.catalogue.costs import product, symbols
from digsite.graphs import edge_space
from digsite.models import Model
from digsite.tasks import Task
from digsite.toys import tinyworld

TINYWORLD = Path(tinyworld.__file__).with_name("weights")
EXACT = 1e-6
PARTS = ("1", "L", "L H", "L L", "L L H", "E")
TERMS = (*PARTS, *(f"{n} {part}".removesuffix(" 1") for n in ("n", "n32", "n50", "t32") for part in PARTS), "V", "V L")
ALONE = ("1", "n", "n32", "n50", "t32")
SIZES = ((8, 2, 2), (8, 3, 2), (8, 2, 4), (8, 4, 4), (12, 2, 2), (12, 3, 4), (36, 3, 3), (64, 2, 2), (80, 3, 2))
"""Examples, layers, heads of models with random weights."""
FEW = (8, 12, 16, 24)
"""Examples, where what a method costs hangs on what it finds: counted on tinyworld, which has been trained."""


class Case(NamedTuple):
    """A model and a task of one size."""

    n: int
    model: Model
    task: Task


class Call(NamedTuple):
    """What is measured: how it is written, and how it is done; what is made ready first does not count."""

    written: str
    ready: Callable[[Case], Any]
    call: Callable[[Case, Any], Any]
    trained: Sequence[int] = ()


def law(asked: Call) -> dict[str, Any]:
    """The law of one call, as plain data."""
    sizes, rows, backward, passes = [], [], 0, 0
    for n, model in _models(asked):
        case = Case(n, model, digsite.tasks.ioi(model, n=n))
        ready = asked.ready(case)
        with measure() as cost:
            asked.call(case, ready)
        sizes.append(symbols(n, model.n_layers, model.n_heads, model.d_vocab))
        rows.append(cost.rows)
        backward += cost.backwards
        passes += cost.backwards + cost.forwards
    terms, error = fitted(sizes, np.array(rows, dtype=float), ALONE if asked.trained else TERMS)
    on = (
        "tinyworld (4 layers, 8 heads)" if asked.trained else "models of 2 to 4 layers and 2 to 4 heads, random weights"
    )
    return {
        "call": asked.written,
        "on": f"{on}, {min(size['n'] for size in sizes)} to {max(size['n'] for size in sizes)} examples",
        "scales": not asked.trained,
        "terms": terms,
        "error": error,
        "backward": round(backward / passes, 3) if passes else 0.0,
        "cases": len(sizes),
    }


def fitted(sizes: Sequence[dict[str, int]], rows: np.ndarray, allowed: Sequence[str]) -> tuple[dict[str, float], float]:
    """The shortest sum of products that explains the counts, and its largest relative error."""
    if not rows.any():
        return {}, 0.0
    values = {term: np.array([product(term, size) for size in sizes], dtype=float) for term in allowed}
    best: tuple[float, dict[str, float]] = (np.inf, {})
    for terms in (some for length in (1, 2, 3, 4) for some in combinations(allowed, length)):
        design = np.stack([values[term] for term in terms], 1) / rows[:, None]
        factors, _ = nnls(design, np.ones(len(rows)))
        error = float(np.abs(design @ factors - 1).max())
        if error < EXACT or (len(terms) < 3 and error < best[0] - 1e-9):
            kept = {term: round(float(by), 4) for term, by in zip(terms, factors, strict=True) if by > EXACT}
            best = (error, kept)
        if error < EXACT:
            return best[1], 0.0
    return best[1], round(best[0], 4)


def _models(asked: Call) -> Iterator[tuple[int, Model]]:
    if asked.trained:
        yield from ((n, digsite.load("digsite/tinyworld")) for n in asked.trained)
    else:
        yield from ((n, untrained(layers, heads, 40 * (i % 3))) for i, (n, layers, heads) in enumerate(SIZES))


@cache
def untrained(layers: int, heads: int, more: int) -> Model:
    """A model of tinyworld's kind and words, and some words more, of random weights."""
    config = AutoConfig.from_pretrained(TINYWORLD)
    config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads = layers, heads, heads
    config.vocab_size += more
    made = AutoModelForCausalLM.from_config(config).eval()
    loaded = digsite.load(made, tokenizer=AutoTokenizer.from_pretrained(TINYWORLD))
    assert len(edge_space(loaded)) == symbols(1, layers, heads, 1)["E"]
    return loaded
