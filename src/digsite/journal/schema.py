"""The tables of a dig, and how an older dig becomes one of today.

Every step runs in a transaction of its own together with the note that it was done, so that a dig is of one version or
of the next. A step is never changed once it was released; a new one is added below.
"""

import sqlite3
from pathlib import Path

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from digsite._core.errors import LoadError, explain
from digsite._core.files import NotWritten

STEPS = Migrations("digsite.journal")
WAIT = 30.0
"""Seconds that one process waits while another writes."""


_FIRST = """
CREATE TABLE run (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    method TEXT NOT NULL,           -- such as patching.activation_patching
    call TEXT NOT NULL,             -- the call in words
    command TEXT,                   -- the shell command, where one was given
    place TEXT NOT NULL,            -- the working directory: below the dig, or absolute
    folder TEXT NOT NULL,           -- where the result lies, below the dig
    status TEXT NOT NULL CHECK (status IN ('running', 'done', 'failed', 'interrupted')),
    started TEXT NOT NULL,          -- UTC, ISO 8601
    ended TEXT,
    verdict TEXT,
    error TEXT,
    provenance TEXT,                -- JSON
    cost TEXT,                      -- JSON
    rerun_of INTEGER REFERENCES run (id) ON DELETE SET NULL,
    host TEXT NOT NULL,
    process INTEGER NOT NULL
);
CREATE INDEX run_started ON run (started);
CREATE INDEX run_status ON run (status);
CREATE TABLE tag (
    run INTEGER NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    PRIMARY KEY (run, name)
);
CREATE TABLE finding (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    claim TEXT NOT NULL,
    level TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('open', 'supported', 'refuted', 'artefact')),
    subject TEXT,                   -- the address of what it is about
    setting TEXT,                   -- JSON: model, task and options that it is tested with
    moved_from INTEGER REFERENCES finding (id) ON DELETE SET NULL,
    created TEXT NOT NULL,
    changed TEXT NOT NULL,
    reason TEXT                     -- why it has its status
);
CREATE TABLE evidence (
    finding INTEGER NOT NULL REFERENCES finding (id) ON DELETE CASCADE,
    run INTEGER NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    stance TEXT NOT NULL CHECK (stance IN ('for', 'against', 'battery')),
    words TEXT NOT NULL DEFAULT '',
    added TEXT NOT NULL,
    PRIMARY KEY (finding, run, stance)
);
CREATE TABLE page (                 -- what can be searched, and when it was read
    ref TEXT PRIMARY KEY,           -- run/7, finding/2, notes/ideas.md, log/2026-03-24.md
    stamp TEXT NOT NULL,            -- of the file that it was read from
    line INTEGER NOT NULL           -- where its words are
);
CREATE VIRTUAL TABLE text USING fts5 (ref UNINDEXED, title, body, tokenize = 'unicode61 remove_diacritics 2');
"""


@STEPS()
def runs_notes_and_findings(db: Database) -> None:
    """The first version."""
    for statement in _FIRST.split(";"):  # not executescript, which would end the transaction
        db.execute(statement)


def opened(path: Path, *, make: bool = False) -> sqlite3.Connection:
    """A connection to the tables, brought to today's version.

    Args:
        path: The file.
        make: Whether to make it where it is not there.

    Raises:
        LoadError: There is none, it is of a newer digsite, or it is broken.
        NotWritten: The place cannot be written.
    """
    if not make and not path.is_file():
        raise LoadError(explain(f"{path.parent} is no dig", found=f"no {path.name}", do="digsite dig init makes one"))
    try:
        connection = sqlite3.connect(path, timeout=WAIT, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.row_factory = sqlite3.Row
        _migrated(connection, path)
    except sqlite3.DatabaseError as error:
        unwritable = isinstance(error, sqlite3.OperationalError)
        kind, asked = (NotWritten, "could not be opened") if unwritable else (LoadError, "is broken")
        raise kind(explain(f"{path} {asked}", found=str(error))) from error
    return connection


def _migrated(connection: sqlite3.Connection, path: Path) -> None:
    factory, connection.row_factory = connection.row_factory, None
    database = Database(connection, recursive_triggers=False)
    known = {step.name for step in STEPS._migrations}
    applied = {step.name for step in STEPS.applied(database)}
    if newer := sorted(applied - known):
        raise LoadError(
            explain(
                f"{path.parent} was made by a newer digsite",
                found=f"its tables have {', '.join(newer)}, which this version does not know",
                do="update digsite: pip install --upgrade digsite",
            )
        )
    if STEPS.pending(database):
        connection.execute("BEGIN IMMEDIATE")  # another process may be about to do the same
        try:
            STEPS.apply(database)
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
    connection.row_factory = factory
