"""A day of the log, and the Markdown file it is read from and written to.

1. What a file says is read from its front matter; the times may stand in a table `| In | Out |` instead, and a file
   without front matter says the rest in its heading and in lines such as `**Goal:** …`.
2. Everything that cannot be read is collected, and said once with file, line, what was found and what to do.
3. A change rewrites the characters of what has changed. All others stay byte for byte, and with them the form of the
   file: comments, order, unknown keys, columns, line ends, and the text below.
4. What was written is read again before it counts: text that would not say what is meant is refused.
"""

from dataclasses import dataclass, field, fields, replace
from datetime import date
from pathlib import Path
from typing import NamedTuple

from digsite._core.errors import BadInput, explain
from digsite.journal.log.front import Front, read_front
from digsite.journal.log.places import Edit, Problem, Slot, apply, end_of_line, line_of, newline_of
from digsite.journal.log.table import MAY_HAVE_TIMES, Table, plain_lines, read_labels, read_table, read_title
from digsite.journal.log.times import Session, zone_of

_ALSO = {"goals": "goal", "projects": "project", "timezone": "zone", "updates": "update"}
_TEXTS = ("title", "zone", "goal", "summary", "update", "drafted")
_SLOTS = ("date", *_TEXTS)
_SAID = (*_TEXTS, "sessions", "tags", "projects")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A day of the log.

    Attributes:
        date: The day.
        title: What the day was about.
        zone: The time zone of its times, such as `Europe/Zurich`; empty where clocks are never changed.
        sessions: When work was done.
        goal: What was meant to be done, its parts separated by bars.
        summary: What came of it.
        tags: What it was about, word by word; the time counts for each.
        projects: What it was for; the time counts for each.
        update: News for the summary page; `true` stands for the summary of the day.
        drafted: What a language model wrote where there was no summary: its name, a colon, a sentence.
        body: Everything below the front matter, verbatim; all of a file that has none.
        path: The file; None where it was not read from one.
        body_line: The line of the file on which the body begins.
    """

    date: date
    title: str = ""
    zone: str = ""
    sessions: tuple[Session, ...] = ()
    goal: str = ""
    summary: str = ""
    tags: tuple[str, ...] = ()
    projects: tuple[str, ...] = ()
    update: str = ""
    drafted: str = ""
    body: str = field(default="", repr=False)
    path: Path | None = field(default=None, compare=False)
    body_line: int = field(default=1, compare=False)

    @property
    def goals(self) -> tuple[str, ...]:
        """The parts of the goal."""
        return tuple(filter(None, (part.strip() for part in self.goal.split("|"))))

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{self.date}.md" if self.path is None else self.path.name


class _Read(NamedTuple):
    """An entry with where everything in its text stands."""

    entry: Entry
    front: Front | None
    table: Table | None
    slots: dict[str, Slot]


def read_entry(text: str, path: str | Path) -> Entry:
    """What the text of a file says.

    Args:
        text: The text, with its line ends as they are.
        path: The file; its name begins with the day, where the text does not say it.

    Raises:
        BadInput: Something cannot be read; all such places are named.
    """
    return _read(text, path if isinstance(path, Path) else Path(path)).entry


def write_entry(entry: Entry, text: str) -> str:
    """The text of a file with what an entry says now; everything that has not changed stays byte for byte.

    Args:
        entry: What it is to say.
        text: The text so far.

    Raises:
        BadInput: The text so far cannot be read, or its form cannot say this.
    """
    path = entry.path or Path(entry.file)
    was = _read(text, path)
    if entry.body != was.entry.body:
        same = [name for name in _SAID if getattr(entry, name) == getattr(was.entry, name)]
        text = text[: 0 if was.front is None else was.front.body] + entry.body
        was = _read(text, path)
        # A heading or a table of the new body may say what was not said before.
        entry = replace(entry, **{name: getattr(was.entry, name) for name in same})
    written = apply(text, _edits(was, entry, text))
    now, wanted = replace(_read(written, path).entry, body=""), replace(entry, body="")
    if now != wanted:
        wrong = [one.name for one in fields(Entry) if getattr(now, one.name) != getattr(wanted, one.name)]
        asked = f"{path.name} cannot say this: {', '.join(wrong)}"
        raise BadInput(explain(asked, found=repr(getattr(wanted, wrong[0])), do="Write it in one line, without marks"))
    return written


def _read(text: str, path: Path) -> _Read:
    problems: list[Problem] = []
    front = read_front(text, problems)
    if front is not None:
        for name, known in _ALSO.items():
            if name in front.nodes:
                front.nodes.setdefault(known, front.nodes[name])
    body = 0 if front is None else front.body
    may_have_times = MAY_HAVE_TIMES.search(text, body) is not None
    needs_lines = front is None or may_have_times or "title" not in front.nodes
    lines = plain_lines(text, body) if needs_lines else []
    table = read_table(text, lines, problems) if may_have_times else None
    slots: dict[str, Slot | None] = {}
    if front is None:
        slots = dict(read_labels(lines))
    else:
        slots = {name: front.slot(name, problems) for name in _SLOTS if name in front.nodes}
    told = {name: slot.value for name, slot in slots.items() if slot is not None}
    if "title" not in told and (heading := read_title(lines)) is not None and heading.value != path.stem:
        slots["title"], told["title"] = heading, heading.value
    entry = Entry(
        date=_day(told.get("date", ""), path, problems),
        sessions=_sessions(front, table, problems),
        tags=_parts("tags", front, told, problems),
        projects=_parts("project", front, told, problems),
        body=text[body:],
        path=path,
        body_line=line_of(text, body),
        **{name: told.get(name, "") for name in _TEXTS},
    )
    try:
        zone_of(entry.zone)
    except BadInput:
        at = slots["zone"]
        do = "Write a name such as Europe/Zurich or UTC"
        problems.append(Problem(0 if at is None else at.start, "There is no such time zone", repr(entry.zone), do))
    if problems:
        raise BadInput("\n".join(_explained(problem, text, path) for problem in sorted(problems)))
    return _Read(entry, front, table, {name: slot for name, slot in slots.items() if slot is not None})


def _sessions(front: Front | None, table: Table | None, problems: list[Problem]) -> tuple[Session, ...]:
    above = () if front is None else tuple(row.session for row in front.sessions(problems))
    below = () if table is None else tuple(row.session for row in table.rows)
    if above and below and above != below and table is not None:
        found = f"{', '.join(map(str, above))} above and {', '.join(map(str, below))} in the table"
        problems.append(
            Problem(table.lines[0][0], "The times are written twice, and differ", found, "Keep one of them")
        )
    return above or below


def _parts(name: str, front: Front | None, told: dict[str, str], problems: list[Problem]) -> tuple[str, ...]:
    if front is not None:
        return front.words(name, problems)
    return tuple(filter(None, (part.strip(" #") for part in told.get(name, "").split(","))))


def _day(told: str, path: Path, problems: list[Problem]) -> date:
    """The day that the file is called by and says; both are the same where there are both."""
    found = []
    for text in (told[:10], path.stem[:10]):
        try:
            found.append(date.fromisoformat(text))
        except ValueError:
            continue
    if told and (not found or str(found[0]) != told[:10]):
        problems.append(Problem(0, "The date cannot be read", repr(told), "Write it as 2026-11-30"))
    elif not found:
        problems.append(
            Problem(0, "The file has no date", path.name, "Call it 2026-11-30.md, or write date: 2026-11-30")
        )
    elif len(set(found)) > 1:
        do = "Give the file the name of its day, or mend the date in it"
        problems.append(
            Problem(0, "The file is called by another day than it says", f"{path.stem[:10]} and {told}", do)
        )
    return found[0] if found else date.min


def _explained(problem: Problem, text: str, path: Path) -> str:
    asked = f"{path.name}, line {line_of(text, problem.at)}: {problem.asked}"
    return explain(asked, found=problem.found, do=problem.do)


def _edits(was: _Read, entry: Entry, text: str) -> list[Edit]:
    # Rows of a table come before the lines that are written below it.
    edits = _set_sessions(was, entry, text) if entry.sessions != was.entry.sessions else []
    for name in _TEXTS:
        value = getattr(entry, name)
        if value != getattr(was.entry, name):
            edits.append(_set(was, name, value, text))
    for name, old, new in (("tags", was.entry.tags, entry.tags), ("project", was.entry.projects, entry.projects)):
        if old != new:
            edits.append(_set(was, name, ", ".join(new), text) if was.front is None else was.front.set_words(name, new))
    return edits


def _set(was: _Read, name: str, value: str, text: str) -> Edit:
    """Writes a text: in the front matter, else where it stands, else in a line below the table or heading."""
    if was.front is not None:
        return was.front.set(name, value)
    slot = was.slots.get(name)
    if slot is not None:
        space = "" if slot.stop > slot.start or text[slot.start - 1 : slot.start] in (" ", "\t") else " "
        return Edit(slot.start, slot.stop, space + value)
    newline = newline_of(text)
    if name == "title":
        return Edit(0, 0, f"# {value}{newline}{newline}")
    at = end_of_line(text, was.slots["title"].stop) if "title" in was.slots else 0
    at = at if was.table is None else was.table.stop
    before = "" if text[at - 1 : at] in ("\n", "") else newline
    return Edit(at, at, f"{before}{newline}**{name.capitalize()}:** {value}{newline}")


def _set_sessions(was: _Read, entry: Entry, text: str) -> list[Edit]:
    edits: list[Edit] = []
    rows = [] if was.front is None else was.front.sessions([])
    if was.front is not None and (rows or was.table is None):
        edits += was.front.set_sessions(rows, entry.sessions)
    if was.table is not None:
        edits += was.table.set_sessions(text, entry.sessions)
    if edits:
        return edits
    newline = newline_of(text)
    rows_ = "".join(f"| {one.start} | {one.end or ''} |{newline}" for one in entry.sessions)
    at = end_of_line(text, was.slots["title"].stop) if "title" in was.slots else 0
    before = newline * 2 if at else ""
    return [Edit(at, at, f"{before}| In | Out |{newline}|---|---|{newline}{rows_}{newline}")]
