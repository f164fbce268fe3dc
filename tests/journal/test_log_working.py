"""Begin, end, note: each writes what was done, or says why it does not."""

import subprocess
import sys
from dataclasses import replace
from datetime import date, datetime
from zoneinfo import ZoneInfo

import daily
import pytest

from digsite._core.errors import BadInput
from digsite.journal.log import Log, Time, flags, todos, working

ZURICH, TOKYO = ZoneInfo("Europe/Zurich"), ZoneInfo("Asia/Tokyo")


def at(text: str, zone: ZoneInfo = ZURICH) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone)


@pytest.fixture
def log(tmp_path) -> Log:
    return Log(tmp_path / "log")


def test_a_day_from_its_first_command_to_its_last(log):
    working.start(log, at("2026-11-30 10:40"), title="Reading && Thesis", tags=("PCD",))
    working.goal(log, at("2026-11-30 10:41"), "Read the paper")
    working.goal(log, at("2026-11-30 10:42"), "write | think")
    working.note(log, at("2026-11-30 12:00"), "$$x^2$$")
    working.note(log, at("2026-11-30 12:01"), "- [ ] read it again")
    working.note(log, at("2026-11-30 12:02"), "- [ ] and again")
    entry, ended = working.stop(log, at("2026-11-30 16:30"), summary="Half of it")
    assert str(ended) == "10:40–16:30"
    assert (log.folder / "2026-11-30.md").read_text() == (
        '---\ndate: 2026-11-30\nzone: Europe/Zurich\ntitle: "Reading && Thesis"\n'
        'goal: "Read the paper | write | think"\nsummary: "Half of it"\ntags: [PCD]\nproject: []\n'
        'sessions:\n  - in: "10:40"\n    out: "16:30"\n---\n\n'
        "## Asked\n\n## Found\n\n## Failed, and what it taught\n\n## Next\n\n"
        "$$x^2$$\n\n- [ ] read it again\n- [ ] and again\n"
    )
    assert log.entries() == (entry,)
    assert flags(log.entries()) == []


def test_a_session_over_midnight_ends_in_the_entry_in_which_it_began(log):
    working.start(log, at("2026-11-30 17:50"))
    entry, ended = working.stop(log, at("2026-12-01 07:30"))
    assert (entry.file, str(ended)) == ("2026-11-30.md", "17:50–07:30 +1")
    working.start(log, at("2026-12-01 17:50"))
    _, ended = working.stop(log, at("2026-12-02 09:00"), at=Time.parse("07:30"))
    assert str(ended) == "17:50–07:30 +1", "--at is of today"
    assert flags(log.entries()) == []


def test_the_hour_that_comes_twice_is_written_with_its_offset(log):
    working.start(log, datetime(2026, 10, 25, 2, 30, tzinfo=ZURICH))
    _, ended = working.stop(log, datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZURICH))
    assert str(ended) == "02:30+02:00–02:30+01:00"


def test_another_zone_is_written_as_an_offset(log):
    working.start(log, at("2026-11-30 09:00"))
    _, ended = working.stop(log, at("2026-12-01 01:00", TOKYO))
    assert str(ended) == "09:00–01:00+09:00 +1"
    assert flags(log.entries()) == []


