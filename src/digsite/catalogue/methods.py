"""The catalogue: what the source says of each method, what a person says of it, and what was measured.

1. Take every method that the source has (`source`), but for the examinations of toys.
2. Put its entry, its lines of the scoreboards and its law of cost beside it.
3. A chooser narrows them down: by words of the question, by level, by branch.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from digsite._core.errors import BadInput, explain
from digsite.catalogue.costs import Law, laws
from digsite.catalogue.entries import Entry, entries
from digsite.catalogue.faithfulness import Score, scores
from digsite.catalogue.source import Documented, documented
from digsite.catalogue.vocabulary import BRANCHES, LEVELS


@dataclass(frozen=True, kw_only=True)
class Method:
    """One method of digsite, with all that is known of it.

    Attributes:
        source: What its own source says.
        entry: What a person says.
        faithfulness: Its lines on the scoreboards; empty where it cannot stand on one.
        cost: Its law; None where it was not measured.
    """

    source: Documented
    entry: Entry
    faithfulness: tuple[Score, ...]
    cost: Law | None

    @property
    def name(self) -> str:
        """The room and the function."""
        return self.source.name

    def words(self) -> str:
        """Everything in which a chooser may find a word."""
        entry = self.entry
        parts = (self.name, self.source.summary, entry.question, entry.branch, entry.evidence, *entry.level)
        return " ".join(parts).lower().replace("_", " ")

    def to_dict(self) -> dict[str, object]:
        """Everything, as plain data."""
        sections = self.source.sections
        return {
            "method": self.name,
            "call": f"digsite.{self.name.partition('.')[0]}.{self.source.call}",
            "summary": self.source.summary,
            **{key: list(value) if isinstance(value, tuple) else value for key, value in vars(self.entry).items()},
            "faithfulness": [vars(one) for one in self.faithfulness],
            "cost": None if self.cost is None else {**vars(self.cost), "law": str(self.cost)},
            **{key.lower(): sections.get(key) for key in ("Units", "Source", "Caveats")},
        }


@cache
def methods() -> Mapping[str, Method]:
    """Every method by name: branch by branch as the map has them."""
    told, known, measured = entries(), scores(), laws()
    order = list(BRANCHES)
    found = [
        Method(
            source=one,
            entry=told[name],
            faithfulness=tuple(known[line] for line in told[name].scored_as if line in known),
            cost=measured.get(name),
        )
        for name, one in documented().items()
        if name in told
    ]
    return {one.name: one for one in sorted(found, key=lambda one: order.index(one.entry.branch))}


def choose(words: str = "", *, level: str | None = None, branch: str | None = None) -> list[Method]:
    """The methods that answer a question.

    Args:
        words: Words, all of which must occur in a method's name, question, level, branch or evidence.
        level: One of `LEVELS`.
        branch: A branch of the map, or the beginning of one's name, such as "circuits".

    Raises:
        BadInput: A level or branch that is not there.
    """
    if level is not None and level not in LEVELS:
        raise BadInput(explain(f"methods at the level {level!r}", possible=LEVELS, near=level))
    if branch is not None and not any(one.startswith(branch) for one in BRANCHES):
        raise BadInput(explain(f"methods of the branch {branch!r}", possible=BRANCHES, near=branch))
    wanted = re.findall(r"\w+", words.lower().replace("_", " "))
    return [
        one
        for one in methods().values()
        if all(word in one.words() for word in wanted)
        and (level is None or level in one.entry.level)
        and (branch is None or one.entry.branch.startswith(branch))
    ]


def find(name: str) -> Method | None:
    """The method of this name, with or without its room; None where there is none, or several."""
    found = [one for one in methods().values() if name in (one.name, one.name.partition(".")[2])]
    return found[0] if len(found) == 1 else None
