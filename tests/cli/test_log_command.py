"""`digsite log` in a dig: the answers on stdout, the questions on stderr, the pages beside the entries."""

import json
import re
import sqlite3
import subprocess
import sys
from datetime import date

import pytest
from command import fits, run

ENTRY = """\
---
date: {day}
zone: Europe/Zurich
title: "Reading && Thesis"
goal: Read the paper | write
tags: [PCD]
sessions:
  - in: "{first}"
    out: "{last}"
---

- [ ] read it again
"""


@pytest.fixture
def log(tmp_path, monkeypatch):
    with sqlite3.connect(tmp_path / "dig.sqlite") as tables:
        tables.execute("CREATE TABLE run (id INTEGER, method TEXT, status TEXT, started TEXT)")
        tables.execute("INSERT INTO run VALUES (7, 'patching.ablation', 'failed', '2026-01-19T09:30:00+00:00')")
    folder = tmp_path / "log"
    folder.mkdir()
    for day, first, last in (("2026-01-19", "10:40", "16:30"), ("2026-01-20", "17:50", "07:30")):
        (folder / f"{day}.md").write_text(ENTRY.format(day=day, first=first, last=last))
    monkeypatch.chdir(folder)
    return folder


def test_a_day(log):
    begun = run("log", "start", "--zone", "UTC", "--title", "x" * 30, "--tag", "PCD")
    assert (begun.code, begun.err) == (0, "")
    assert re.fullmatch(r"started at \d\d:\d\d: log/20\d\d-\d\d-\d\d\.md\n", begun.out)
    again = run("log", "start", "--zone", "UTC")
    assert again.code == 1
    assert "A session is open already" in again.err
    assert run("log", "goal", "read it | write", "--zone", "UTC").out.startswith("goal: read it | write\n")
    assert run("log", "note", "- [ ] think", "--zone", "UTC").code == 0
    ended = run("log", "stop", "--zone", "UTC", "--summary", "Half of it")
    assert "; 0 min on 20" in ended.out
    told = json.loads(run("log", "today", "--zone", "UTC", "--json").out)
    assert (told["goals"], told["summary"], told["minutes"], told["tags"]) == (
        ["read it", "write"],
        "Half of it",
        0,
        ["PCD"],
    )
    shown = run("log", "today", "--zone", "UTC")
    assert fits(shown.out)
    assert "Half of it" in shown.out


def test_check_asks_and_exits_1(log):
    asked = run("log", "check")
    assert asked.code == 1
    assert 'Then write out: "07:30 +1"' in asked.out
    assert "The sum is 5 h 50 min without it, 19 h 30 min with it." in asked.out
    (flag,) = json.loads(run("log", "check", "--json").out)["flags"]
    assert (flag["kind"], flag["line"], flag["adds_minutes"]) == ("ends before it begins", 8, 820)
    path = log / "2026-01-20.md"
    path.write_text(path.read_text().replace("07:30", "07:30 +1"))
    assert run("log", "check") == (0, "every session can be counted\n", "")


def test_the_summary_is_two_pages_of_markdown_and_one_of_html(log):
    told = run("log", "summary", "--target", "1")
    assert told.code == 0
    assert fits(told.out.partition("page: ")[0])
    assert told.out.startswith("5 h 50 min in 2 entries, on 2 days of")
    page = (log / "README.md").read_text()
    assert "### [2026-01-19](2026-01-19.md) · 5:50 · Reading && Thesis" in page
    assert "- run `7`, failed: patching.ablation" in page
    assert "read it again" in (log / "todo.md").read_text()
    html = (log / "index.html").read_text()
    assert "Reading &amp;&amp; Thesis" in html
    assert "://" not in re.sub(r"http://www\.w3\.org/\S*", "", html), "nothing is asked of the network"
    again = json.loads(run("log", "summary", "--json", "--newest", "1").out)
    assert [day["date"] for day in again["days"]] == ["2026-01-20"]
    assert again["Time"] == "5 h 50 min"


def test_tasks_are_added_filtered_and_ticked(log):
    assert "read it again" in run("log", "todo").out
    assert "nothing to do" in run("log", "todo", "--tag", "Apps").out
    assert "think" in run("log", "todo", "--add", "think", "--zone", "UTC").out
    ticked = run("log", "todo", "--done", "read it", "--zone", "UTC")
    assert "read it again" not in ticked.out
    assert "done: read it again (2026-01-20.md)" in ticked.err
    assert f"(done {date.today()}" in (log / "2026-01-20.md").read_text()  # noqa: DTZ011
    both = json.loads(run("log", "todo", "--all", "--json").out)["todos"]
    assert sorted(one["text"] for one in both) == ["read it again", "think"]


@pytest.mark.parametrize(
    ("words", "telling"),
    [
        (["start", "--at", "25:00"], "A time cannot be read.\nFound: '25:00'."),
        (["start", "--day", "2026-01-21"], "It is not said when on 2026-01-21.\nDo: Add --at 10:40."),
        (["start", "--day", "2999-01-21", "--at", "10:00"], "is still to come"),
        (["start", "--zone", "Mars"], "There is no time zone 'Mars'"),
        (["stop"], "No session is open in the newest entry"),
        (["stop", "--day", "monday"], "The day cannot be read.\nFound: 'monday'."),
        (["today"], "There is no entry of"),
        (["todo", "--done", "sleep"], "No open tasks have the words 'sleep'"),
    ],
)
def test_errors_say_what_to_do(log, words, telling):
    shown = run("log", *words)
    assert (shown.code, shown.out) == (1, "")
    assert telling in shown.err


def test_outside_a_dig_it_says_how_to_make_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = run("log", "start")
    assert shown.code == 1
    assert "lies in no dig.\nDo: digsite dig init makes one here." in shown.err
    assert not list(tmp_path.iterdir())


def test_a_log_needs_no_torch(log):
    code = (
        "import sys\nfrom digsite.cli.main import main\n"
        "try:\n    main(['log', 'check'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(' '.join({'torch', 'polars', 'matplotlib', 'transformers'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
