"""The task lists of all entries as one list.

1. A task is a line `- [ ] …` or `- [x] …` in an entry, outside blocks of code. Equal words are the same task.
2. It was added on the day of the first entry that has it, and is done if the last one that has it says so. It was
   completed on the day of the first entry that ticks it after it was last open.
3. `(added 2026-11-30)` and `(done 2026-12-02)` behind a task, or the signs ➕ and ✅ with a date, say it outright.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date

from digsite._core.errors import BadInput, explain
from digsite.journal.log.entry import Entry
from digsite.journal.log.table import code_blocks

_TASK = re.compile(r"^[ \t]*(?:[-*+]|\d+[.)])[ \t]+\[([ xX])\][ \t]+(.*\S)", re.MULTILINE)
_SAID = re.compile(r"\s*\(?(added|done|➕|✅)[ \t]*(\d{4}-\d{2}-\d{2})\)?")


@dataclass(frozen=True, kw_only=True)
class Todo:
    """A task.

    Attributes:
        text: Its words, without its dates.
        added: The day it was first written down.
        completed: The day it was done; None while it is open.
        file: The name of the last file that has it.
        line: Its line there.
        tags: The tags of the entries that have it.
        projects: Their projects.
    """

    text: str
    added: date
    completed: date | None
    file: str
    line: int
    tags: tuple[str, ...] = ()
    projects: tuple[str, ...] = ()


def todos(entries: Iterable[Entry]) -> list[Todo]:
    """The tasks of a log: open ones first, the newest first; then those that are done, the last done first.

    Args:
        entries: The log, in order of its days.
    """
    found: dict[str, Todo] = {}
    for entry in entries:
        for task in _tasks(entry):
            key = " ".join(task.text.casefold().split())
            before = found.get(key)
            if before is not None:
                completed = before.completed if before.completed and task.completed else task.completed
                tags = tuple(dict.fromkeys((*before.tags, *task.tags)))
                projects = tuple(dict.fromkeys((*before.projects, *task.projects)))
                added = min(before.added, task.added)
                task = replace(task, added=added, completed=completed, tags=tags, projects=projects)
            found[key] = task
    opened = sorted((one for one in found.values() if one.completed is None), key=lambda one: one.added, reverse=True)
    done = [one for one in found.values() if one.completed is not None]
    return opened + sorted(done, key=lambda one: one.completed or one.added, reverse=True)


def complete(entry: Entry, todo: Todo, day: date) -> Entry:
    """An entry with a task of it ticked.

    Args:
        entry: The entry whose file the task names.
        todo: The task.
        day: The day it was done; written behind it where that is another than the entry's.

    Raises:
        BadInput: The task is not where it was.
    """
    lines = entry.body.split("\n")
    at = todo.line - entry.body_line
    if not 0 <= at < len(lines) or "[ ]" not in lines[at] or todo.text not in lines[at]:
        asked = f"{todo.file} has changed: its line {todo.line} is not the task any more"
        raise BadInput(explain(asked, found=lines[at] if 0 <= at < len(lines) else "no such line", do="Try again"))
    line = lines[at].replace("[ ]", "[x]", 1)
    ending = "\r" * line.endswith("\r")
    lines[at] = line.removesuffix("\r") + f" (done {day})" * (day != entry.date) + ending
    return replace(entry, body="\n".join(lines))


def _tasks(entry: Entry) -> Iterable[Todo]:
    if "[ ]" not in entry.body and "[x]" not in entry.body and "[X]" not in entry.body:
        return
    blocks = code_blocks(entry.body)
    for task in _TASK.finditer(entry.body):
        if any(first <= task.start() <= last for first, last in blocks):
            continue
        said = {"➕": "added", "✅": "done"}
        dates = {said.get(word, word): _date(day) for word, day in _SAID.findall(task[2])}
        completed = None if task[1] == " " else dates.get("done") or entry.date
        yield Todo(
            text=_SAID.sub("", task[2]).strip(),
            added=dates.get("added") or entry.date,
            completed=completed,
            file=entry.file,
            line=entry.body_line + entry.body.count("\n", 0, task.start()),
            tags=entry.tags,
            projects=entry.projects,
        )


def _date(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None
