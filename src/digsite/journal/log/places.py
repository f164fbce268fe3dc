"""Where in a file each thing stands, so that a change rewrites that and nothing else."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from digsite._core.errors import BadInput
from digsite.journal.log.times import HOW, Session, Time

OPEN = ("", "-", "–", "—", "…", "?", "~", "null")
"""What stands for the end of a session that has none."""


class Slot(NamedTuple):
    """A value and where it stands in the text."""

    value: str
    start: int
    stop: int


class Edit(NamedTuple):
    """A piece of text that takes the place of another."""

    start: int
    stop: int
    text: str


class Problem(NamedTuple):
    """What is wrong at a place of a file."""

    at: int
    asked: str
    found: str
    do: str


@dataclass(frozen=True)
class Row:
    """Where a session stands.

    Attributes:
        session: What was read.
        start: Its first time.
        end: Its second time; None where there is no place for one yet.
    """

    session: Session
    start: Slot
    end: Slot | None


def read_row(text: str, start: Slot, end: Slot | None, problems: list[Problem]) -> Row | None:
    """A session of two written times."""
    read: list[Time | None] = []
    for name, slot in (("in", start), ("out", end)):
        if slot is None or (name == "out" and slot.value.strip() in OPEN):
            read.append(None)
            continue
        try:
            read.append(Time.parse(slot.value))
        except BadInput:
            problems.append(Problem(slot.start, f"The time {name} cannot be read", repr(slot.value), HOW))
            return None
    first, second = read
    assert first is not None
    return Row(Session(first, second, line_of(text, start.start)), start, end)


def apply(text: str, edits: Iterable[Edit]) -> str:
    """The text with all edits made; of several at one place the first is written first."""
    made, at = "", 0
    for edit in sorted(edits, key=lambda edit: edit.start):
        made += text[at : edit.start] + edit.text
        at = edit.stop
    return made + text[at:]


def line_of(text: str, at: int) -> int:
    """The number of the line of a place, from 1."""
    return text.count("\n", 0, at) + 1


def end_of_line(text: str, at: int) -> int:
    """Where the line of a place ends, before its newline."""
    end = text.find("\n", at)
    end = len(text) if end < 0 else end
    return end - 1 if end > at and text[end - 1] == "\r" else end


def newline_of(text: str) -> str:
    """How lines end in this text."""
    return "\r\n" if "\r\n" in text else "\n"
