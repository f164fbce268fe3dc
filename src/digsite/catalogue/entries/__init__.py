"""What only a person can say of a method: one table an entry, in one file a room, keyed by the function's name."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What a method's docstring cannot say.

    Attributes:
        question: What one asks when this is the method.
        level: At which levels of abstraction it answers.
        branch: Where it stands on the map of experimental methods.
        evidence: What kind of evidence it gives.
        assumes: What must be so for its answer to mean what it says.
        example: A command, or a line of Python after `import digsite`, where there is no command.
        read: What to read first: a page of the documentation.
        scored_as: Its lines on the scoreboards.
    """

    question: str
    level: tuple[str, ...]
    branch: str
    evidence: str
    assumes: str
    example: str
    read: str
    scored_as: tuple[str, ...] = ()


@cache
def entries() -> Mapping[str, Entry]:
    """Every entry by the name of its method."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.toml")):
        for function, table in tomllib.loads(path.read_text(encoding="utf-8")).items():
            given: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in table.items()
            }
            found[f"{path.stem}.{function}"] = Entry(**given)
    return found
