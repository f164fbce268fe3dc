"""How much, and how steadily.

1. The time is the sum of all sessions that are not asked about; those that are, and those that are open, are counted
   beside it, never as zero.
2. An entry is a file, a documented day is a day with an entry, a calendar day is any day from the first entry to today.
3. A day is worked on if its entry has a session that took any time, five minutes or ten hours; one in doubt counts. An
   hour after midnight belongs to the entry it is written in.
4. A streak is worked days without a gap. The current one may end yesterday: today is not over.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import NamedTuple

from digsite.journal.log.entry import Entry
from digsite.journal.log.judging import Flag, Work

_DAY = timedelta(days=1)


class Streak(NamedTuple):
    """Days in a row that were worked on."""

    days: int = 0
    first: date | None = None
    last: date | None = None

    def __str__(self) -> str:
        count = f"{self.days} day{'s' * (self.days != 1)}"
        return count if self.first == self.last else f"{count}, {self.first} to {self.last}"


@dataclass(frozen=True, kw_only=True)
class Totals:
    """The sums of a log.

    Attributes:
        today: The day up to which they were taken.
        time: Sum of all sessions that count.
        entries: Number of entries.
        documented: Number of days with an entry.
        calendar: Number of days from the first entry to today.
        worked: The days that were worked on, in order.
        current: The streak as of today.
        longest: The longest streak; of equal ones the latest.
        by_day: Time by day.
        by_tag: Time by tag, most first; an entry with several tags counts for each.
        by_project: Time by project, most first, in the same way.
        flags: Sessions that are asked about, and left out.
        running: Sessions that go on right now, and are not in the sum yet.
        target: What a day is meant to have; None for no target.
        below: Days before today that have less than the target, without those in question.
    """

    today: date
    time: timedelta
    entries: int
    documented: int
    calendar: int
    worked: tuple[date, ...]
    current: Streak
    longest: Streak
    by_day: dict[date, timedelta]
    by_tag: dict[str, timedelta]
    by_project: dict[str, timedelta]
    flags: tuple[Flag, ...]
    running: int
    target: timedelta | None
    below: tuple[date, ...]

    @property
    def share(self) -> float:
        """Documented days as a fraction of the calendar days."""
        return self.documented / self.calendar if self.calendar else 0.0


def totals(entries: Sequence[Entry], works: Sequence[Work], *, today: date, target: timedelta | None = None) -> Totals:
    """The sums of a log as of a day.

    Args:
        entries: The log.
        works: Its sessions as `judge` gave them.
        today: The day; an entry after it moves it.
        target: What a day is meant to have.
    """
    days = sorted({entry.date for entry in entries})
    today = max(today, days[-1]) if days else today
    by_day = dict.fromkeys(days, timedelta())
    by_tag = {name: timedelta() for entry in entries for name in entry.tags}
    by_project = {name: timedelta() for entry in entries for name in entry.projects}
    for work in works:
        by_day[work.entry.date] += work.length
        for names, sums in ((work.entry.tags, by_tag), (work.entry.projects, by_project)):
            for name in dict.fromkeys(names):
                sums[name] += work.length
    doubtful = {work.entry.date for work in works if work.flag is not None or work.is_running}
    worked = tuple(day for day in days if by_day[day] or day in doubtful)
    streaks = _streaks(worked)
    last = streaks[-1] if streaks else Streak()
    calendar = [days[0] + n * _DAY for n in range((today - days[0]).days + 1)] if days else []
    return Totals(
        today=today,
        time=sum((work.length for work in works), timedelta()),
        entries=len(entries),
        documented=len(days),
        calendar=len(calendar),
        worked=worked,
        current=last if last.last in (today, today - _DAY) else Streak(),
        longest=max(streaks, key=lambda streak: (streak.days, streak.last), default=Streak()),
        by_day=by_day,
        by_tag=_most_first(by_tag),
        by_project=_most_first(by_project),
        flags=tuple(work.flag for work in works if work.flag is not None),
        running=sum(work.is_running for work in works),
        target=target,
        below=() if target is None else tuple(_below(calendar[:-1], by_day, doubtful, target)),
    )


def _streaks(days: Sequence[date]) -> list[Streak]:
    found: list[Streak] = []
    for day in days:
        if found and found[-1].last == day - _DAY:
            found[-1] = Streak(found[-1].days + 1, found[-1].first, day)
        else:
            found.append(Streak(1, day, day))
    return found


def _below(
    calendar: Iterable[date], by_day: dict[date, timedelta], doubtful: set[date], target: timedelta
) -> Iterable[date]:
    return (day for day in calendar if day not in doubtful and by_day.get(day, timedelta()) < target)


def _most_first(sums: dict[str, timedelta]) -> dict[str, timedelta]:
    return dict(sorted(sums.items(), key=lambda pair: (-pair[1], pair[0])))
