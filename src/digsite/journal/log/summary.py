"""The summary of a log: how much, how steadily, what is asked about, the newest entries, news, tasks.

`summarise` gathers it once; `summary_page`, `tags_page` and `todo_page` write it as Markdown, and `digsite.viz` as one
HTML page.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property
from typing import NamedTuple
from urllib.parse import quote

from digsite.journal.log.entry import Entry
from digsite.journal.log.folder import GENERATED
from digsite.journal.log.judging import Flag, Work, judge
from digsite.journal.log.sums import Totals, totals
from digsite.journal.log.times import spoken, zone_of
from digsite.journal.log.todo import Todo, todos
from digsite.journal.log.working import RunLine

OPEN_ON_FRONT = 10
"""Open tasks on the summary page; the page of tasks has all."""


@dataclass(frozen=True, kw_only=True)
class Day:
    """An entry with what was counted and run on its day.

    Attributes:
        entry: The entry.
        time: The sum of its sessions that count.
        flags: Its sessions that are asked about.
        running: Whether one of its sessions goes on right now.
        runs: The runs that were made on its day.
    """

    entry: Entry
    time: timedelta
    flags: tuple[Flag, ...]
    running: bool
    runs: tuple[RunLine, ...]

    @cached_property
    def clock(self) -> str:
        """Its time as `10:29`, with a question mark where some is in question and dots where it still runs."""
        minutes = round(self.time / timedelta(minutes=1))
        said = f"{minutes // 60}:{minutes % 60:02}"
        return said + " + ?" * bool(self.flags) + " …" * self.running

    @property
    def what(self) -> str:
        """What it was about, in the first words that are there."""
        return self.entry.title or self.entry.summary or self.entry.goal


class Share(NamedTuple):
    """A tag or a project, with the entries that have it, the newest first."""

    kind: str
    name: str
    time: timedelta
    days: tuple[Day, ...]

    @property
    def said(self) -> str:
        """How much it was, and when."""
        first, last = self.days[-1].entry.date, self.days[0].entry.date
        when = f"{last}" if first == last else f"{first} to {last}"
        return f"{spoken(self.time)} in {_counted(len(self.days), 'entry', 'entries')}, {when}"


def anchor(kind: str, name: str) -> str:
    """The name of the place on a page where the days of a tag or project are."""
    return f"{kind}-{'_'.join(name.split())}"


@dataclass(frozen=True, kw_only=True)
class LogSummary:
    """What a log says when it is read as a whole.

    Attributes:
        every: All entries, the newest first.
        newest: How many of them are shown.
        totals: The sums.
        updates: News: each entry that is marked, with its words, the newest first.
        todos: All tasks, open ones first.
        runs_elsewhere: Runs on days without an entry.
    """

    every: tuple[Day, ...]
    newest: int
    totals: Totals
    updates: tuple[tuple[Entry, str], ...]
    todos: tuple[Todo, ...]
    runs_elsewhere: tuple[RunLine, ...]

    @property
    def days(self) -> tuple[Day, ...]:
        """The newest entries, the newest first."""
        return self.every[: self.newest]

    @cached_property
    def shares(self) -> tuple[Share, ...]:
        """What the time was spent on: tags, then projects, those with most time first."""
        days: dict[tuple[str, str], list[Day]] = {}
        for day in self.every:
            named = [("tag", name) for name in day.entry.tags] + [("project", name) for name in day.entry.projects]
            for key in dict.fromkeys(named):
                days.setdefault(key, []).append(day)
        sums = (("tag", self.totals.by_tag), ("project", self.totals.by_project))
        return tuple(Share(kind, name, time, tuple(days[kind, name])) for kind, by in sums for name, time in by.items())

    @property
    def verdict(self) -> str:
        """The sums in two sentences; what was left out is said in them."""
        sums = self.totals
        if not sums.entries:
            return "The log is empty: begin it with `digsite log start`."
        first = (
            f"{spoken(sums.time)} in {_counted(sums.entries, 'entry', 'entries')}, on "
            f"{_counted(sums.documented, 'day')} of {sums.calendar:,} ({sums.share:.0%}); the streak is "
            f"{_counted(sums.current.days, 'day')} as of {sums.today}."
        )
        if sums.running:
            first += " A session is running and not counted yet."
        if sums.flags:
            verb = "is" if len(sums.flags) == 1 else "are"
            first += f" {_counted(len(sums.flags), 'session')} {verb} in question and left out."
        return first


def summarise(
    entries: Sequence[Entry],
    *,
    now: datetime,
    runs: Sequence[RunLine] = (),
    newest: int = 10,
    target: timedelta | None = None,
) -> LogSummary:
    """Reads a log as a whole.

    Args:
        entries: The log, in order of its days.
        now: The time, with its zone.
        runs: The runs of the dig, in order.
        newest: How many of the newest entries are shown.
        target: What a day is meant to have.
    """
    works = judge(entries, now=now)
    by_file: dict[str, list[Work]] = {}
    for work in works:
        by_file.setdefault(work.entry.file, []).append(work)
    zones = {entry.date: entry.zone for entry in entries}
    runs_of: dict[date, list[RunLine]] = {}
    elsewhere = []
    for run in runs:
        day = _day_of(run, zones)
        if day in zones:
            runs_of.setdefault(day, []).append(run)
        else:
            elsewhere.append(run)
    return LogSummary(
        every=tuple(
            _day(entry, by_file.get(entry.file, []), runs_of.get(entry.date, [])) for entry in reversed(entries)
        ),
        newest=newest,
        totals=totals(entries, works, today=now.date(), target=target),
        updates=tuple((entry, _news(entry)) for entry in reversed(entries) if _news(entry)),
        todos=tuple(todos(entries)),
        runs_elsewhere=tuple(elsewhere),
    )


def summary_page(summary: LogSummary) -> str:
    """The summary as Markdown, to lie as README.md beside the entries."""
    sums = summary.totals
    lines = [GENERATED, "", "# Daily log", "", summary.verdict, ""]
    lines += ["| | |", "|---|---|"] + [f"| {name} | {value} |" for name, value in facts(sums)] + [""]
    if sums.flags:
        lines += ["## In question", ""]
        lines += [f"- {_link(flag.file)}, line {flag.line}: {flag.question} {sum_with(flag)}" for flag in sums.flags]
        lines += [""]
    lines += ["## Newest entries", ""]
    for day in summary.days:
        lines += _entry(day)
    shares = summary.shares
    for title, kind in (("Tags", "tag"), ("Projects", "project")):
        rows = [one for one in shares if one.kind == kind]
        if rows:
            lines += [f"## {title}", "", "| | time | entries | last |", "|---|---|---|---|"]
            lines += [
                f"| {_label(kind, one.name)} | {spoken(one.time)} | {len(one.days):,} | {one.days[0].entry.date} |"
                for one in rows
            ] + [""]
    if summary.updates:
        lines += ["## Updates", ""] + [f"- {_link(one.file, one.date)}: {_text(news)}" for one, news in summary.updates]
        lines += [""]
    open_ = [todo for todo in summary.todos if todo.completed is None]
    if summary.todos:
        rest = f"[All {len(summary.todos):,}, with those done](todo.md)"
        lines += ["## To do", "", *map(_task, open_[:OPEN_ON_FRONT]), "", f"{len(open_):,} open. {rest}", ""]
    return "\n".join(lines)


def tags_page(summary: LogSummary) -> str:
    """The days of each tag and project as Markdown, to lie as tags.md beside the entries."""
    lines = [GENERATED, "", "# Days by tag and project", ""]
    for one in summary.shares:
        place = html.escape(anchor(one.kind, one.name))
        lines += [f'<a id="{place}"></a>', "", f"## {_text(one.name)} ({one.kind})", "", f"{one.said}.", ""]
        lines += ["| day | time | what |", "|---|---|---|"]
        lines += [f"| {_link(day.entry.file, day.entry.date)} | {day.clock} | {_cell(day.what)} |" for day in one.days]
        lines += [""]
    return "\n".join(lines if summary.shares else [*lines, "No entry has a tag or a project yet.", ""])


def todo_page(todos: Sequence[Todo]) -> str:
    """All tasks as Markdown, to lie as todo.md beside the entries."""
    open_ = [todo for todo in todos if todo.completed is None]
    done = [todo for todo in todos if todo.completed is not None]
    lines = [GENERATED, "", "# To do", "", f"{len(open_):,} open, {len(done):,} done.", ""]
    lines += [*map(_task, open_), ""] if open_ else []
    lines += ["## Done", "", *map(_task, done), ""] if done else []
    return "\n".join(lines)


def facts(sums: Totals) -> list[tuple[str, str]]:
    """The sums by name, as they are shown everywhere."""
    told = [
        ("Time", spoken(sums.time)),
        ("Entries", f"{sums.entries:,}"),
        ("Documented days", f"{sums.documented:,} of {sums.calendar:,} calendar days ({sums.share:.1%})"),
        ("Days worked on", f"{len(sums.worked):,}"),
        ("Streak now", str(sums.current)),
        ("Longest streak", str(sums.longest)),
    ]
    if sums.flags:
        told.append(("In question", f"{_counted(len(sums.flags), 'session')}, left out"))
    if sums.running:
        told.append(("Running", f"{_counted(sums.running, 'session')}, not counted yet"))
    if sums.target is not None:
        told.append((f"Days below {spoken(sums.target)}", f"{len(sums.below):,}"))
    return told


def sum_with(flag: Flag) -> str:
    """What the sum of the log is without a session in question, and would be with it."""
    without = f"The sum is {spoken(flag.total)} without it"
    return f"{without}." if flag.total_with is None else f"{without}, {spoken(flag.total_with)} with it."


def runs_on(entry: Entry, runs: Sequence[RunLine]) -> tuple[RunLine, ...]:
    """The runs that were made on the day of an entry, by the clock of its zone."""
    return tuple(run for run in runs if _local(run, entry.zone) == entry.date)


def _day(entry: Entry, works: Sequence[Work], runs: Sequence[RunLine]) -> Day:
    return Day(
        entry=entry,
        time=sum((work.length for work in works), timedelta()),
        flags=tuple(work.flag for work in works if work.flag is not None),
        running=any(work.is_running for work in works),
        runs=tuple(runs),
    )


def _day_of(run: RunLine, zones: dict[date, str]) -> date:
    """The day of a run by the clock of the entry that has it; by its own where none has."""
    own = run.started.date()
    near = (own, own - timedelta(1), own + timedelta(1))
    return next((day for day in near if day in zones and _local(run, zones[day]) == day), own)


def _local(run: RunLine, zone: str) -> date:
    return run.started.astimezone(zone_of(zone)).date() if zone else run.started.date()


def _news(entry: Entry) -> str:
    if entry.update.lower() in ("true", "yes"):
        return entry.summary or entry.title or "update"
    return "" if entry.update.lower() in ("false", "no") else entry.update


def _entry(day: Day) -> list[str]:
    entry = day.entry
    head = f"### {_link(entry.file, entry.date)} · {day.clock}" + (f" · {_text(entry.title)}" if entry.title else "")
    lines = [head, ""]
    lines += [f"- {_text(goal)}" for goal in entry.goals] + [""] * bool(entry.goals)
    lines += [_text(entry.summary), ""] if entry.summary else []
    lines += [f"*Draft by {_text(entry.drafted)}*", ""] if entry.drafted and not entry.summary else []
    labels = [_label("tag", name) for name in entry.tags] + [_label("project", name) for name in entry.projects]
    lines += [" · ".join(labels), ""] if labels else []
    lines += [f"- run `{run.id}`, {run.status}: {_text(run.title)}" for run in day.runs] + [""] * bool(day.runs)
    return lines


def _task(todo: Todo) -> str:
    done = "" if todo.completed is None else f", done {todo.completed}"
    mark = " " if todo.completed is None else "x"
    return f"- [{mark}] {todo.text} (added {todo.added}{done}; {_link(todo.file)})"


def _link(file: str, shown: object = "") -> str:
    return f"[{shown or file}](<{file}>)" if " " in file else f"[{shown or file}]({file})"


def _label(kind: str, name: str) -> str:
    return f"[{_cell(name)}](tags.md#{quote(anchor(kind, name))})"


def _cell(text: str) -> str:
    """Words in a cell of a table."""
    return _text(text).replace("|", "\\|")


def _text(text: str) -> str:
    """Words in one line of a page; formulas and links stay what they are."""
    return " ".join(text.split())


def _counted(n: int, one: str, many: str = "") -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}"
