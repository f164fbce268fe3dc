"""A file is read in the form it has, and a change rewrites what has changed and not one byte more."""

from dataclasses import replace
from datetime import date

import daily
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digsite._core.errors import BadInput
from digsite.journal.log import Entry, Session, Time, read_entry, write_entry

FRONT = """\
---
# what the site needs
layout: dlog
date: 2026-11-30   # a Monday
zone: 'Europe/Zurich'
title: "Reading && Thesis"
goal: Read the paper | write
summary: >
  Nothing came
  of it.
tags:
  - PCD
  - Apps   # both
project: digsite
sessions:
  - in: 10:40   # late
    out: 16:30
    where: train
  # evening
  - {in: "17:50"}
mood: good
---
# Not the title

$$h = z \\cdot w + \\epsilon$$

- [ ] do it
"""
TABLE = """\
# Reading && Thesis

**Goal:** Read the paper | write
Tags: #PCD, Apps
Zone: Europe/Zurich

| What  | In    | Out   |
|-------|------:|------:|
| paper | 10:40 | 16:30 |
| chat  | 17:50 |       |

```
| In | Out |
|----|-----|
| 01:00 | 02:00 |
Goal: no goal
```
"""
DAY = "2026-11-30.md"
WORKED = (Session(Time(10, 40), Time(16, 30)), Session(Time(17, 50)))


@pytest.mark.parametrize("text", [FRONT, TABLE], ids=["front matter", "table"])
def test_both_forms_say_the_same(text):
    entry = read_entry(text, DAY)
    assert entry.date == date(2026, 11, 30)
    assert (entry.title, entry.zone) == ("Reading && Thesis", "Europe/Zurich")
    assert entry.goals == ("Read the paper", "write")
    assert entry.tags == ("PCD", "Apps")
    assert entry.sessions == WORKED
    assert [text.splitlines()[one.line - 1].count(str(one.start)) for one in entry.sessions] == [1, 1]


def test_the_rest_of_the_front_matter_and_the_body_are_verbatim():
    entry = read_entry(FRONT, DAY)
    assert entry.summary == "Nothing came of it."
    assert entry.projects == ("digsite",)
    assert entry.body == FRONT.partition("mood: good\n---\n")[2]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("text", [FRONT, TABLE, "\ufeff" + FRONT], ids=["front matter", "table", "with a mark"])
def test_what_has_not_changed_stays_byte_for_byte(text, newline):
    text = text.replace("\n", newline)
    assert write_entry(read_entry(text, DAY), text) == text


def changed(text: str, **to: object) -> list[tuple[str, str]]:
    """Lines that a change takes away and puts there."""
    entry = replace(read_entry(text, DAY), **to)
    written = write_entry(entry, text)
    before, after = text.splitlines(), written.splitlines()
    gone = [("-", line) for line in before if line not in after]
    return gone + [("+", line) for line in after if line not in before]


ENDED = (WORKED[0], Session(Time(17, 50), Time(7, 30, 1)))


def test_ending_a_session_touches_its_line_alone():
    assert changed(FRONT, sessions=ENDED) == [
        ("-", '  - {in: "17:50"}'),
        ("+", '  - {in: "17:50", out: "07:30 +1"}'),
    ]
    assert changed(TABLE, sessions=ENDED) == [
        ("-", "| chat  | 17:50 |       |"),
        ("+", "| chat  | 17:50 |   07:30 +1    |"),
    ]
    block = daily.front(date(2026, 11, 30), [("10:40", "")])
    assert changed(block, sessions=(WORKED[0],)) == [("+", '    out: "16:30"')]


def test_a_further_session_is_one_more_row_in_the_form_of_the_file():
    more = (*WORKED, Session(Time(20, 0), Time(21, 0)))
    assert changed(FRONT, sessions=more) == [("+", '  - in: "20:00"'), ("+", '    out: "21:00"')]
    assert changed(TABLE, sessions=more) == [("+", "|  | 20:00 | 21:00 |")]
    flow = '---\nsessions: [{in: "10:40", out: "16:30"}]\n---\n'
    assert changed(flow, sessions=(WORKED[0], Session(Time(20, 0))))[1] == (
        "+",
        'sessions: [{in: "10:40", out: "16:30"}, {in: "20:00"}]',
    )


@pytest.mark.parametrize("start", ["sessions:\n", "sessions: []\n", "sessions: ~\n", ""])
def test_the_first_session(start):
    text = f"---\n{start}title: x\n---\nbody\n"
    written = write_entry(replace(read_entry(text, DAY), sessions=WORKED[:1]), text)
    assert '\n  - in: "10:40"\n    out: "16:30"\n' in written
    assert written.endswith("---\nbody\n")


def test_texts_and_words_are_written_where_they_stand():
    assert changed(FRONT, goal='He said "no": #1', tags=("A", "on")) == [
        ("-", "goal: Read the paper | write"),
        ("-", "tags:"),
        ("-", "  - PCD"),
        ("-", "  - Apps   # both"),
        ("+", 'goal: "He said \\"no\\": #1"'),
        ("+", 'tags: [A, "on"]'),
    ]
    assert changed(TABLE, summary="Nothing came of it.", title="Chat") == [
        ("-", "# Reading && Thesis"),
        ("+", "# Chat"),
        ("+", "**Summary:** Nothing came of it."),
    ]


def test_a_file_of_prose_gets_a_table():
    text = "Only words.\n"
    written = write_entry(replace(read_entry(text, DAY), sessions=WORKED), text)
    assert read_entry(written, DAY).sessions == WORKED
    assert written.endswith(text)


