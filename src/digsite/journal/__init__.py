"""A working folder that remembers runs, failures, findings and hours.

Each name is imported when it is first used: the log needs nothing of what a result needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_WHERE = {
    "Comparison": "comparing",
    "compare": "comparing",
    "Dig": "dig",
    "Evidence": "findings",
    "Finding": "findings",
    "Findings": "findings",
    "numbered": "telling",
    "RunRecord": "records",
    "Hit": "searching",
}

if TYPE_CHECKING:
    from digsite.journal.comparing import Comparison as Comparison
    from digsite.journal.comparing import compare as compare
    from digsite.journal.dig import Dig as Dig
    from digsite.journal.findings import Evidence as Evidence
    from digsite.journal.findings import Finding as Finding
    from digsite.journal.findings import Findings as Findings
    from digsite.journal.records import RunRecord as RunRecord
    from digsite.journal.searching import Hit as Hit
    from digsite.journal.telling import numbered as numbered


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"digsite.journal.{_WHERE[name]}"), name)
    raise AttributeError(f"digsite.journal has no {name!r}; it has {', '.join(sorted(_WHERE))}")


def __dir__() -> list[str]:
    return sorted(_WHERE)
