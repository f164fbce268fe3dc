"""`Dig`: a working folder that remembers what was tried::

    my-dig/
      README.md                 what is asked here
      dig.sqlite                runs, findings, tags, and what can be searched
      runs/0007-ablation/       a result, as every result is saved
      notes/run-0007.md         what was noted about it; other notes beside
      log/2026-03-24.md         the daily log

How nothing is lost, and nothing is half there:

1. A run is a row that says running before the method begins. Its process holds a lock on a file until it ends; the
   system takes the lock away from a process that is killed.
2. When the method has given its result, the result's folder appears whole; then the row says done, in one transaction
   with what makes it searchable.
3. Whoever opens the dig looks at rows that say running: where the lock is free, the process is gone. If its result
   is whole, the run was done; if not, it was interrupted.
"""

import json
import os
import platform
import re
import shutil
import sqlite3
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from digsite._core.errors import BadInput, explain
from digsite._core.files import NotWritten, write_whole
from digsite._core.provenance import command
from digsite._core.recording import MARKER, dig_around, recording_to
from digsite.artifacts import Result, load_result
from digsite.journal.findings import Findings
from digsite.journal.records import RUNS, STATUSES, RunRecord, now, record_of
from digsite.journal.schema import WAIT, opened
from digsite.journal.searching import Hit, indexed, refreshed, searched

_README = """# {title}

{question}
"""


