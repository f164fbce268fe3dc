"""What methods cost: laws in rows of the model, fitted to what was counted on models of several sizes.

A row is one row of tokens that goes once through the model, forward or backward; how many rows fit a pass is for the
machine to say. The file beside this module is written by `python -m benchmarks.catalogue costs`, which says how.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from digsite._core.errors import BadInput, explain

FILE = Path(__file__).with_name("costs.json")
SYMBOLS = {
    "n": "examples of the task, or rows of the text",
    "L": "layers",
    "H": "heads of a layer",
    "E": "edges of the model",
    "V": "tokens of the vocabulary",
    "n32": "n, at most 32",
    "n50": "n, at most 50",
    "t32": "the half of n that is trained on, at most 32",
}


@dataclass(frozen=True, kw_only=True)
class Law:
    """Rows that a method takes, as a sum of products.

    Attributes:
        call: What was measured.
        on: The models that it was counted on.
        scales: Whether it was counted on models of several sizes; else it holds for that one.
        terms: Products of symbols, each with its factor; empty where no model runs.
        error: The largest relative error of the law over everything counted; 0 where it is exact.
        backward: Share of the passes that are backward.
        cases: How many sizes of model and task were counted.
    """

    call: str
    on: str
    scales: bool
    terms: Mapping[str, float]
    error: float
    backward: float
    cases: int

    def rows(self, *, n: int, layers: int, heads: int, vocab: int) -> int:
        """What the law says of a model and task of this size."""
        if min(n, layers, heads, vocab) < 1:
            raise BadInput(explain("sizes from 1 on", found=f"n {n}, layers {layers}, heads {heads}, vocab {vocab}"))
        size = symbols(n, layers, heads, vocab)
        return round(sum(factor * product(term, size) for term, factor in self.terms.items()))

    def __str__(self) -> str:
        if not self.terms:
            return "runs no model"
        law = " + ".join(_term(term, factor) for term, factor in self.terms.items())
        fit = "" if self.error < 1e-6 else f" (within {self.error:.1%})"
        return f"{law} rows{fit}"


def symbols(n: int, layers: int, heads: int, vocab: int) -> dict[str, int]:
    """The symbols of the laws, of a task and a model; edges are those of a model that adds head to MLP to the stream.

    Each reader reads every writer before it: three inputs of each head, the MLP, the logits.
    """
    made = heads + 1
    edges = sum(3 * heads * (1 + layer * made) + (1 + layer * made + heads) for layer in range(layers))
    capped = {"n32": min(n, 32), "n50": min(n, 50), "t32": min(n // 2, 32)}
    return {"n": n, "L": layers, "H": heads, "E": edges + 1 + layers * made, "V": vocab, **capped}


def product(term: str, size: Mapping[str, int]) -> int:
    """What a term such as `n L H` comes to; the term 1 is 1."""
    return math.prod(size[word] for word in term.split() if word != "1")


@cache
def laws() -> Mapping[str, Law]:
    """Every law that was measured, by the method's name."""
    return {name: Law(**one) for name, one in json.loads(FILE.read_text(encoding="utf-8"))["laws"].items()}


def _term(term: str, factor: float) -> str:
    if term == "1":
        return f"{factor:,.4g}"
    return term if factor == 1 else f"{factor:,.4g} {term}"
