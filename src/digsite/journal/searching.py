"""Search over what a dig holds: runs and findings as they change, notes and days of the log when looked for."""

import os
import re
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from digsite._core.errors import BadInput, explain
from digsite.journal.log.folder import GENERATED

_PLACES = (("", "README.md"), ("notes/", ".md"), ("log/", ".md"))
"""Where Markdown lies in a dig, which can change without digsite: folders, and how the names of its files end."""
MARKS = ("⟦", "⟧")
"""What stands around a word that was found."""


@dataclass(frozen=True, kw_only=True)
class Hit:
    """Something that was found.

    Attributes:
        ref: run/7, finding/2, notes/ideas.md or log/2026-03-24.md.
        title: What it is called.
        snippet: Where the words stand, each between `MARKS`.
    """

    ref: str
    title: str
    snippet: str


def indexed(tables: sqlite3.Connection, ref: str, words: tuple[str, str] | None, *, stamp: str = "") -> None:
    """Make something findable by its title and its body, in place of what it was; or, given None, no longer."""
    if tables.execute("SELECT 1 FROM page WHERE ref = ?", (ref,)).fetchone():
        row = tables.execute("SELECT line FROM page WHERE ref = ?", (ref,)).fetchone()[0]
        tables.execute("DELETE FROM text WHERE rowid = ?", (row,))
        tables.execute("DELETE FROM page WHERE ref = ?", (ref,))
    if words is not None:
        line = tables.execute("INSERT INTO text (ref, title, body) VALUES (?, ?, ?)", (ref, *words)).lastrowid
        tables.execute("INSERT INTO page (ref, stamp, line) VALUES (?, ?, ?)", (ref, stamp, line))


def refreshed(tables: sqlite3.Connection, folder: Path) -> None:
    """Read the Markdown files that have changed since they were last read."""
    files = {f"{place}{file.name}": file for place, end in _PLACES for file in _files(folder / place, end)}
    query = "SELECT ref, stamp FROM page WHERE ref NOT GLOB 'run/*' AND ref NOT GLOB 'finding/*'"
    known = dict(tables.execute(query).fetchall())
    for ref in known.keys() - files.keys():
        indexed(tables, ref, None)
    for ref, file in files.items():
        status = file.stat()
        stamp = f"{status.st_mtime_ns} {status.st_size}"
        if known.get(ref) != stamp:
            body = Path(file).read_text(encoding="utf-8", errors="replace")
            body = "" if body.startswith(GENERATED) else body  # what it says stands in the days already
            heading = re.search(r"^(?:#+|title:)\s*(.+)$", body, re.MULTILINE)
            indexed(tables, ref, (heading[1].strip() if heading else ref, body), stamp=stamp)


def _files(folder: Path, end: str) -> list[os.DirEntry[str]]:
    """The files of a folder whose names end so; its entries are looked at far faster than paths are."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return [one for one in entries if one.name.endswith(end) and one.is_file()]


def searched(tables: sqlite3.Connection, words: str, last: int) -> list[Hit]:
    """Where all the words occur, or words that begin with them; the best first.

    Raises:
        BadInput: No word is given.
    """
    terms = re.findall(r"\w+", words)
    if not terms:
        raise BadInput(explain("A search needs a word", found=repr(words)))
    query = " ".join(f'"{term}"*' for term in terms)
    rows = tables.execute(
        "SELECT ref, title, snippet(text, 2, ?, ?, ' … ', 16) FROM text WHERE text MATCH ? "
        "ORDER BY bm25(text, 0.0, 4.0, 1.0), rowid DESC LIMIT ?",
        (*MARKS, query, last),
    )
    return [Hit(ref=ref, title=title, snippet=" ".join(snippet.split())) for ref, title, snippet in rows]