class Dig:
    """A working folder: runs with their results, notes, findings, the daily log.

    Methods that are called inside `with dig:`, or while the working directory lies in the folder, are recorded. A dig
    is for one thread; several processes may write to it at once. Make one with `Dig.init`.

    Attributes:
        folder: Where it is.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).resolve()
        self.tables = opened(self.folder / MARKER)
        self._active: list[AbstractContextManager[None]] = []
        self._settle()

    @classmethod
    def init(cls, folder: str | Path, *, title: str = "", question: str = "") -> "Dig":
        """Make a dig.

        Args:
            folder: A folder, which is made if need be; files that are there stay.
            title: Of its pages; the folder's name unless given.
            question: What is asked in it, in a sentence.

        Raises:
            BadInput: There is a dig already.
            NotWritten: The place cannot be written.
        """
        folder = Path(folder).resolve()
        if (folder / MARKER).exists():
            raise BadInput(explain(f"{folder} is a dig already", do="open it with digsite.Dig(folder)"))
        if not (folder / "README.md").exists():
            write_whole(folder / "README.md", _README.format(title=title or folder.name, question=question or "…"))
        if not (folder / ".gitignore").exists():
            write_whole(folder / ".gitignore", f"{MARKER}-wal\n{MARKER}-shm\n*.lock\n")
        for part in ("runs", "notes", "log"):
            (folder / part).mkdir(exist_ok=True)
        opened(folder / MARKER, make=True).close()
        return cls(folder)

    @classmethod
    def here(cls, folder: str | Path | None = None) -> "Dig":
        """The dig that a folder, or the working directory, lies in.

        Raises:
            BadInput: There is none.
        """
        start = Path.cwd() if folder is None else Path(folder).resolve()
        found = dig_around(start)
        if found is None:
            raise BadInput(explain(f"{start} lies in no dig", do="digsite dig init makes one here"))
        return cls(found)

    @property
    def title(self) -> str:
        """The heading of its README."""
        try:
            first = (self.folder / "README.md").read_text(encoding="utf-8").lstrip().partition("\n")[0]
        except OSError:
            first = ""
        return first.lstrip("# ").strip() or self.folder.name

    @property
    def findings(self) -> Findings:
        """Claims, with what speaks for and against them."""
        return Findings(self)

    def __enter__(self) -> "Dig":
        block = recording_to(self)
        block.__enter__()
        self._active.append(block)
        return self

    def __exit__(self, *error: Any) -> None:
        self._active.pop().__exit__(*error)

    def close(self) -> None:
        """Let go of the file."""
        self.tables.close()

    # -- recording ---------------------------------------------------------------------------------------------------
    def begin(self, name: str, call: str) -> "Recording":
        """A method was called; see `digsite._core.recording`.

        Raises:
            NotWritten: The disk is full, or the dig cannot be written; the method is not begun.
        """
        short = re.sub(r"[^a-z0-9]+", "-", name.rpartition(".")[2].lower()).strip("-")
        about = {"method": name, "call": call, "command": command(), "status": "running", "started": now()}
        about |= {"folder": "", "host": platform.node(), "process": os.getpid()}
        about["place"] = os.path.relpath(Path.cwd(), self.folder) if self._holds(Path.cwd()) else str(Path.cwd())
        with self.writing():
            columns = f"({', '.join(about)}) VALUES ({', '.join(f':{column}' for column in about)})"
            number = self.tables.execute(f"INSERT INTO run {columns}", about).lastrowid
            assert number is not None
            folder = f"runs/{number:04d}-{short}"
            self.tables.execute("UPDATE run SET folder = ? WHERE id = ?", (folder, number))
            (self.folder / "runs").mkdir(exist_ok=True)
            # Taken before others can see the row, so that nobody thinks that its process is gone.
            lock = self._lock(number)
            lock.acquire(timeout=0)
        return Recording(self, number, self.folder / folder, lock)

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction; others wait. What is in it happens whole or not at all.

        Raises:
            NotWritten: The disk is full, the place is read-only, or another process does not stop writing.
        """
        try:
            self.tables.execute("BEGIN IMMEDIATE")
            try:
                yield self.tables
                self.tables.execute("COMMIT")
            except BaseException:
                if self.tables.in_transaction:
                    self.tables.execute("ROLLBACK")
                raise
        except (sqlite3.OperationalError, OSError) as error:
            if isinstance(error, NotWritten):
                raise
            do = "Free some space; what was there before is untouched"
            if "locked" in str(error):
                do = f"Another process has been writing for {WAIT:.0f} s; try again when it has ended"
            asked = f"{self.folder / MARKER} could not be written"
            raise NotWritten(explain(asked, found=str(error), do=do)) from error

    def _holds(self, folder: Path) -> bool:
        return folder == self.folder or self.folder in folder.parents

    def _lock(self, number: int) -> FileLock:
        return FileLock(self.folder / "runs" / f".{number:04d}.lock")

    def _settle(self) -> None:
        """3. Runs that say running whose process is gone."""
        for row in self.tables.execute("SELECT id, folder FROM run WHERE status = 'running'").fetchall():
            lock = self._lock(row["id"])
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            except OSError:  # a place that cannot be written: nothing is known of the process
                continue
            Recording(self, row["id"], self.folder / row["folder"], lock).left_behind()

    # -- runs --------------------------------------------------------------------------------------------------------
    def runs(
        self, *, status: str | None = None, tag: str | None = None, method: str | None = None, last: int | None = None
    ) -> list[RunRecord]:
        """What was tried, the newest first.

        Args:
            status: Only those of this status.
            tag: Only those with this tag.
            method: Only those of methods whose name holds this.
            last: No more than this many.

        Raises:
            BadInput: No such status.
        """
        if status is not None and status not in STATUSES:
            raise BadInput(explain(f"{status!r} is no status of a run", possible=STATUSES, near=status))
        wheres = {"run.status = ?": status, "run.id IN (SELECT run FROM tag WHERE name = ?)": tag}
        wheres["instr(run.method, ?)"] = method
        given = {where: value for where, value in wheres.items() if value is not None}
        where = f" WHERE {' AND '.join(given)}" if given else ""
        query = f"{RUNS}{where} ORDER BY run.id DESC LIMIT ?"
        rows = self.tables.execute(query, (*given.values(), -1 if last is None else last))
        return [record_of(row, self.folder) for row in rows]

    def run(self, number: int) -> RunRecord:
        """One run.

        Raises:
            BadInput: There is none of this number.
        """
        row = self.tables.execute(f"{RUNS} WHERE run.id = ?", (number,)).fetchone()
        if row is None:
            count = self.tables.execute("SELECT max(id) FROM run").fetchone()[0]
            possible = f"1 to {count}" if count else "this dig has none yet"
            raise BadInput(explain(f"There is no run {number}", possible=possible, do="digsite runs list shows them"))
        return record_of(row, self.folder)

    def result(self, number: int) -> Result:
        """What a run has given.

        Raises:
            BadInput: There is no such run, or it has given no result.
            LoadError: The result is broken.
        """
        record = self.run(number)
        if not (record.folder / "result.json").is_file():
            why = f"it is {record.status}" + (f": {record.error.splitlines()[0]}" if record.error else "")
            raise BadInput(explain(f"Run {number} has no result", found=why))
        return load_result(record.folder)

    def tag(self, number: int, *names: str) -> None:
        """Give words to a run.

        Raises:
            BadInput: There is no such run, or a word is empty or has a space.
        """
        self.run(number)
        if wrong := [name for name in names if not name or re.search(r"\s", name)]:
            raise BadInput(explain(f"{wrong[0]!r} is no tag", do="a tag is one word"))
        with self.writing() as tables:
            tables.executemany("INSERT OR IGNORE INTO tag VALUES (?, ?)", [(number, name) for name in names])
            self._index(number)

    def untag(self, number: int, *names: str) -> None:
        """Take words from a run."""
        self.run(number)
        with self.writing() as tables:
            tables.executemany("DELETE FROM tag WHERE run = ? AND name = ?", [(number, name) for name in names])
            self._index(number)

    def note(self, number: int, text: str) -> Path:
        """Write something down about a run; it goes to the end of `notes/run-0007.md`.

        Returns:
            The file, which is yours to edit.
        """
        record = self.run(number)
        file = self.folder / "notes" / f"run-{number:04d}.md"
        with FileLock(self.folder / "notes" / f".{file.name}.lock", timeout=WAIT):
            before = file.read_text(encoding="utf-8") if file.is_file() else f"# Run {number}: {record.method}\n"
            write_whole(file, f"{before.rstrip()}\n\n{text.strip()}\n")
        return file

    def repeats(self, number: int, earlier: int) -> None:
        """Say of a run that it repeats an earlier one, by the same command."""
        with self.writing() as tables:
            command = "(SELECT command FROM run WHERE id = :earlier)"
            sets = f"rerun_of = :earlier, command = {command}"
            tables.execute(f"UPDATE run SET {sets} WHERE id = :number", {"earlier": earlier, "number": number})

    def remove(self, number: int) -> None:
        """Forget a run, with its result; notes about it stay.

        Raises:
            BadInput: There is no such run, it is still running, or a finding rests on it.
        """
        record = self.run(number)
        if record.status == "running":
            raise BadInput(explain(f"Run {number} is still running", do="stop it first"))
        rests = "SELECT DISTINCT finding FROM evidence WHERE run = ?"
        if found := [str(row[0]) for row in self.tables.execute(rests, (number,))]:
            asked = f"Run {number} is evidence of finding {', '.join(found)}"
            raise BadInput(explain(asked, do="take it from the finding first, or keep it"))
        with self.writing() as tables:
            tables.execute("DELETE FROM run WHERE id = ?", (number,))
            indexed(tables, f"run/{number}", None)
        shutil.rmtree(record.folder, ignore_errors=True)

    # -- search ------------------------------------------------------------------------------------------------------
    def search(self, words: str, *, last: int = 20) -> list[Hit]:
        """Runs, findings, notes and days of the log in which all these words occur, the best first.

        Args:
            words: Words or beginnings of words.
            last: No more than this many.

        Raises:
            BadInput: No word is given.
        """
        with self.writing() as tables:
            refreshed(tables, self.folder)
        return searched(self.tables, words, last)

    def _index(self, number: int) -> None:
        run = self.run(number)
        words = (run.call, run.command, run.verdict, run.error, run.status, " ".join(run.tags))
        model = run.provenance.get("model")
        body = "\n".join(word for word in (*words, model) if word)
        indexed(self.tables, f"run/{number}", (f"Run {number}: {run.method}", body))


