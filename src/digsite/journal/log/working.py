"""What one does to the log in the course of a day: begin, end, note, set a goal, tick a task.

1. `now` carries its zone; its day is the day of the entry. The first thing that is written on a day makes the file.
2. A session ends in the entry in which it began: `07:30 +1` where that was yesterday.
3. Nothing is closed, moved or corrected silently. What does not fit is an error that says how to write what was meant.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

from digsite._core.errors import BadInput, explain
from digsite.journal.log.entry import Entry
from digsite.journal.log.folder import Log
from digsite.journal.log.judging import LONGEST
from digsite.journal.log.places import newline_of
from digsite.journal.log.times import Session, Time, spoken, zone_of
from digsite.journal.log.todo import Todo, complete, todos

_TEMPLATE = """---
date: {date}
zone: {zone}
title: ""
goal: ""
summary: ""
tags: []
project: []
sessions: []
---

## Asked

## Found

## Failed, and what it taught

## Next

"""


@dataclass(frozen=True, kw_only=True)
class RunLine:
    """A run of a method, as a line of the day on which it was made.

    Attributes:
        started: When it began, with its zone.
        id: What it is called by.
        title: What it did.
        status: How it ended.
    """

    started: datetime
    id: str
    title: str
    status: str


def start(log: Log, now: datetime, *, title: str = "", tags: Sequence[str] = (), projects: Sequence[str] = ()) -> Entry:
    """Begins a session, and the entry of the day where there is none.

    Args:
        log: The log.
        now: When it began, with its zone.
        title: What the day is about, where that is to be set.
        tags: Tags to add.
        projects: Projects to add.

    Raises:
        BadInput: A session is open already.
    """
    before = log.newest(now.date())
    if before is not None and (running := _open(before)) is not None:
        raise BadInput(_twice(before, running, now))

    def begin(entry: Entry) -> Entry:
        if (running := _open(entry)) is not None:
            raise BadInput(_twice(entry, running, now))
        return replace(
            entry,
            sessions=(*entry.sessions, Session(_shown(now, entry))),
            title=title or entry.title,
            tags=tuple(dict.fromkeys((*entry.tags, *tags))),
            projects=tuple(dict.fromkeys((*entry.projects, *projects))),
        )

    return log.change(now.date(), begin, new=template(now))


def stop(
    log: Log, now: datetime, *, at: Time | None = None, day: date | None = None, summary: str = ""
) -> tuple[Entry, Session]:
    """Ends the session that is open, in the entry in which it began.

    Args:
        log: The log.
        now: The time, with its zone.
        at: When it ended, where that was not now: today, or on the day that is named.
        day: The day of the entry in which it began.
        summary: What came of the day, where that is to be set.

    Returns:
        The entry, and the session that was ended.

    Raises:
        BadInput: No session is open, or it would have ended before it began or after more than 16 hours.
    """
    before = log.newest(now.date()) if day is None else log.entry(day)
    if before is None or _open(before) is None:
        where = "in the newest entry" if day is None else f"on {day}"
        do = "Begin one with: digsite log start, or add --at 10:40 for when it was begun"
        raise BadInput(explain(f"No session is open {where}", found="none" if before is None else before.file, do=do))
    if at is not None and day is None and not at.days:
        at = replace(at, days=(now.date() - before.date).days)

    ended: list[Session] = []

    def end(entry: Entry) -> Entry:
        running = _open(entry)
        if running is None:
            raise BadInput(
                explain(f"{entry.file} has no open session any more", do="Look at it with: digsite log today")
            )
        closed = replace(running, end=at or _shown(now, entry))
        _check_length(entry, closed, now)
        ended.append(closed)
        sessions = tuple(closed if session is running else session for session in entry.sessions)
        return replace(entry, sessions=sessions, summary=summary or entry.summary)

    return log.change(before.date, end, file=before.file), ended[-1]


def note(log: Log, now: datetime, text: str) -> Entry:
    """Writes a paragraph, or a task `- [ ] …`, at the end of the day's entry, verbatim."""

    def add(entry: Entry) -> Entry:
        newline = newline_of(entry.body)
        lines = entry.body.rstrip("\r\n").rsplit("\n", 1)
        list_goes_on = text.lstrip().startswith("- ") and lines[-1].lstrip().startswith("- ")
        ended = entry.body + newline * (bool(entry.body) and not entry.body.endswith("\n"))
        gap = "" if list_goes_on or not ended.strip() or ended.endswith(newline * 2) else newline
        return replace(entry, body=ended + gap + text.rstrip() + newline)

    return log.change(now.date(), add, new=template(now))


