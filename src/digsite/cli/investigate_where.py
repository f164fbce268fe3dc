"""`digsite investigate --question "where is X represented?"`: what it asks, needs and prints."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from digsite._core.errors import BadInput, explain
from digsite.cli.outputs import columns, estimate

if TYPE_CHECKING:
    from digsite import Corpus, Model, Task

_ROW = 64
"""Tokens in a row of text."""
_ROWS = 48
"""Rows of it that are read."""


def sought_in(question: str | None) -> str | None:
    """X in "where is X represented?"; None where it is asked how.

    Raises:
        BadInput: Another question.
    """
    asked = " ".join((question or "how").split()).rstrip("? ")
    if re.match(r"how\b", asked, re.IGNORECASE):
        return None
    found = re.fullmatch(r"where (?:is|are) (.+?)(?: (?:represented|encoded|stored|read))?", asked, re.IGNORECASE)
    if found is None or found[1].lower() in ("represented", "encoded", "stored", "read"):
        possible = ["how does it do this?", "where is X represented?"]
        raise BadInput(explain(f"No sequence answers the question {question!r}", possible=possible))
    return found[1]


def check_options(sought: str | None, *, random_sets: int, others: list[str] | None, text: Path | None) -> None:
    """Raises where an option belongs to the other question."""
    if sought is None and (others or text is not None):
        given = "--others" if others else "--text"
        do = '--question "where is X represented?"'
        raise BadInput(explain(f"{given} belongs to the question where something is represented", do=do))
    if others and len({Path(other).name for other in others}) < len(others):
        raise BadInput(explain("Every set has a name of its own", found=", ".join(others)))


def corpus(model: "Model", text: Path | None) -> "Corpus | None":
    """The text on which the cost of steering is measured."""
    from digsite.tasks import Corpus

    return None if text is None else Corpus.read(text, model, length=min(_ROW, model.n_ctx or _ROW), rows=_ROWS)


def rows_for_where(task: "Task") -> int:
    """Rows that it sends through the model at most, step by step."""
    from digsite.directions.steering.card import COEFFICIENTS, WRITTEN

    n, settings = len(task), 1 + 6 * len(COEFFICIENTS)  # one unsteered, then the direction and five random ones each
    reading, ablating = 6 * n, 22 * (n // 2)
    steering = settings * (n // 2 + 2 * _ROWS) + 17 * WRITTEN * (1 + len(COEFFICIENTS))
    return reading + ablating + steering


def claims_of_where(claims: list[dict[str, Any]]) -> Table:
    """One row a claim, in the order of the steps."""
    table = columns("claim", "effect [95 %]", "null", "unit", "n", "holds")
    for claim in claims:
        numbers = estimate(claim["effect"], claim["low"], claim["high"]), f"{claim['null']:z.2f}", claim["unit"]
        table.add_row(claim["claim"], *numbers, str(claim["n"]), "yes" if claim["supported"] else "no")
    return table
