"""Days, streaks, targets, tags and tasks."""

import re
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digsite.journal.log import (
    Entry,
    RunLine,
    Session,
    Time,
    Totals,
    judge,
    summarise,
    summary_page,
    tags_page,
    todo_page,
    todos,
    totals,
)

FIRST = date(2026, 3, 1)
HOUR = timedelta(hours=1)


def entry(day: int, *spans: tuple[str, str], **more) -> Entry:
    sessions = tuple(Session(Time.parse(first), Time.parse(last) if last else None) for first, last in spans)
    return Entry(date=FIRST + timedelta(day), sessions=sessions, **more)


def summed(entries: list[Entry], *, today: int, target: timedelta | None = None) -> Totals:
    return totals(entries, judge(entries), today=FIRST + timedelta(today), target=target)


FIVE = ("09:00", "09:05")


def test_a_five_minute_day_counts_and_an_empty_one_does_not():
    days = [entry(0, FIVE), entry(1, ("09:00", "17:00")), entry(2), entry(3, FIVE), entry(4, ("09:00", "09:00"))]
    found = summed(days, today=4)
    assert (found.documented, len(found.worked)) == (5, 3)
    assert str(found.longest) == "2 days, 2026-03-01 to 2026-03-02"
    assert str(found.current) == "1 day"


@pytest.mark.parametrize(("today", "days"), [(2, 3), (3, 3), (4, 0)])
def test_the_current_streak_may_end_yesterday_but_not_before(today, days):
    found = summed([entry(0, FIVE), entry(1, FIVE), entry(2, FIVE)], today=today)
    assert found.current.days == days
    assert found.longest.days == 3
    assert found.calendar == today + 1


def test_a_session_over_midnight_belongs_to_the_day_it_is_written_in():
    night = [entry(0, ("22:00", "03:00 +1")), entry(2, FIVE)]
    found = summed(night, today=2)
    assert found.by_day == {FIRST: 5 * HOUR, FIRST + timedelta(2): 5 * timedelta(minutes=1)}
    assert found.longest.days == 1


def test_a_day_in_question_keeps_the_streak_and_is_not_below_the_target():
    days = [entry(0, ("09:00", "11:00")), entry(1, ("17:50", "07:30")), entry(2, FIVE), entry(4, FIVE)]
    found = summed(days, today=4, target=HOUR)
    assert found.longest.days == 3
    assert found.below == (FIRST + timedelta(2), FIRST + timedelta(3)), "day 4 is not over"


def test_two_files_of_one_day_are_two_entries_and_one_day():
    found = summed([entry(0, FIVE), entry(0, ("10:00", "11:00"))], today=0)
    assert (found.entries, found.documented, found.calendar, found.share) == (2, 1, 1, 1.0)


def test_today_is_another_day_in_another_zone():
    log = [entry(0, FIVE, zone="Europe/Zurich"), entry(1, FIVE, zone="Asia/Tokyo")]
    moment = datetime(2026, 3, 3, 20, 0, tzinfo=UTC)
    streak = {
        zone: summarise(log, now=moment.astimezone(ZoneInfo(zone))).totals.current.days
        for zone in ("UTC", "Asia/Tokyo")
    }
    assert streak == {"UTC": 2, "Asia/Tokyo": 0}


def test_work_that_runs_now_is_open_and_no_question():
    log = [entry(0, ("09:00", "10:00"), ("22:00", ""), zone="Europe/Zurich")]
    late = datetime(2026, 3, 2, 1, 0, tzinfo=ZoneInfo("Europe/Zurich"))
    found = summarise(log, now=late)
    assert (found.totals.running, found.totals.flags, found.days[0].clock) == (1, (), "1:00 …")
    assert "running and not counted yet" in found.verdict
    (flag,) = summarise(log, now=late + timedelta(days=1)).totals.flags
    assert (flag.kind, flag.total, flag.total_with) == ("open", HOUR, None)


def test_time_by_tag_and_project_counts_an_entry_for_each():
    log = [
        entry(0, ("09:00", "11:00"), tags=("PCD", "Apps"), projects=("thesis",)),
        entry(1, FIVE, tags=("Apps", "Apps")),
    ]
    found = summed(log, today=1)
    assert found.by_tag == {"Apps": 2 * HOUR + timedelta(minutes=5), "PCD": 2 * HOUR}
    assert list(found.by_tag) == ["Apps", "PCD"]
    assert found.by_project == {"thesis": 2 * HOUR}


