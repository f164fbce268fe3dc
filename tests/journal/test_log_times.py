"""Lengths are those of a stopwatch: over midnight, over changed clocks, over zones."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digsite._core.errors import BadInput
from digsite.journal.log import Entry, Session, Time, flags, judge, spoken
from digsite.journal.log.times import local_zone, zone_of

HOUR = timedelta(hours=1)
ZURICH = "Europe/Zurich"


def length(day: str, first: str, last: str, zone: str = ZURICH) -> timedelta:
    entry = Entry(date=date.fromisoformat(day), zone=zone, sessions=(Session(Time.parse(first), Time.parse(last)),))
    (work,) = judge([entry])
    assert work.flag is None, work.flag
    return work.length


def asked(day: str, first: str, last: str, zone: str = ZURICH) -> str:
    entry = Entry(date=date.fromisoformat(day), zone=zone, sessions=(Session(Time.parse(first), Time.parse(last)),))
    (flag,) = flags([entry])
    return f"{flag.kind}: {flag.question}"


@pytest.mark.parametrize(
    ("day", "first", "last", "hours"),
    [
        ("2026-01-19", "10:40", "16:30", 5 + 5 / 6),
        ("2026-03-24", "17:50", "07:30 +1", 13 + 2 / 3),
        ("2026-03-28", "22:00", "06:00 +1", 7),  # an hour was skipped
        ("2026-10-24", "22:00", "06:00 +1", 9),  # an hour came twice
        ("2026-10-25", "02:30+02:00", "02:30+01:00", 1),
        ("2026-10-25", "02:30+02:00", "03:30", 2),
        ("2026-07-01", "10:00", "08:00+09:00 +1", 15),  # begun in Zurich, ended in Tokyo
        ("2026-01-19", "23:00", "24:00", 1),
        ("2026-01-19", "00:30 +1", "02:00 +1", 1.5),
        ("2026-01-19", "9:05", "9:05", 0),
        ("2026-01-19", "08:00", "24:00", 16),
    ],
)
def test_known_lengths(day, first, last, hours):
    assert abs(length(day, first, last) - hours * HOUR) < timedelta(seconds=1)


def test_without_a_zone_no_clock_is_changed():
    assert length("2026-03-28", "22:00", "06:00 +1", zone="") == 8 * HOUR


@pytest.mark.parametrize(
    ("day", "first", "last", "question"),
    [
        ("2026-03-29", "02:30", "05:00", "never shown: No clock in Europe/Zurich showed 02:30"),
        ("2026-03-29", "01:30", "02:15", "never shown: No clock in Europe/Zurich showed 02:15"),
        (
            "2026-10-25",
            "02:30",
            "05:00",
            'shown twice: Clocks in Europe/Zurich showed 02:30 twice. Was it "02:30+02',
        ),
        ("2026-03-24", "17:50", "07:30", 'Did it end the next day, after 13 h 40 min? Then write out: "07:30 +1"'),
        ("2026-03-28", "22:00", "06:00", "after 7 h"),
        ("2026-03-24", "16:30", "10:40", "after 18 h 10 min"),
        ("2026-03-24", "08:00", "01:00 +1", "longer than 16 h: 08:00–01:00 +1 would be 17 h"),
    ],
)
def test_what_is_in_doubt_is_asked_about(day, first, last, question):
    assert question in asked(day, first, last)


@pytest.mark.parametrize("text", ["25:00", "10:60", "1040", "10.40", "4 pm", "", "24:30", "10:40 +", "10:40+25:00"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(BadInput, match="A time cannot be read") as error:
        Time.parse(text)
    assert repr(text) in str(error.value)
    assert "as in 16:30" in str(error.value)


def test_a_zone_that_is_none_is_refused_with_the_nearest():
    with pytest.raises(BadInput, match="did you mean Europe/Zurich"):
        zone_of("Europe/Zürich")


def test_lengths_are_spoken_as_people_say_them():
    said = [spoken(timedelta(minutes=m)) for m in (350, 5, 120, 0, 385 * 60 + 37, 60_001)]
    assert said == ["5 h 50 min", "5 min", "2 h", "0 min", "385 h 37 min", "1,000 h 1 min"]


def test_the_zone_of_this_computer_is_a_zone(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert local_zone() == "Asia/Tokyo"
    monkeypatch.delenv("TZ")
    assert zone_of(local_zone()) is not None


ZONES = st.sampled_from(
    [ZURICH, "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "Africa/Casablanca", "America/St_Johns", "UTC"]
)
BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)
MOMENTS = st.integers(0, 38 * 365 * 24 * 60).map(lambda minutes: BEGINNING + timedelta(minutes=minutes))


@settings(deadline=None, max_examples=30)
@given(MOMENTS, ZONES, st.integers(0, 3))
def test_a_moment_that_is_written_down_is_the_moment_that_is_read(moment, zone, days):
    now = moment.astimezone(ZoneInfo(zone))
    day = now.date() - timedelta(days)
    shown = Time.of(now, day)
    assert shown.instants(day, ZoneInfo(zone)) == (moment,)
    assert Time.parse(str(shown)) == shown


@settings(deadline=None, max_examples=30)
@given(MOMENTS, ZONES, st.integers(0, 16 * 60))
def test_a_session_is_as_long_as_a_stopwatch_says(moment, zone, minutes):
    begun = moment.astimezone(ZoneInfo(zone))
    ended = (begun.astimezone(UTC) + timedelta(minutes=minutes)).astimezone(ZoneInfo(zone))
    day = begun.date()
    session = Session(Time.of(begun, day), Time.of(ended, day))
    (work,) = judge([Entry(date=day, zone=zone, sessions=(session,))])
    assert work.flag is None
    assert work.length == timedelta(minutes=minutes)


@settings(deadline=None, max_examples=30)
@given(MOMENTS, ZONES, st.lists(st.integers(0, 200), min_size=1, max_size=6))
def test_parts_of_a_day_add_up_to_the_whole(moment, zone, parts):
    ends = [moment]
    for part in parts:
        ends.append(ends[-1] + timedelta(minutes=part))
    local = [end.astimezone(ZoneInfo(zone)) for end in ends]
    day = local[0].date()
    shown = [Time.of(end, day) for end in local]
    cut = tuple(Session(first, last) for first, last in pairwise(shown))
    works = judge([Entry(date=day, zone=zone, sessions=cut)])
    assert [work.flag for work in works] == [None] * len(parts)
    assert sum((work.length for work in works), timedelta()) == ends[-1] - ends[0]