@pytest.mark.parametrize(
    ("begun", "command", "telling"),
    [
        (
            "2026-11-30 10:40",
            lambda log: working.start(log, at("2026-11-30 11:00")),
            "began at 10:40.\nFound: 2026-11-30.md, line 10.\nDo: End it with: digsite log stop.",
        ),
        (
            "2026-11-28 10:40",
            lambda log: working.start(log, at("2026-11-30 11:00")),
            "on 2026-11-28.\nFound: 2026-11-28.md, line 10.\nDo: End it with: digsite log stop --day 2026-11-28 --at",
        ),
        (
            "",
            lambda log: working.stop(log, at("2026-11-30 11:00")),
            "No session is open in the newest entry.\nFound: none.\nDo: Begin one with",
        ),
        (
            "2026-11-30 10:40",
            lambda log: working.stop(log, at("2026-11-30 11:00"), at=Time(9, 30)),
            'If it ended the next day: digsite log stop --day 2026-11-30 --at "09:30 +1"',
        ),
        (
            "2026-11-28 10:40",
            lambda log: working.stop(log, at("2026-11-30 11:00")),
            "would be 48 h 20 min.\nDo: Say when it ended, on 2026-11-28",
        ),
        (
            "2026-11-30 10:40",
            lambda log: working.stop(log, at("2026-11-30 11:00"), at=Time(11, 30)),
            "11:30 on 2026-11-30 is still to come",
        ),
        (
            "2026-11-30 10:40",
            lambda log: working.stop(log, at("2026-11-30 11:00"), day=date(2026, 11, 29)),
            "No session is open on 2026-11-29",
        ),
        (
            "2026-03-29 01:00",
            lambda log: working.stop(log, at("2026-03-29 04:00"), at=Time(2, 30)),
            "no such moments in Europe/Zurich",
        ),
        (
            "2026-10-25 01:00",
            lambda log: working.stop(log, at("2026-10-25 04:00"), at=Time(2, 30)),
            'Write "02:30+02:00" or "02:30+01:00"',
        ),
        ("", lambda log: working.tick(log, at("2026-11-30 11:00"), "read"), "No open tasks have the words 'read'"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(log, begun, command, telling):
    if begun:
        working.start(log, at(begun))
    before = contents(log)
    with pytest.raises(BadInput) as error:
        command(log)
    assert telling in str(error.value)
    assert contents(log) == before


def test_a_forgotten_end_is_said_later(log):
    working.start(log, at("2026-11-28 10:40"))
    _, ended = working.stop(log, at("2026-11-30 11:00"), at=Time(18, 0), day=date(2026, 11, 28))
    assert str(ended) == "10:40–18:00"


def test_a_task_is_ticked_in_the_file_that_has_it(log):
    log.folder.mkdir()
    path = log.folder / "2026-11-30.md"
    path.write_text(daily.table(date(2026, 11, 30), []) + "- [ ] read it\n- [ ] read it again\n")
    before = path.read_text()
    with pytest.raises(BadInput, match="Several open tasks"):
        working.tick(log, at("2026-12-02 10:00"), "read")
    working.tick(log, at("2026-12-02 10:00"), "Read it")
    assert path.read_text() == before.replace("- [ ] read it\n", "- [x] read it (done 2026-12-02)\n")
    assert [str(todo.completed) for todo in todos(log.entries())] == ["None", "2026-12-02"]


def test_files_that_are_no_entries_are_left_alone(log):
    log.folder.mkdir()
    (log.folder / "README.md").write_text("My own words.\n")
    (log.folder / "reading.md").write_text("---\ndate: 2026-01-19\nsessions: []\n---\n")
    assert [entry.file for entry in log.entries()] == ["reading.md"]
    with pytest.raises(BadInput, match=r"README\.md was written by hand"):
        log.write_page("README.md", "new")
    assert (log.folder / "README.md").read_text() == "My own words.\n"


def test_all_files_that_cannot_be_read_are_named_at_once(log):
    log.folder.mkdir()
    for day in (1, 2):
        (log.folder / f"2026-11-0{day}.md").write_text('---\nsessions:\n  - in: "ten"\n---\n')
    (log.folder / "2026-11-03.md").write_bytes(b"\xff")
    before = contents(log)
    with pytest.raises(BadInput) as error:
        log.entries()
    assert [name in str(error.value) for name in ("11-01.md, line 3", "11-02.md, line 3", "11-03.md is no UTF-8")] == [
        True
    ] * 3
    with pytest.raises(BadInput, match="'ten'"):
        working.note(log, at("2026-11-01 10:00"), "x")
    assert contents(log) == before


def test_a_file_that_an_editor_saves_in_between_is_read_again(log):
    working.note(log, at("2026-11-30 10:00"), "first")
    path = log.folder / "2026-11-30.md"
    calls = []

    def change(entry):
        if not calls:
            path.write_text(path.read_text() + "by hand\n")
        calls.append(entry)
        return replace(entry, body=entry.body + "by us\n")

    log.change(date(2026, 11, 30), change)
    assert len(calls) == 2
    assert path.read_text().endswith("first\nby hand\nby us\n")


NOTES = """
import sys
from datetime import datetime
from zoneinfo import ZoneInfo
from digsite.journal.log import Log, working
now = datetime(2026, 11, 30, 10, tzinfo=ZoneInfo("Europe/Zurich"))
for n in range(12):
    working.note(Log(sys.argv[1]), now, f"note {sys.argv[2]}-{n}")
"""


def test_writers_at_the_same_time_lose_nothing(log):
    writers = [subprocess.Popen([sys.executable, "-c", NOTES, str(log.folder), str(n)]) for n in range(3)]
    assert [writer.wait() for writer in writers] == [0] * 3
    lines = (log.folder / "2026-11-30.md").read_text().splitlines()
    assert {line for line in lines if line.startswith("note")} == {f"note {w}-{n}" for w in range(3) for n in range(12)}


def contents(log: Log) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in log.folder.glob("*.md")}
