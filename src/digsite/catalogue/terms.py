"""The glossary as it stands in docs/glossary.md, term by term, without a network."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from digsite._core.errors import BadInput, explain

INSTALLED = Path(__file__).with_name("glossary.md")
"""Where a wheel has the page (pyproject.toml puts it there)."""
_CHECKOUT = Path(__file__).parents[3] / "docs" / "glossary.md"


@dataclass(frozen=True, kw_only=True)
class Term:
    """One word of the glossary.

    Attributes:
        word: As code, figures and reports use it.
        section: The table that it stands in.
        cells: The rest of its line, by the head of its column: meaning, formula, unit, shape.
    """

    word: str
    section: str
    cells: Mapping[str, str]


@cache
def glossary() -> tuple[Term, ...]:
    """Every term, in the order of the page."""
    page = INSTALLED if INSTALLED.is_file() else _CHECKOUT
    found, section, heads = [], "", []
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section, heads = line[3:], []
        elif line.startswith("|") and not heads:
            heads = _cells(line)
        elif line.startswith("|") and set(line) - set("|- "):
            word, *rest = _cells(line)
            cells = dict(zip(heads[1:], rest, strict=True))
            found.append(Term(word=word.strip("`"), section=section, cells=cells))
    return tuple(found)


def define(word: str) -> list[Term]:
    """What a word means; one word may stand in several tables.

    Args:
        word: A term; large and small letters are alike, and - and _ are spaces.

    Raises:
        BadInput: No term is this word, nor has it in its name; near ones are named.
    """
    wanted = _plain(word)
    exact = [one for one in glossary() if _plain(one.word) == wanted]
    if exact:
        return exact
    holding = [one for one in glossary() if wanted in _plain(one.word).split()]
    if holding:
        return holding
    near = difflib.get_close_matches(wanted, [_plain(one.word) for one in glossary()], n=5, cutoff=0.6)
    meant = [one.word for one in glossary() if wanted in " ".join(one.cells.values()).lower()]
    raise BadInput(
        explain(
            f"the glossary's word for {word!r}",
            found="no such term",
            possible=list(dict.fromkeys([*near, *meant]))[:8],
            do="digsite glossary lists every term",
        )
    )


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\) \| ", line.strip().strip("|"))]


def _plain(word: str) -> str:
    return " ".join(re.split(r"[\s_-]+", word.lower()))