def goal(log: Log, now: datetime, text: str) -> Entry:
    """Sets the goal of the day; a further one is written behind it with a bar between."""
    text = " ".join(text.split())

    def add(entry: Entry) -> Entry:
        return replace(entry, goal=f"{entry.goal} | {text}" if entry.goal else text)

    return log.change(now.date(), add, new=template(now))


def tick(log: Log, now: datetime, words: str) -> Todo:
    """Ticks the one open task that has these words.

    Raises:
        BadInput: No open task has them, or several have.
    """
    open_ = [todo for todo in todos(log.entries()) if todo.completed is None]
    found = [todo for todo in open_ if words.casefold() in todo.text.casefold()]
    found = [todo for todo in found if words.casefold() == todo.text.casefold()] or found
    if len(found) != 1:
        asked = f"{'Several' if found else 'No'} open tasks have the words {words!r}"
        possible = [todo.text for todo in found or open_]
        raise BadInput(explain(asked, possible=possible or "no task is open", do="Give more of its words"))
    todo = found[0]
    entry = next(entry for entry in log.entries() if entry.file == todo.file)
    log.change(entry.date, lambda entry: complete(entry, todo, now.date()), file=todo.file)
    return replace(todo, completed=now.date())


def template(now: datetime) -> str:
    """The text of a new entry."""
    return _TEMPLATE.format(date=now.date(), zone=getattr(now.tzinfo, "key", '""'))


def moment(day: date, at: Time, zone: str) -> datetime:
    """The moment at which a clock in a zone showed a time.

    Raises:
        BadInput: It never did, or did twice.
    """
    instants = at.instants(day, zone_of(zone))
    if len(instants) != 1:
        found = f"{'two' if instants else 'no'} such moments in {zone}: the clocks were changed"
        choices = [str(at.with_offset(one.astimezone(zone_of(zone)))) for one in instants]
        do = f'Write "{choices[0]}" or "{choices[1]}"' if choices else "Write what the clock showed"
        raise BadInput(explain(f"{at} on {day} is not one moment", found=found, do=do))
    return instants[0].astimezone(zone_of(zone))


def _open(entry: Entry) -> Session | None:
    return next((session for session in reversed(entry.sessions) if session.end is None), None)


def _shown(now: datetime, entry: Entry) -> Time:
    """A moment as the entry writes it: by the clock of its own zone's people, or with the offset of another."""
    shown = Time.of(now, entry.date)
    zone = zone_of(entry.zone)
    other = zone is not None and now.astimezone(zone).utcoffset() != now.utcoffset()
    return shown.with_offset(now) if other else shown


def _check_length(entry: Entry, session: Session, now: datetime) -> None:
    """Refuses to write what would be asked about at once."""
    zone = zone_of(entry.zone)
    assert session.end is not None
    starts, ends = session.start.instants(entry.date, zone), session.end.instants(entry.date, zone)
    if len(ends) != 1:
        moment(entry.date, session.end, entry.zone)
    if not starts or not ends:
        return
    length = ends[0] - starts[0]
    how = f'digsite log stop --day {entry.date} --at "{session.end.hour:02}:{session.end.minute:02}"'
    if length < timedelta():
        asked = f"{session.end} is before {session.start}, when the session of {entry.date} began"
        raise BadInput(explain(asked, do=f'If it ended the next day: {how[:-1]} +1"'))
    if entry.zone and ends[0] > now:
        raise BadInput(explain(f"{session.end} on {entry.date} is still to come", do="Say the time at which it ended"))
    if length > LONGEST:
        asked = f"The session of {entry.date} that began at {session.start} would be {spoken(length)}"
        do = f"Say when it ended, on {entry.date}: digsite log stop --day {entry.date} --at 18:00"
        raise BadInput(explain(asked, do=do))


def _twice(entry: Entry, running: Session, now: datetime) -> str:
    is_today = entry.date == now.date()
    asked = f"A session is open already: it began at {running.start}{'' if is_today else f' on {entry.date}'}"
    do = "End it with: digsite log stop" + ("" if is_today else f" --day {entry.date} --at 18:00")
    return explain(asked, found=f"{entry.file}, line {running.line}", do=do)