class Recording:
    """One method at work, of which the dig keeps a row."""

    def __init__(self, dig: Dig, number: int, folder: Path, lock: FileLock):
        self.dig, self.number, self.folder, self.lock = dig, number, folder, lock

    def done(self, result: Any) -> None:
        """2. The result, then the row. That a result cannot be written is a warning: the caller still has it."""
        about: dict[str, Any] = {"status": "done"}
        if isinstance(result, Result):
            about |= told(result)
            try:
                result.save(self.folder)
            except NotWritten as error:
                about |= {"status": "failed", "error": f"the result could not be written: {error}"}
        self._close(about)
        if about["status"] != "done":
            warnings.warn(f"run {self.number}: {about['error']}", stacklevel=3)

    def failed(self, error: BaseException) -> None:
        """An error, or the user."""
        stopped = isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit)
        self._close({"status": "interrupted" if stopped else "failed", "error": f"{type(error).__name__}: {error}"})

    def left_behind(self) -> None:
        """3. Its process is gone: done if its result is whole, else interrupted."""
        if self.dig.run(self.number).status != "running":  # somebody else was first
            self.lock.release()
            return
        about: dict[str, Any] = {"status": "interrupted", "error": "its process ended without a word"}
        if (self.folder / "result.json").is_file():
            about = {"status": "done", **told(load_result(self.folder))}
        for part in self.folder.parent.glob(f".{self.folder.name}.*.part"):
            shutil.rmtree(part, ignore_errors=True)
        self._close(about)

    def _close(self, about: dict[str, Any]) -> None:
        about = about | {"ended": now()}
        try:
            with self.dig.writing() as tables:
                sets = ", ".join(f"{column} = :{column}" for column in about)
                tables.execute(f"UPDATE run SET {sets} WHERE id = :id", about | {"id": self.number})
                self.dig._index(self.number)
        except NotWritten as error:
            # The row still says running; who opens the dig next will find the process gone, and the result or none.
            warnings.warn(f"run {self.number} is not closed in the dig: {error}", stacklevel=4)
        self.lock.release()
        Path(self.lock.lock_file).unlink(missing_ok=True)


def told(result: Result) -> dict[str, str]:
    """What the row of a run says of its result."""
    costs = {name: value for name, value in vars(result.cost).items() if value == value}
    return {
        "verdict": " ".join(result.verdict.split()),
        "provenance": json.dumps(result.provenance.to_dict(), ensure_ascii=False),
        "cost": json.dumps(costs),
    }


def numbers(words: Sequence[str]) -> list[int]:
    """Numbers of runs, as they are named on a command line: 7, or 0007-ablation.

    Raises:
        BadInput: A word that is none.
    """
    found = [re.match(r"(?:run[ /])?0*(\d+)", word) for word in words]
    if wrong := [word for word, match in zip(words, found, strict=True) if match is None]:
        raise BadInput(explain(f"{wrong[0]!r} is no number of a run", do="digsite runs list shows them"))
    return [int(match[1]) for match in found if match]
