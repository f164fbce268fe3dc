"""`digsite log`: what was done on which day, and for how long."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter, validators

from digsite._core.errors import BadInput, explain
from digsite._core.recording import MARKER, dig_around
from digsite.cli.outputs import Json, answers, columns, facts, note, opening, print_json

if TYPE_CHECKING:
    from digsite.journal.log import Entry, Flag, Log, LogSummary, RunLine

app = App(name="log", help="The daily log: hours, goals, notes and tasks, one Markdown file a day.")

Words = Annotated[str, Parameter(allow_leading_hyphen=True)]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Clock:
    """Which clock on the wall is meant.

    Attributes:
        zone: Its time zone, such as Europe/Zurich; this computer's unless given.
    """

    zone: str | None = None

    def now(self, at: str | None = None, day: str | None = None) -> datetime:
        """This moment, or the moment at which the clock showed a time, today or on a day.

        Raises:
            BadInput: It did not, or not yet.
        """
        from digsite.journal.log.times import Time, local_zone, zone_of
        from digsite.journal.log.working import moment

        zone = self.zone or local_zone()
        now = datetime.now(zone_of(zone))
        if at is None and day is None:
            return now
        if at is None:
            raise BadInput(explain(f"It is not said when on {day}", do="Add --at 10:40"))
        shown = moment(now.date() if day is None else _day(day), Time.parse(at), zone)
        if shown > now:
            do = "Say the time at which it was, with --day 2026-11-30 if that was not today"
            raise BadInput(explain(f"{shown:%Y-%m-%d %H:%M} in {zone} is still to come", do=do))
        return shown


HERE = Clock()


@app.command
def start(
    *,
    at: str | None = None,
    day: str | None = None,
    title: str = "",
    tag: tuple[str, ...] = (),
    project: tuple[str, ...] = (),
    clock: Clock = HERE,
) -> None:
    """Begins a session, and the entry of the day where there is none.

    Args:
        at: When it began, if that was not now: 10:40.
        day: The day on which it began, if that was not today: 2026-11-30.
        title: What the day is about.
        tag: A tag of the day; several may be given.
        project: What it is for; several may be given.
    """
    from digsite.journal.log import working

    entry = working.start(_log(), clock.now(at, day), title=title, tags=tag, projects=project)
    answers().print(f"started at {entry.sessions[-1].start}: {_place(entry)}", soft_wrap=True)


@app.command
def stop(*, at: str | None = None, day: str | None = None, summary: str = "", clock: Clock = HERE) -> None:
    """Ends the session that is open.

    Args:
        at: When it ended, if that was not now: 16:30; "07:30 +1" is of the day after --day.
        day: The day of the entry in which it began, if that is not the newest.
        summary: What came of the day.
    """
    from digsite.journal.log import Time, judge, spoken, working

    when = None if at is None else Time.parse(at)
    entry, ended = working.stop(_log(), clock.now(), at=when, day=None if day is None else _day(day), summary=summary)
    works = judge([entry])
    total = sum((work.length for work in works), timedelta())
    answers().print(f"{ended}; {spoken(total)} on {entry.date}: {_place(entry)}", soft_wrap=True)
    _ask([work.flag for work in works if work.flag is not None])


@app.command(name="note")
def note_(text: Words, /, *, clock: Clock = HERE) -> None:
    """Writes a paragraph at the end of today's entry, as it is given.

    Args:
        text: Markdown, with formulas if you like; "- [ ] read it again" is a task.
    """
    from digsite.journal.log import working

    answers().print(f"noted: {_place(working.note(_log(), clock.now(), text))}", soft_wrap=True)


@app.command
def goal(text: str, /, *, clock: Clock = HERE) -> None:
    """Sets the goal of today, or one more.

    Args:
        text: The goal; a bar stands between several: "read it | write the thesis".
    """
    from digsite.journal.log import working

    entry = working.goal(_log(), clock.now(), text)
    answers().print(f"goal: {entry.goal}\n{_place(entry)}", soft_wrap=True)


@app.command
def today(*, json: Json = False, clock: Clock = HERE) -> None:
    """Today's sessions, goals and runs."""
    from digsite.journal.log import summarise

    log, now = _log(), clock.now()
    entry = log.entry(now.date())
    if entry is None:
        raise BadInput(explain(f"There is no entry of {now.date()} yet", do="Begin it with: digsite log start"))
    seen = summarise([entry], now=now, runs=_runs(log))
    if json:
        print_json(_document(seen.days[0]))
        return
    day = seen.days[0]
    told = [(str(entry.date), entry.title), ("time", day.clock), ("sessions", ", ".join(map(str, entry.sessions)))]
    told += [("goal", goal) for goal in entry.goals] + [("summary", entry.summary)] * bool(entry.summary)
    told += [("run", f"{run.id} {run.title}, {run.status}") for run in day.runs]
    answers().print(facts(told))
    _ask(day.flags)


