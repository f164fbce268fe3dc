"""How faithful methods were where the truth is known: the means of the scoreboards, as they were measured.

The file beside this module is written by `python -m benchmarks.catalogue faithfulness` from saved boards.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("faithfulness.json")


@dataclass(frozen=True, kw_only=True)
class Score:
    """One line of a scoreboard.

    Attributes:
        line: Its name there.
        of: What was to be found: "nodes" or "edges" of circuits, or "features".
        measure: What is measured: AUROC of true parts over others, or the share of features recovered.
        value: The mean over programs, or over ways to plant features.
        chance: The same of the line that knows nothing.
        over: How many programs, or ways to plant.
        missed: Share of true parts that score next to nothing; None of features.
        missed_hard: The same over the programs on which methods are known to fail.
    """

    line: str
    of: str
    measure: str
    value: float
    chance: float
    over: int
    missed: float | None = None
    missed_hard: float | None = None

    def __str__(self) -> str:
        where = "ways to plant them" if self.of == "features" else "programs"
        told = (
            f"{self.line}: {self.measure} {self.value:.2f} of {self.of} (chance {self.chance:.2f}), {self.over} {where}"
        )
        if self.missed is None or self.missed_hard is None:
            return told
        return f"{told}; misses {self.missed:.0%} of what is there, {self.missed_hard:.0%} on the hard ones"


@cache
def scores() -> Mapping[str, Score]:
    """Every line of the boards that was measured, by name."""
    return {one["line"]: Score(**one) for one in json.loads(FILE.read_text(encoding="utf-8"))["scores"]}


def measured_in() -> tuple[str, ...]:
    """The pages or folders that the numbers are from."""
    return tuple(json.loads(FILE.read_text(encoding="utf-8"))["from"])
