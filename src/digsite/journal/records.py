"""What is remembered of a run."""

import json
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

STATUSES = ("running", "done", "failed", "interrupted")


def now() -> str:
    """This moment, in UTC, as it is written in the tables."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One method that was called inside a dig.

    Attributes:
        id: Its number in the dig, from 1.
        method: Room and function, such as patching.activation_patching.
        call: The call in words.
        command: The shell command that made it, where one did.
        place: The working directory that it was called in.
        folder: Where its result lies; there is one where `status` is done and the method gives a result.
        status: running, done, failed (by an error) or interrupted (by the user, or by a kill).
        started: When it began.
        ended: When it ended; for a killed run, when that was noticed.
        verdict: The answer in one sentence.
        error: What ended it, where it failed.
        provenance: Model, tokens, versions, seed; see `Provenance`.
        cost: Passes, seconds, memory; see `Cost`.
        tags: Words that were given to it.
        rerun_of: The run that it repeats.
    """

    id: int
    method: str
    call: str
    command: str | None
    place: Path
    folder: Path
    status: str
    started: datetime
    ended: datetime | None
    verdict: str
    error: str
    provenance: dict[str, Any]
    cost: dict[str, int | float]
    tags: tuple[str, ...]
    rerun_of: int | None

    @property
    def again(self) -> str:
        """The command, or else the call, that makes it again."""
        return self.command or self.provenance.get("made_by") or self.call

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON."""
        plain = vars(self) | {"folder": str(self.folder), "place": str(self.place), "tags": list(self.tags)}
        ended = None if self.ended is None else self.ended.isoformat()
        return plain | {"started": self.started.isoformat(), "ended": ended}


RUNS = """
SELECT run.*, (SELECT group_concat(name, char(10)) FROM tag WHERE tag.run = run.id) AS tags FROM run
"""


def record_of(row: sqlite3.Row, dig: Path) -> RunRecord:
    """A row of `RUNS` as a record."""
    return RunRecord(
        id=row["id"],
        method=row["method"],
        call=row["call"],
        command=row["command"],
        place=dig / row["place"],
        folder=dig / row["folder"],
        status=row["status"],
        started=datetime.fromisoformat(row["started"]),
        ended=None if row["ended"] is None else datetime.fromisoformat(row["ended"]),
        verdict=row["verdict"] or "",
        error=row["error"] or "",
        provenance=json.loads(row["provenance"] or "{}"),
        cost=json.loads(row["cost"] or "{}"),
        tags=tuple(sorted((row["tags"] or "").split("\n"))) if row["tags"] else (),
        rerun_of=row["rerun_of"],
    )