def test_a_tag_and_a_project_lead_to_their_days_in_markdown():
    log = [
        entry(0, ("09:00", "11:00"), title="a | b", tags=("PCD", "an odd one"), projects=("PCD",)),
        entry(1, ("17:50", "07:30"), title="night", tags=("PCD",)),
        entry(2, tags=("idle",)),
    ]
    found = summarise(log, now=datetime(2026, 3, 3, tzinfo=UTC), newest=1)
    assert len(found.days) == 1 and [day.entry for day in found.every] == log[::-1]
    shares = [(one.kind, one.name, one.time, len(one.days)) for one in found.shares]
    assert shares[0] == ("tag", "PCD", 2 * HOUR, 2) and shares[2:] == [
        ("tag", "idle", 0 * HOUR, 1),
        ("project", "PCD", 2 * HOUR, 1),
    ]
    front, page = summary_page(found), tags_page(found)
    assert "| [an odd one](tags.md#tag-an_odd_one) | 2 h | 1 | 2026-03-01 |" in front
    assert set(re.findall(r"tags\.md#(\S+)\)", front)) == set(re.findall(r'<a id="(\S+)"></a>', page))
    part = page.partition("## PCD (tag)")[2].partition("##")[0]
    assert "2 h in 2 entries, 2026-03-01 to 2026-03-02." in part
    assert part.index("| [2026-03-02](2026-03-02.md) | 0:00 + ? | night |") < part.index(r"| 2:00 | a \| b |")
    assert "No entry has a tag or a project yet." in tags_page(summarise([], now=datetime(2026, 3, 3, tzinfo=UTC)))


def test_an_overlap_leaves_out_the_later_and_keeps_what_follows():
    log = [entry(0, ("09:00", "12:00"), ("11:00", "14:00"), ("13:00", "15:00"))]
    works = judge(log)
    assert [work.flag.kind if work.flag else None for work in works] == [None, "overlap", None]
    assert works[1].flag is not None
    assert "share 1 h" in works[1].flag.question
    assert works[1].flag.total == 5 * HOUR
    assert works[1].flag.total_with == 8 * HOUR


def test_an_empty_log():
    found = summarise([], now=datetime(2026, 3, 1, tzinfo=UTC))
    assert found.verdict.startswith("The log is empty")
    assert "# Daily log" in summary_page(found)


@settings(deadline=None, max_examples=30)
@given(st.sets(st.integers(0, 40), min_size=1), st.integers(0, 45))
def test_streaks_are_those_of_counting_by_hand(days, today):
    found = summed([entry(day, FIVE) for day in sorted(days)], today=today)
    last = max(today, *days)
    back = 0
    end = last if last in days else last - 1
    while end - back in days:
        back += 1
    assert found.current.days == back
    assert found.longest.days == max(len(run) for run in "".join("x" if n in days else " " for n in range(42)).split())
    assert found.time == len(days) * timedelta(minutes=5)


def test_a_run_is_listed_on_the_day_of_its_entry_by_the_clock_there():
    started = datetime(2026, 3, 1, 23, 30, tzinfo=UTC)
    run = RunLine(started=started, id="7", title="ablation", status="failed")
    lone = RunLine(started=started + timedelta(days=9), id="8", title="lens", status="done")
    log = [entry(0, FIVE, zone="Europe/Zurich"), entry(1, FIVE, zone="Europe/Zurich")]
    found = summarise(log, now=started, runs=[run, lone])
    assert [day.runs for day in found.days] == [(run,), ()]
    assert found.runs_elsewhere == (lone,)
    assert "- run `7`, failed: ablation" in summary_page(found)


TASKS = [
    entry(
        0, body="- [ ] read it\n- [ ] Write  it (added 2026-02-01)\n\n```\n- [ ] no task\n```\n- [ ]\n", tags=("Apps",)
    ),
    entry(2, body="text\n\n1. [x] read it\n* [X] send it ✅ 2026-03-02\n- [ ] write it\n"),
]


def test_tasks_are_added_once_and_done_when_they_are_ticked():
    found = {todo.text: (str(todo.added), str(todo.completed), todo.line) for todo in todos(TASKS)}
    assert found == {
        "write it": ("2026-02-01", "None", 5),
        "read it": ("2026-03-01", "2026-03-03", 3),
        "send it": ("2026-03-03", "2026-03-02", 4),
    }
    assert [todo.tags for todo in todos(TASKS)] == [("Apps",), ("Apps",), ()]


def test_a_task_that_is_opened_again_is_open():
    assert todos([*TASKS, entry(3, body="- [ ] read it\n")])[0].text == "read it"


def test_the_pages_say_what_they_are_and_what_is_open():
    found = summarise(
        [*TASKS, entry(3, FIVE, update="true", summary="Out at last")], now=datetime(2026, 3, 4, tzinfo=UTC)
    )
    page, tasks = summary_page(found), todo_page(found.todos)
    for text in (page, tasks):
        assert text.startswith("<!-- Made by `digsite log summary`.")
    assert "1 open. [All 3, with those done](todo.md)" in page
    assert "- [2026-03-04](2026-03-04.md): Out at last" in page
    assert "- [ ] write it (added 2026-02-01; [2026-03-03.md](2026-03-03.md))" in tasks
    assert "- [x] read it (added 2026-03-01, done 2026-03-03; [2026-03-03.md](2026-03-03.md))" in tasks
