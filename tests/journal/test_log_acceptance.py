"""A log of 132 entries with known sums is read from its files, with six sessions that cannot be right."""

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import daily
import pytest

from digsite.journal.log import Log, flags, judge, summarise, totals

EVENING = datetime(2026, 3, 30, 23, 30, tzinfo=ZoneInfo(daily.ZONE))
MINUTE = timedelta(minutes=1)


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> Log:
    return Log(daily.write(tmp_path_factory.mktemp("log"), daily.known().items()))


def test_clipping_each_day_at_zero_gives_the_known_wrong_sum():
    days = daily.known()
    shown = [max(sum(minutes(last) - minutes(first) for first, last in pairs), 0) for pairs in days.values()]
    assert (len(days), sum(shown)) == (132, daily.CLIPPED)
    assert shown[:-11:-1] == [60 * h + m for h, m in daily.NEWEST]


def test_the_sum_loses_no_good_session_and_exactly_the_six_are_asked_about(log):
    found = summarise(log.entries(), now=EVENING)
    assert found.totals.time == (daily.CLIPPED + sum(daily.EATEN.values())) * MINUTE
    assert [str(flag.date) for flag in found.totals.flags] == list(daily.BACKWARDS)
    assert {flag.kind for flag in found.totals.flags} == {"ends before it begins"}
    assert "6 sessions are in question and left out" in found.verdict


def test_the_ten_newest_entries_and_the_streak(log):
    found = summarise(log.entries(), now=EVENING)
    known = [f"{h}:{m:02}" for h, m in daily.NEWEST]
    assert [day.clock for day in found.days] == [*known[:6], "0:00 + ?", *known[7:]]
    assert str(found.totals.current) == "10 days, 2026-03-21 to 2026-03-30"
    assert (found.totals.entries, found.totals.documented, found.totals.calendar) == (132, 132, 136)
    assert f"{found.totals.share:.1%}" == "97.1%"


def test_an_answer_brings_its_hours_back(log):
    path = log.folder / "2026-03-24.md"
    asked = next(flag for flag in flags(log.entries()) if flag.file == path.name)
    assert asked.adds == timedelta(hours=13, minutes=40)
    assert '"07:30 +1"' in asked.question
    before = path.read_text()
    path.write_text(before.replace("07:30", "07:30 +1"))
    try:
        found = summarise(log.entries(), now=EVENING)
        assert found.days[6].clock == "13:40"
        assert found.totals.time == asked.total_with
        assert len(found.totals.flags) == 5
    finally:
        path.write_text(before)


ANOMALIES = {
    "2025-12-30": ([("16:30", "10:40")], "ends before it begins", 0),
    "2026-01-19": ([("08:00", "09:30"), ("17:50", "07:30")], "ends before it begins", 90),
    "2026-02-20": ([("09:00", "12:00"), ("11:30", "13:00")], "overlap", 180),
    "2026-02-24": ([("20:00", "08:30 +1")], "", 750),
    "2026-02-25": ([("08:10", "09:10"), ("10:00", "10:05")], "overlaps another day", 5),
    "2026-02-26": ([("09:00", "10:00"), ("11:00", "")], "open", 60),
    "2026-03-29": ([("02:30", "05:00"), ("23:00", "01:00 +1")], "never shown", 120),
}
"""What is written on some days, what is asked about it, and how many minutes of it count."""


def test_six_anomalies_of_six_kinds_are_found_and_nothing_else(tmp_path):
    days = dict(daily.known())
    for day in daily.BACKWARDS:
        days[date.fromisoformat(day)] = [("09:00", "09:05")]
    plain = sum(minutes(last) - minutes(first) for pairs in days.values() for first, last in pairs)
    gone = [days[date.fromisoformat(day)] for day in ANOMALIES]
    plain -= sum(minutes(last) - minutes(first) for pairs in gone for first, last in pairs)
    for day, (pairs, _, _) in ANOMALIES.items():
        days[date.fromisoformat(day)] = pairs
    entries = Log(daily.write(tmp_path, days.items())).entries()
    assert len(entries) == 132
    works = judge(entries, now=EVENING)
    found = totals(entries, works, today=EVENING.date())
    wanted = [(day, kind) for day, (_, kind, _) in ANOMALIES.items() if kind]
    assert len(wanted) == 6
    assert [(str(flag.date), flag.kind) for flag in found.flags] == wanted
    assert found.time == (plain + sum(counted for _, _, counted in ANOMALIES.values())) * MINUTE
    for flag in found.flags:
        text = (tmp_path / flag.file).read_text().splitlines()[flag.line - 1]
        assert str(flag.session.start) in text
        assert flag.total == found.time


def test_ten_forty_to_half_past_four_is_five_hours_fifty(tmp_path):
    (tmp_path / "2026-01-19.md").write_text(
        daily.front(date(2026, 1, 19), [("10:40", "16:30")], title="Reading && Thesis", goal="Read | write the thesis")
    )
    (entry,) = Log(tmp_path).entries()
    found = summarise([entry], now=EVENING)
    assert found.days[0].clock == "5:50"
    assert found.verdict.startswith("5 h 50 min in 1 entry")
    assert (entry.title, entry.goals) == ("Reading && Thesis", ("Read", "write the thesis"))


def minutes(text: str) -> int:
    hours, rest = text.split(":")
    return 60 * int(hours) + int(rest)
