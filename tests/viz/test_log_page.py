"""The page of a daily log."""

import html
import re
from datetime import UTC, date, datetime, timedelta
from urllib.parse import unquote

import pytest

from digsite.journal.log import Entry, RunLine, Session, Time, summarise
from digsite.viz import hours_figure, log_report

TODAY = date(2026, 3, 30)


def some_log(days: int = 12) -> list[Entry]:
    made = []
    for ago in reversed(range(days)):
        ended = Time(7, 30) if ago == 3 else Time(16, 30)
        more = {"title": "Reading && <Thesis>", "goal": "read `x` | write", "tags": ("PCD",), "projects": ("thesis",)}
        body = f"- [ ] task {ago}\n- [x] old {ago}\n"
        sessions = (Session(Time(10, 40), ended),)
        made.append(Entry(date=TODAY - timedelta(ago), sessions=sessions, body=body, update="out" * (ago == 5), **more))
    return made


def summed(entries: list[Entry], **more):
    return summarise(entries, now=datetime(2026, 3, 30, 20, tzinfo=UTC), **more)


def test_the_page_asks_shows_and_escapes():
    run = RunLine(started=datetime(2026, 3, 30, 9, tzinfo=UTC), id="7", title="patching.ablation", status="failed")
    page = log_report(summed(some_log(), runs=[run], target=timedelta(hours=1))).html()
    words = re.sub(r"<[^>]+>", " ", page)
    for told in (
        "64 h 10 min in 12 entries",
        "1 left out",
        "10:40–07:30 ends before it begins",
        "run 7",
        "patching.ablation",
    ):
        assert told in " ".join(words.split())
    assert "Reading &amp;&amp; &lt;Thesis&gt;" in page
    assert "<code>x</code>" in page
    assert page.count('<article class="day"') == 10
    assert "2 more" in words
    assert "12 done" in words


def test_the_figure_has_a_mark_for_every_day_and_a_question_mark_where_one_is():
    figure = hours_figure(summed(some_log(), target=timedelta(hours=1)))
    assert len(figure.canvas.marks) == len(figure.data) == 56
    assert list(figure.canvas.marks.values())[-1] == "Monday 2026-03-30: 5 h 50 min"
    assert [said for said in figure.canvas.marks.values() if "question" in said] == [
        "Friday 2026-03-27: 0 min, and some in question"
    ]
    assert figure.data["hours"].sum() == pytest.approx(11 * (5 + 5 / 6))
    assert "target of 1 h" in figure.caption


def test_a_tag_leads_to_its_days():
    odd = Entry(date=TODAY, title="late & <b>", tags=("C++ & <odd>", "PCD"), projects=("PCD",))
    page = log_report(summed([*some_log(), odd])).html()
    parts = re.findall(r'<details class="share" id="([^"]+)">(.*?)</details>', page, re.DOTALL)
    shares = {html.unescape(name): part for name, part in parts}
    assert list(shares) == ["tag-PCD", "tag-C++_&_<odd>", "project-thesis", "project-PCD"]
    days = {name: re.findall(r'<time datetime="([\d-]+)"', part) for name, part in shares.items()}
    assert len(days["tag-PCD"]) == 13 and days["tag-PCD"][:2] == ["2026-03-30"] * 2 and "0:00 + ?" in shares["tag-PCD"]
    assert days["tag-C++_&_<odd>"] == ["2026-03-30"] and "late &amp; &lt;b&gt;" in shares["project-PCD"]
    links = {unquote(link) for link in re.findall(r'<a class="chip[^"]*" href="#([^"]+)"', page)}
    assert links == set(shares)
    assert 'style="width:100.0%"' in shares["tag-PCD"] and 'style="width:0.0%"' in shares["project-PCD"]


def test_an_empty_log_has_a_page():
    assert "The log is empty" in log_report(summed([])).html()