@app.command
def summary(
    *,
    newest: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 10,
    target: float | None = None,
    json: Json = False,
    clock: Clock = HERE,
) -> None:
    """Hours, days and streaks, and the pages README.md, tags.md, todo.md and index.html beside the entries.

    Args:
        newest: How many of the newest entries are shown.
        target: Hours that a day is meant to have; days with less are counted.
    """
    from digsite.journal.log import summarise, summary_page, tags_page, todo_page
    from digsite.journal.log.summary import facts as sums

    log = _log()
    goal = None if target is None else timedelta(hours=target)
    found = summarise(log.entries(), now=clock.now(), runs=_runs(log), newest=newest, target=goal)
    log.write_page("todo.md", todo_page(found.todos))
    log.write_page("tags.md", tags_page(found))
    log.write_page("README.md", summary_page(found))
    note("drawing index.html")
    from digsite.viz.log import log_report

    page = log.write_page("index.html", log_report(found).html())
    if json:
        told = {"verdict": found.verdict} | dict(sums(found.totals))
        shares = {"tags": _shares(found, "tag"), "projects": _shares(found, "project")}
        days = [_document(day) for day in found.days]
        print_json(told | shares | {"days": days, "flags": list(map(_flag, found.totals.flags)), "page": str(page)})
        return
    out = answers()
    out.print(found.verdict)
    out.print()
    out.print(_newest(found))
    out.print(f"page: {page}\nopen it: {opening(page)}", soft_wrap=True)


@app.command
def draft(
    *,
    endpoint: str,
    model: str,
    last: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 10,
    json: Json = False,
) -> None:
    """Drafts a sentence for days without a summary, by a language model that you name.

    The notes of those days are sent to the endpoint, and nowhere else. A draft is shown as one, with the model's name,
    until there is a summary.

    Args:
        endpoint: An address that speaks OpenAI's protocol, such as http://localhost:11434/v1; a key that it needs is
            read from OPENAI_API_KEY.
        model: The model's name there.
        last: At most so many of the newest such days.
    """
    from digsite.cli.drafting import drafts, wanting

    log = _log()
    days = wanting(log.entries(), last)
    note(f"the notes of {len(days)} {'day' if len(days) == 1 else 'days'} go to {endpoint}")
    made = []
    for entry in drafts(log, days, endpoint=endpoint, model=model):
        made.append({"date": str(entry.date), "drafted": entry.drafted, "file": entry.file})
        if not json:
            answers().print(f"{entry.date}  draft by {entry.drafted}", soft_wrap=True)
    if json:
        print_json({"drafts": made})


@app.command
def todo(
    *,
    add: str | None = None,
    done: str | None = None,
    tag: str | None = None,
    project: str | None = None,
    all: Annotated[bool, Parameter(help="Show those that are done too.")] = False,
    json: Json = False,
    clock: Clock = HERE,
) -> None:
    """The open tasks of all entries, with the day on which each was written down.

    Args:
        add: Write this task into today's entry.
        done: Tick the open task that has these words.
        tag: Only tasks of entries with this tag.
        project: Only tasks of entries of this project.
    """
    from digsite.journal.log import todos, working

    log = _log()
    if add is not None:
        working.note(log, clock.now(), f"- [ ] {' '.join(add.split())}")
    if done is not None:
        ticked = working.tick(log, clock.now(), done)
        note(f"done: {ticked.text} ({ticked.file})")
    shown = [one for one in todos(log.entries()) if all or one.completed is None]
    shown = [one for one in shown if tag in (None, *one.tags) and project in (None, *one.projects)]
    if json:
        told = [vars(one) | {"added": str(one.added), "completed": _said(one.completed)} for one in shown]
        print_json({"todos": told})
        return
    if not shown:
        answers().print("nothing to do")
        return
    table = columns("task", "added", *(("done",) if all else ()), left=3)
    for one in shown:
        table.add_row(one.text, str(one.added), *((_said(one.completed) or "–",) if all else ()))
    answers().print(table)


