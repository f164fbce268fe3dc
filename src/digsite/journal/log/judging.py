"""Sessions that cannot be counted as they are written: each is asked about, none is clipped or guessed.

1. Each session gets its instants. One that is open, that has a time which no clock showed or which was shown twice,
   that ends before it begins or takes longer than 16 hours, is flagged.
2. Those that are left are put in order over all days. One that begins before an earlier one has ended is flagged: the
   later of the two, so that no hour counts twice and no good session is lost with a bad one.
3. What is flagged is left out of every sum. Its flag says what the sum is without it and what it would be with it.

The one session that runs right now is open and not flagged.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import Literal

from digsite.journal.log.entry import Entry
from digsite.journal.log.times import Session, Time, spoken, zone_of

Kind = Literal[
    "open", "never shown", "shown twice", "ends before it begins", "longer than 16 h", "overlap", "overlaps another day"
]
LONGEST = timedelta(hours=16)


@dataclass(frozen=True, kw_only=True)
class Flag:
    """A session that is asked about.

    Attributes:
        kind: What is the matter.
        file: The name of the file.
        line: The line of the session in it.
        date: The day of the entry.
        session: The session.
        question: What to answer, and how to write the answer.
        adds: How long it is if it is right as it is meant in the question; None where nobody can tell.
        total: The sum over all entries without every flagged session.
        total_with: That sum with this one.
    """

    kind: Kind
    file: str
    line: int
    date: date
    session: Session
    question: str
    adds: timedelta | None
    total: timedelta = timedelta()

    @property
    def total_with(self) -> timedelta | None:
        """The sum over all entries with this session; None where nobody can tell."""
        return None if self.adds is None else self.total + self.adds

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.question}"


@dataclass(frozen=True, kw_only=True)
class Work:
    """A session with how long it was.

    Attributes:
        entry: The entry it belongs to.
        session: The session.
        start: When it began, None where that is in doubt.
        end: When it ended, None where it is open or that is in doubt.
        flag: Why it is not counted; None where it is.
    """

    entry: Entry
    session: Session
    start: datetime | None
    end: datetime | None
    flag: Flag | None = None

    @cached_property
    def length(self) -> timedelta:
        """How long it counts."""
        return timedelta() if self.flag or self.start is None or self.end is None else self.end - self.start

    @property
    def is_running(self) -> bool:
        """Whether it is open because it goes on right now."""
        return self.session.end is None and self.flag is None


def judge(entries: Iterable[Entry], *, now: datetime | None = None) -> tuple[Work, ...]:
    """Every session with its length, or with the question it raises.

    Args:
        entries: The log.
        now: The time, with its zone; without it every open session is asked about.
    """
    works = [_alone(entry, session) for entry in entries for session in entry.sessions]
    works = _with_running(works, now)
    works = _with_overlaps(works)
    total = sum((work.length for work in works), timedelta())
    return tuple(work if work.flag is None else replace(work, flag=replace(work.flag, total=total)) for work in works)


def flags(entries: Iterable[Entry], *, now: datetime | None = None) -> list[Flag]:
    """The sessions that are asked about, in the order of the log.

    Args:
        entries: The log.
        now: The time, with its zone; without it every open session is asked about.
    """
    return [work.flag for work in judge(entries, now=now) if work.flag is not None]


def _alone(entry: Entry, session: Session) -> Work:
    """A session judged by itself (step 1)."""
    zone = zone_of(entry.zone)
    starts = session.start.instants(entry.date, zone)
    ends = () if session.end is None else session.end.instants(entry.date, zone)
    written = ((session.start, starts),) if session.end is None else ((session.start, starts), (session.end, ends))
    work = Work(entry=entry, session=session, start=_only(starts), end=_only(ends))
    for shown, instants in written:
        if len(instants) != 1:
            return replace(work, flag=_changed_clocks(entry, session, shown, instants))
    if session.end is None:
        question = f"{session} has no end. When was it over?"
        return replace(work, flag=_flag("open", entry, session, question, None))
    assert work.start is not None
    assert work.end is not None
    if work.end < work.start:
        return replace(work, flag=_backwards(entry, session, work.start))
    if (length := work.end - work.start) > LONGEST:
        question = f"{session} would be {spoken(length)}. Is a time mistyped, or was there a break?"
        return replace(work, flag=_flag("longer than 16 h", entry, session, question, length))
    return work


def _changed_clocks(entry: Entry, session: Session, shown: Time, instants: Sequence[datetime]) -> Flag:
    if not instants:
        question = f"No clock in {entry.zone} showed {shown}: the hour was skipped. What did it show?"
        return _flag("never shown", entry, session, question, None)
    zone = zone_of(entry.zone)
    first, second = (str(shown.with_offset(instant.astimezone(zone))) for instant in instants)
    question = f'Clocks in {entry.zone} showed {shown} twice. Was it "{first}" or, an hour later, "{second}"?'
    return _flag("shown twice", entry, session, question, None)


def _backwards(entry: Entry, session: Session, start: datetime) -> Flag:
    assert session.end is not None
    later = replace(session.end, days=session.end.days + 1)
    instants = later.instants(entry.date, zone_of(entry.zone))
    adds = instants[0] - start if len(instants) == 1 and instants[0] >= start else None
    meant = "" if adds is None else f' Did it end the next day, after {spoken(adds)}? Then write out: "{later}".'
    question = f"{session} ends before it begins.{meant} Or is a time mistyped?"
    return _flag("ends before it begins", entry, session, question, adds)


def _with_running(works: list[Work], now: datetime | None) -> list[Work]:
    """The last session of all, if it is open and began at most 16 hours ago, is no question."""
    begun = [work for work in works if work.start is not None]
    if now is None or not begun:
        return works
    last = max(begun, key=lambda work: work.start or datetime.min.replace(tzinfo=UTC))
    here = now if last.entry.zone or last.session.start.offset else now.replace(tzinfo=UTC)
    assert last.start is not None
    if last.session.end is None and timedelta() <= here - last.start <= LONGEST:
        return [replace(work, flag=None) if work is last else work for work in works]
    return works


def _with_overlaps(works: list[Work]) -> list[Work]:
    """Those that begin before an earlier one has ended (step 2)."""
    order = [(work.start, at) for at, work in enumerate(works) if work.flag is None and work.start and work.end]
    before: Work | None = None
    for start, at in sorted(order):
        work = works[at]
        if before is not None and before.end is not None and start < before.end:
            works[at] = replace(work, flag=_overlap(work, before))
        elif before is None or before.end is None or (work.end is not None and work.end > before.end):
            before = work
    return works


def _overlap(work: Work, before: Work) -> Flag:
    assert work.start and work.end and before.end
    shared = spoken(min(work.end, before.end) - work.start)
    same = work.entry.date == before.entry.date
    other = f"{before.session}" if same else f"{before.session} of {before.entry.date}"
    question = f"{work.session} and {other} share {shared}. Which of them is wrong?"
    kind: Kind = "overlap" if same else "overlaps another day"
    return _flag(kind, work.entry, work.session, question, work.end - work.start)


def _flag(kind: Kind, entry: Entry, session: Session, question: str, adds: timedelta | None) -> Flag:
    return Flag(
        kind=kind,
        file=entry.file,
        line=session.line,
        date=entry.date,
        session=session,
        question=question,
        adds=adds,
    )


def _only(instants: Sequence[datetime]) -> datetime | None:
    return instants[0] if len(instants) == 1 else None