@pytest.mark.parametrize(
    ("text", "telling"),
    [
        (
            FRONT.replace("16:30", "16:70"),
            "2026-11-30.md, line 17: The time out cannot be read.\nFound: '16:70'.\nDo: Write hours and minutes",
        ),
        (TABLE.replace("17:50", "5 pm"), "line 10: The time in cannot be read.\nFound: '5 pm'."),
        (FRONT.replace("- {in", "- {out"), 'line 20: A session has no in.\nFound: {out: "17:50"}.'),
        (FRONT.replace("mood: good\n---\n", ""), "line 1: The front matter has no end."),
        (FRONT.replace("layout: dlog", "layout: [dlog"), "The front matter is no YAML."),
        (FRONT.replace("mood: good", "title: again"), "line 21: title is written twice."),
        (FRONT.replace("2026-11-30 ", "2026-11-29 "), "The file is called by another day than it says."),
        (FRONT.replace("2026-11-30 ", "yesterday "), "The date cannot be read.\nFound: 'yesterday'."),
        (FRONT.replace("Europe/Zurich", "Mars"), "line 5: There is no such time zone.\nFound: 'Mars'."),
        ("---\nsessions: 5 h\n---\n", "line 2: The sessions are no list.\nFound: 5 h."),
        ("---\nsessions:\n  - 10:40-16:30\n---\n", "line 3: A session has no in."),
        ("---\n- a\n---\n", "line 2: The front matter has no keys."),
        ("---\na: &x 10:40\ntitle: *x\n---\n", "line 3: title is a YAML alias."),
        (FRONT + TABLE.replace("16:30", "16:31"), "The times are written twice, and differ."),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(text, telling):
    with pytest.raises(BadInput) as error:
        read_entry(text, DAY)
    assert telling in str(error.value)


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(BadInput) as error:
        read_entry(FRONT.replace("10:40", "x").replace("17:50", "y").replace("Europe/Zurich", "Mars"), DAY)
    assert [word for word in ("'x'", "'y'", "'Mars'") if word in str(error.value)] == ["'x'", "'y'", "'Mars'"]


def test_what_a_form_cannot_say_is_refused_and_not_half_written():
    with pytest.raises(BadInput, match=r"2026-11-30\.md cannot say this: summary"):
        write_entry(replace(read_entry(TABLE, DAY), summary="one\ntwo"), TABLE)


def test_a_date_in_the_file_is_enough():
    assert read_entry("---\ndate: 2026-01-19\n---\n", "reading.md").date == date(2026, 1, 19)
    with pytest.raises(BadInput, match="The file has no date"):
        read_entry("---\ntitle: x\n---\n", "reading.md")


TIMES = st.builds(
    Time, st.integers(0, 23), st.integers(0, 59), st.integers(0, 2), st.sampled_from(["", "+02:00", "-03:30", "+00:00"])
)
SESSIONS = st.lists(st.builds(Session, TIMES, st.none() | TIMES), max_size=4).map(tuple)
ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=30).map(str.strip)
LINE = st.text(st.characters(categories=["L", "N", "Zs", "Sm"], exclude_characters="#|`*_"), max_size=20)
LINE = LINE.map(lambda text: " ".join(text.split()))
NAMES = st.lists(ANY.filter(bool), max_size=3).map(tuple)
BODY = st.text(st.sampled_from("ab \n$\\#-*[]é😀|~\u2028\t"), max_size=60).filter(lambda text: "---" not in text)


@settings(deadline=None, max_examples=30)
@given(ANY, ANY, ANY, NAMES, SESSIONS, BODY, st.sampled_from(["\n", "\r\n"]), SESSIONS)
def test_what_is_written_in_front_matter_is_read_again(title, goal, summary, names, before, body, newline, after):
    pairs = [(str(one.start), "" if one.end is None else str(one.end)) for one in before]
    text = daily.front(date(2026, 11, 30), pairs).replace("\n", newline) + body
    was = read_entry(text, DAY)
    assert was.sessions == before
    wanted = replace(was, title=title, goal=goal, summary=summary, tags=names, projects=names[:1], sessions=after)
    written = write_entry(wanted, text)
    assert read_entry(written, DAY) == wanted
    assert written.endswith(was.body)
    assert write_entry(read_entry(written, DAY), written) == written


@settings(deadline=None, max_examples=30)
@given(LINE, LINE, LINE, SESSIONS, SESSIONS, st.sampled_from(["\n", "\r\n"]))
def test_what_is_written_in_a_table_is_read_again(title, goal, summary, before, after, newline):
    pairs = [(str(one.start), "" if one.end is None else str(one.end)) for one in before]
    text = daily.table(date(2026, 11, 30), pairs, goal="first").replace("\n", newline)
    was = read_entry(text, DAY)
    assert was.sessions == before
    wanted = replace(was, title=title, goal=goal, summary=summary, sessions=after)
    written = write_entry(wanted, text)
    assert replace(read_entry(written, DAY), body="") == replace(wanted, body="")
    assert f"Notes with $x^2$ of 2026-11-30.{newline}" in written


@settings(deadline=None, max_examples=30)
@given(BODY, BODY)
def test_a_body_is_never_touched(body, more):
    text = daily.front(date(2026, 11, 30), [("10:40", "16:30")]) + body
    was = read_entry(text, DAY)
    assert write_entry(replace(was, body=was.body + more), text) == text + more


def test_an_entry_is_compared_by_what_it_says():
    assert read_entry(FRONT, DAY) == replace(read_entry(FRONT, DAY), path=None)
    assert Entry(date=date(2026, 11, 30)).file == DAY