@app.command
def check(*, json: Json = False, clock: Clock = HERE) -> int | None:
    """Asks about every session that cannot be counted as it is written; exit code 1 if there is one."""
    from digsite.journal.log import flags
    from digsite.journal.log.summary import sum_with

    found = flags(_log().entries(), now=clock.now())
    if json:
        print_json({"flags": list(map(_flag, found))})
    elif not found:
        answers().print("every session can be counted")
    for flag in () if json else found:
        answers().print(f"{flag}\n  {sum_with(flag)}")
    return 1 if found else None


def _log() -> "Log":
    from digsite.journal.log import Log

    dig = dig_around(Path.cwd())
    if dig is None:
        raise BadInput(explain(f"{Path.cwd()} lies in no dig", do="digsite dig init makes one here"))
    return Log(dig / "log")


def _runs(log: "Log") -> list["RunLine"]:
    """The runs of the dig, read without what a result needs: a log is quick."""
    from digsite.journal.log import RunLine

    place = (log.folder.parent / MARKER).resolve().as_uri()
    with closing(sqlite3.connect(f"{place}?mode=ro", uri=True)) as tables:
        try:
            rows = tables.execute("SELECT started, id, method, status FROM run ORDER BY id").fetchall()
        except sqlite3.Error as error:
            note(f"the runs cannot be read: {error}")
            return []
    return [
        RunLine(started=datetime.fromisoformat(started).astimezone(), id=str(number), title=method, status=status)
        for started, number, method, status in rows
    ]


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise BadInput(explain("The day cannot be read", found=repr(text), do="Write it as 2026-11-30")) from None


def _place(entry: "Entry") -> str:
    return str(Path("log") / entry.file)


def _ask(flags: Sequence["Flag"]) -> None:
    for flag in flags:
        note(str(flag))


def _newest(found: "LogSummary") -> Any:
    table = columns("day", "time", "what", left=1)
    table.columns[2].justify = "left"
    for day in found.days:
        table.add_row(str(day.entry.date), day.clock, day.what)
    return table


def _shares(found: "LogSummary", kind: str) -> list[dict[str, Any]]:
    return [
        {"name": one.name, "minutes": round(one.time / timedelta(minutes=1)), "entries": len(one.days)}
        for one in found.shares
        if one.kind == kind
    ]


def _document(day: Any) -> dict[str, Any]:
    entry = day.entry
    return {
        "date": str(entry.date),
        "title": entry.title,
        "sessions": [{"in": str(one.start), "out": _said(one.end)} for one in entry.sessions],
        "minutes": round(day.time / timedelta(minutes=1)),
        "running": day.running,
        "goals": list(entry.goals),
        "summary": entry.summary,
        "drafted": entry.drafted,
        "tags": list(entry.tags),
        "projects": list(entry.projects),
        "runs": [{"id": run.id, "title": run.title, "status": run.status} for run in day.runs],
        "flags": list(map(_flag, day.flags)),
        "file": entry.file,
    }


def _flag(flag: "Flag") -> dict[str, Any]:
    minutes = {"adds": flag.adds, "total": flag.total, "total_with": flag.total_with}
    told = {name: None if one is None else round(one / timedelta(minutes=1)) for name, one in minutes.items()}
    about = {"kind": flag.kind, "file": flag.file, "line": flag.line, "date": str(flag.date)}
    about |= {"session": str(flag.session), "question": flag.question}
    return about | {f"{name}_minutes": value for name, value in told.items()}


def _said(value: object) -> str | None:
    return None if value is None else str(value)
