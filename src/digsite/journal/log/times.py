"""Times of a day as people write them, and how long it is from one to another.

1. A time is what a clock on the wall showed on the day of the entry: `10:40`. `07:30 +1` is of the next day. An offset
   from UTC, `02:30+02:00`, settles which of two equal hours is meant, or that the clock hung in another zone.
2. A session goes from one time to another; it is open while it has only the first.
3. A length is the difference of two instants, so the night in which the clocks change is as long as it was.
4. A time that no clock showed, or that was shown twice, has no single instant: that is doubt, and `judging` asks.
"""

import os
import re
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import cache, lru_cache
from pathlib import Path
from zoneinfo import ZoneInfo, available_timezones

from digsite._core.errors import BadInput, explain

_TIME = re.compile(r"(\d{1,2}):(\d{2})\s*([+-]\d{1,2}:\d{2}|Z)?(?:\s+\+(\d{1,3}))?")
HOW = 'Write hours and minutes, as in 16:30; "07:30 +1" is half past seven of the next day'


@dataclass(frozen=True)
class Time:
    """What a clock on the wall showed.

    Attributes:
        hour: 0 to 23.
        minute: 0 to 59.
        days: How many days after the day of the entry.
        offset: The clock's offset from UTC as `+02:00`, where the zone of the entry does not say it; else empty.
    """

    hour: int
    minute: int
    days: int = 0
    offset: str = ""

    @classmethod
    def parse(cls, text: str) -> "Time":
        """The time that is written: `9:05`, `16:30`, `24:00`, `07:30 +1`, `02:30+02:00 +1`.

        Raises:
            BadInput: It is no time of a day.
        """
        return _parse(text)

    @classmethod
    def of(cls, moment: datetime, day: date) -> "Time":
        """A moment as the clock of its zone shows it, in the entry of a day; a time shown twice gets its offset."""
        shown = cls(moment.hour, moment.minute, (moment.date() - day).days)
        return shown if len(shown.instants(day, moment.tzinfo)) == 1 else shown.with_offset(moment)

    def with_offset(self, moment: datetime) -> "Time":
        """The same with the offset of a moment written out."""
        return Time(self.hour, self.minute, self.days, moment.isoformat()[-6:])

    def __str__(self) -> str:
        return f"{self.hour:02}:{self.minute:02}{self.offset}" + (f" +{self.days}" if self.days else "")

    def instants(self, day: date, zone: tzinfo | None) -> tuple[datetime, ...]:
        """When a clock in the zone showed it: once, or never or twice where clocks are changed.

        Args:
            day: The day of the entry.
            zone: The zone of the entry; without one no clock is ever changed.

        Returns:
            The instants in UTC, the earlier first.
        """
        wall = datetime.combine(day, time(self.hour, self.minute))
        if self.days:
            wall += timedelta(self.days)
        if self.offset:
            return (datetime.fromisoformat(wall.isoformat() + self.offset).astimezone(UTC),)
        if zone is None:
            return (wall.replace(tzinfo=UTC),)
        first, second = wall.replace(tzinfo=zone), wall.replace(tzinfo=zone, fold=1)
        if first.utcoffset() == second.utcoffset():
            return (first.astimezone(UTC),)
        both = sorted((first.astimezone(UTC), second.astimezone(UTC)))
        return tuple(one for one in both if one.astimezone(zone).replace(tzinfo=None) == wall)


@lru_cache(maxsize=4096)
def _parse(text: str) -> Time:
    found = _TIME.fullmatch(text.strip())
    hour, minute = (int(found[1]), int(found[2])) if found else (99, 99)
    midnight = (hour, minute) == (24, 0)
    offset = "" if found is None or found[3] is None else found[3].replace("Z", "+00:00")
    if found is None or minute > 59 or not (hour < 24 or midnight) or (offset and not _is_offset(offset)):
        raise BadInput(explain("A time cannot be read", found=repr(text), do=HOW))
    if offset:
        sign, (hours, minutes) = offset[0], offset[1:].split(":")
        offset = f"{sign}{int(hours):02}:{minutes}"
    return Time(0 if midnight else hour, minute, int(found[4] or 0) + midnight, offset)


@dataclass(frozen=True)
class Session:
    """Some work, from one time to another.

    Attributes:
        start: When it began.
        end: When it ended; None while it is open.
        line: Where it stands in its file, counted from 1; 0 where it stands in none.
    """

    start: Time
    end: Time | None = None
    line: int = field(default=0, compare=False)

    def __str__(self) -> str:
        return f"{self.start}–{'' if self.end is None else self.end}"


def zone_of(name: str) -> ZoneInfo | None:
    """The zone of this name; None for no name.

    Raises:
        BadInput: There is no such zone.
    """
    if not name:
        return None
    try:
        return _zone(name)
    except (ValueError, OSError, LookupError):
        raise BadInput(
            explain(f"There is no time zone {name!r}", possible=sorted(available_timezones()), near=name)
        ) from None


@cache
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def local_zone() -> str:
    """The name of this computer's time zone.

    Raises:
        BadInput: The computer does not say.
    """
    link = Path("/etc/localtime")
    after = str(link.resolve()).partition("/zoneinfo/")[2] if link.exists() else "UTC"
    written = Path("/etc/timezone")
    for name in (os.environ.get("TZ", "").lstrip(":"), after, written.read_text().strip() if written.exists() else ""):
        if name.removeprefix("posix/") in available_timezones():
            return name.removeprefix("posix/")
    raise BadInput(explain("This computer does not say which time zone it is in", do="Add --zone Europe/Zurich"))


def spoken(length: timedelta) -> str:
    """A length as a person says it: `5 h 50 min`, `45 min`, `2 h`."""
    minutes = round(abs(length) / timedelta(minutes=1))
    hours, minutes = divmod(minutes, 60)
    parts = [f"{hours:,} h"] * bool(hours) + [f"{minutes} min"] * bool(minutes or not hours)
    return "−" * (length < timedelta()) + " ".join(parts)


def _is_offset(text: str) -> bool:
    hours, minutes = text[1:].split(":")
    return int(hours) < 24 and int(minutes) < 60
