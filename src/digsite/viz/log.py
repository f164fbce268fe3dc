"""The page of a daily log: the sums, what is asked about, the newest entries, time by tag, news and tasks."""

from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from typing import NamedTuple

import polars as pl
from markupsafe import Markup

from digsite.journal.log.summary import OPEN_ON_FRONT, LogSummary, anchor, facts, sum_with
from digsite.journal.log.times import spoken
from digsite.journal.log.todo import Todo
from digsite.viz.axes import scale_for
from digsite.viz.canvas import Canvas, Look, drawing, tile, title_lines
from digsite.viz.figure import Figure
from digsite.viz.html import render
from digsite.viz.labels import widest
from digsite.viz.page import Part, Report, Section
from digsite.viz.table import Chip
from digsite.viz.theme import LIGHT

DAYS, STEP, HEIGHT = 56, 10.0, 110.0
HOUR = timedelta(hours=1)
CODE = "digsite log summary"


class _Item(NamedTuple):
    """A line of a list: what it says, and what is said of it in small letters."""

    text: str
    meta: str = ""


def log_report(summary: LogSummary) -> Report:
    """The page of a daily log."""
    sums = summary.totals
    sections = [
        _sums(summary),
        _questions(summary),
        Section(title="The newest entries", body=(render("days.html", days=summary.days, anchor=anchor),)),
        _shares(summary),
        _news(summary),
        _tasks(summary),
    ]
    return Report(
        kind="Daily log",
        title="What was done, and for how long?",
        verdict=summary.verdict,
        meta=(f"{sums.entries:,} entries", f"as of {sums.today}"),
        sections=tuple(section for section in sections if section is not None),
        command=CODE,
    )


@drawing()
def hours_figure(summary: LogSummary) -> Figure:
    """The hours of each of the last eight weeks' days, and the days that are in question."""
    sums = summary.totals
    days = [sums.today - timedelta(ago) for ago in reversed(range(DAYS))]
    doubtful = {flag.date for flag in sums.flags}
    hours = [sums.by_day.get(day, timedelta()) / HOUR for day in days]
    target = None if sums.target is None else sums.target / HOUR
    scale = scale_for([0.0, *hours, target or 0.0], unit="", count=3, at_least=(0.0, 1.0))
    left, width = widest(scale.labels) + 12, STEP * DAYS
    title = "Hours of each day, last eight weeks"
    heading, top = title_lines(title, left + width)
    top += 14  # room for a question mark
    canvas = Canvas(left + width + 4, top + HEIGHT + 22)
    canvas.title(heading, top)
    plot = canvas.plot(left, top, width, HEIGHT, x=(0, DAYS), y=(scale.low, scale.high))
    for step, label in zip(scale.steps, scale.labels, strict=True):
        plot.axhline(step, color=LIGHT.line, linewidth=1.6 if step == 0 else 0.9, zorder=0, clip_on=False)
        canvas.text(left - 10, scale.place(step, top + HEIGHT, -HEIGHT), label, colour=LIGHT.soft, across="right")
    for at, (day, time) in enumerate(zip(days, hours, strict=True)):
        said = f"{day:%A} {day}: {spoken(time * HOUR) if day in sums.by_day else 'no entry'}"
        # What cannot be seen can still be reached: a day without time keeps a sliver.
        bar = tile(plot, (at + 0.15, 0, 0.7, max(time, scale.high / HEIGHT)), Look(fill=_fill(time)))
        canvas.mark(bar, said + (", and some in question" if day in doubtful else ""))
        if day in doubtful:
            over = scale.place(max(time, target or 0.0), top + HEIGHT, -HEIGHT) - 8
            canvas.text(left + STEP * (at + 0.5), over, "?", across="center")
        if day.weekday() == 0 and at <= DAYS - 4:
            canvas.text(left + STEP * at, top + HEIGHT + 13, f"{day:%m-%d}", colour=LIGHT.soft)
    if target is not None:
        plot.axhline(target, color=LIGHT.soft, linewidth=1.0, linestyle=(0, (4, 3)), clip_on=False)
    data = {"day": days, "hours": hours, "in question": [day in doubtful for day in days]}
    return Figure(
        title=title, caption=_said(summary, doubtful & set(days)), data=pl.DataFrame(data), code=CODE, canvas=canvas
    )


def _fill(time: float) -> str:
    return LIGHT.mark if time else LIGHT.line


def _said(summary: LogSummary, doubtful: set[date]) -> str:
    said = "The dates are Mondays."
    if summary.totals.target is not None:
        said += f" Dashed: the target of {spoken(summary.totals.target)}."
    if doubtful:
        said += " A question mark: some of the day is in question, and not in its bar."
    return said


def _sums(summary: LogSummary) -> Section:
    sums = summary.totals
    body: list[Part] = [render("facts.html", facts=facts(sums))]
    if sums.entries:
        body.append(hours_figure(summary))
    if sums.below and sums.target is not None:
        days = ", ".join(str(day) for day in sums.below[-14:])
        body.append(f"The last days below {spoken(sums.target)}: {days}.")
    return Section(title="How much, and how steadily", body=tuple(body))


def _questions(summary: LogSummary) -> Section | None:
    flags = summary.totals.flags
    if not flags:
        return None
    items = [_Item(f"`{flag.file}`, line {flag.line}: {flag.question}", sum_with(flag)) for flag in flags]
    said = "These sessions are left out of every sum until their entries say what was meant."
    chip = Chip(f"{len(flags)} left out", "open")
    return Section(title="In question", chips=(chip,), body=(said, _list(items)))


def _shares(summary: LogSummary) -> Section | None:
    shares = summary.shares
    if not shares:
        return None
    most = max(one.time for one in shares) or HOUR
    body: list[Part] = []
    for title, kind in (("Tags", "tag"), ("Projects", "project")):
        of_kind = [one for one in shares if one.kind == kind]
        if of_kind:
            body.append(render("shares.html", title=title, shares=of_kind, most=most, anchor=anchor))
    body.append(
        "Open one to see its days. An entry with several tags counts for each, so these are more than the whole."
    )
    return Section(title="Time by tag and project", body=tuple(body))


def _news(summary: LogSummary) -> Section | None:
    if not summary.updates:
        return None
    return Section(title="Updates", body=(_list(_Item(news, str(entry.date)) for entry, news in summary.updates),))


def _tasks(summary: LogSummary) -> Section | None:
    if not summary.todos:
        return None
    open_ = [todo for todo in summary.todos if todo.completed is None]
    done = [todo for todo in summary.todos if todo.completed is not None]
    body: list[Part] = [_list(map(_task, open_[:OPEN_ON_FRONT]))]
    for title, rest in ((f"{len(open_) - OPEN_ON_FRONT:,} more", open_[OPEN_ON_FRONT:]), (f"{len(done):,} done", done)):
        if rest:
            body.append(render("folded.html", title=title, inner=_list(map(_task, rest))))
    return Section(title="To do", chips=(Chip(f"{len(open_):,} open"),), body=tuple(body))


def _task(todo: Todo) -> _Item:
    done = "" if todo.completed is None else f", done {todo.completed}"
    return _Item(todo.text, f"added {todo.added}{done}")


def _list(items: Iterable[_Item] | Sequence[_Item]) -> Markup:
    return render("list.html", items=list(items))
