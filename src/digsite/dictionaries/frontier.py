"""Several dictionaries of the same columns side by side: how little each leaves unexplained, with how few latents.

A dictionary is only better than another if it is better at no more latents a token: so both axes are always shown, and
each dictionary says which others beat it on both.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import polars as pl

from digsite._core.cost import Cost
from digsite._core.errors import BadInput, explain
from digsite._core.provenance import record
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.dictionaries.evaluation import DICTIONARY, DictionaryEvaluation

_NUMBERS = ("l0", "fvu", "fvu_low", "fvu_high", "recovered", "recovered_low", "recovered_high", "kl", "dead", "n")


@dataclass(frozen=True, kw_only=True)
class Frontier(Result):
    """Dictionaries and baselines by L0, FVU, loss recovered and KL.

    Attributes:
        corpus: The text they were judged on.
        columns: What they write.
        points: One row a dictionary or baseline; `of` is the dictionary that a baseline belongs to.
    """

    SCHEMA: ClassVar[str] = "dictionaries.frontier/1"

    corpus: str
    columns: tuple[str, ...]
    points: pl.DataFrame

    def to_frame(self) -> pl.DataFrame:
        """One row a dictionary, then one a baseline: L0, FVU and loss recovered with 95 % intervals, KL."""
        return self.points

    @property
    def best(self) -> tuple[str, ...]:
        """Dictionaries that no other beats on both L0 and FVU."""
        rows = self.points.filter(kind="dictionary").to_dicts()
        return tuple(row["name"] for row in rows if not any(_beats(other, row) for other in rows))

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        rows = {row["name"]: row for row in self.points.filter(kind="dictionary").to_dicts()}
        said = [f"{name} (L0 {rows[name]['l0']:.1f}, FVU {rows[name]['fvu']:.1%})" for name in self.best]
        baselines = self.points.filter(kind="baseline").to_dicts()
        beaten = {name: [row["name"] for row in baselines if _beats(row, rows[name])] for name in self.best}
        failed = [f"{name} is beaten by {', '.join(dict.fromkeys(by))}" for name, by in beaten.items() if by]
        warned = f"; but {'; '.join(failed)}" if failed else ""
        none = "" if baselines else "; no baselines were judged"
        return (
            f"{len(self.best)} of {len(rows)} dictionaries are on the frontier of L0 and FVU: {', '.join(said)}{warned}"
            f"{none}; n = {next(iter(rows.values()))['n']} sequences of {self.corpus}"
        )


@method
def compare(evaluations: Mapping[str, DictionaryEvaluation]) -> Frontier:
    """Several dictionaries of the same columns side by side.

    Args:
        evaluations: What `evaluate` found of each, by name, on the same text.

    Raises:
        BadInput: There are none, or they were judged on other text, other weights or other columns.
    """
    if not evaluations:
        raise BadInput(explain("There is nothing to compare", do='compare({"k=32": evaluate(...), ...})'))
    about = {
        name: {"text": one.provenance.tokens, "weights": one.provenance.weights, "columns": ", ".join(one.columns)}
        for name, one in evaluations.items()
    }
    first, *others = about
    for other in others:
        if differ := [key for key in about[first] if about[first][key] != about[other][key]]:
            found = "; ".join(f"{key} {about[first][key]} and {about[other][key]}" for key in differ)
            raise BadInput(explain(f"{first} and {other} were not judged on the same", found=found))
    rows = []
    for kind in ("dictionary", "baseline"):
        for name, one in evaluations.items():
            frame = one.to_frame().filter(place=one.places[0])
            for row in frame.to_dicts():
                if (row["judged"] == DICTIONARY) == (kind == "dictionary"):
                    called = name if kind == "dictionary" else row["judged"]
                    rows.append({"name": called, "of": name, "kind": kind, **{key: row[key] for key in _NUMBERS}})
    one = evaluations[first]
    return Frontier(
        corpus=one.corpus,
        columns=one.columns,
        points=pl.DataFrame(rows),
        provenance=record(
            f"digsite.dictionaries.compare({{{', '.join(map(repr, evaluations))}}})",
            model=one.provenance.model,
            weights=one.provenance.weights,
            tokens=one.provenance.tokens,
        ),
        cost=Cost(
            forwards=sum(each.cost.forwards for each in evaluations.values()),
            rows=sum(each.cost.rows for each in evaluations.values()),
            seconds=sum(each.cost.seconds for each in evaluations.values()),
            cpu_seconds=sum(each.cost.cpu_seconds for each in evaluations.values()),
            peak_mb=max(each.cost.peak_mb for each in evaluations.values()),
        ),
    )


def _beats(one: Mapping, other: Mapping) -> bool:
    """Whether one is no worse on both L0 and FVU, and better on one."""
    no_worse = one["l0"] <= other["l0"] and one["fvu"] <= other["fvu"]
    return no_worse and (one["l0"] < other["l0"] or one["fvu"] < other["fvu"])
