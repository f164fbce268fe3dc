"""An entry without front matter, or with its times in a table: headings, lines such as `**Goal:** …`, | In | Out |.

What stands in a block of code is text, not a table.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from digsite.journal.log.places import Edit, Problem, Row, Slot, newline_of, read_row
from digsite.journal.log.times import Session

LABELS = ("date", "zone", "goal", "summary", "tags", "project", "update", "drafted")
_LABEL = re.compile(rf"\**({'|'.join(LABELS)})s?\**[ \t]*:[ \t]*\**[ \t]*(.*)", re.IGNORECASE)
_CODE = re.compile(r"^ {0,3}(`{3,}|~{3,})(.*)$", re.MULTILINE)
MAY_HAVE_TIMES = re.compile(r"[iI][nN][ \t*_`]*\|")
"""What a text with a table of times has somewhere; to look for it is quick."""
_RULE = re.compile(r"[|: \t-]*-[|: \t-]*")


@dataclass(frozen=True)
class Table:
    """A table of In | Out times.

    Attributes:
        rows: Its sessions with their places.
        lines: Where each row's line begins and ends, with its newline.
        columns: How many columns it has, and which of them are In and Out.
        stop: Where the next row would be written.
    """

    rows: tuple[Row, ...]
    lines: tuple[tuple[int, int], ...]
    columns: tuple[int, int, int]
    stop: int

    def set_sessions(self, text: str, wanted: Sequence[Session]) -> list[Edit]:
        """Writes the sessions; cells that stay keep every character."""
        edits = []
        for row, session in zip(self.rows, wanted, strict=False):
            if row.session.start != session.start:
                edits.append(Edit(row.start.start, row.start.stop, str(session.start)))
            if row.session.end != session.end and row.end is not None:
                written = "" if session.end is None else str(session.end)
                bare = text[row.end.start - 1] == "|" and text[row.end.stop : row.end.stop + 1] in ("|", "")
                padded = f" {written} " if bare else written
                edits.append(Edit(row.end.start, row.end.stop, padded))
        edits += [Edit(start, stop, "") for start, stop in self.lines[len(wanted) :]]
        if added := wanted[len(self.rows) :]:
            newline, lines = newline_of(text), list(map(self._line, added))
            ended = text[self.stop - 1] == "\n"
            written = "".join(line + newline if ended else newline + line for line in lines)
            edits.append(Edit(self.stop, self.stop, written))
        return edits

    def _line(self, session: Session) -> str:
        count, first, second = self.columns
        cells = [""] * count
        cells[first], cells[second] = str(session.start), "" if session.end is None else str(session.end)
        return "|" + "|".join(f" {cell} " for cell in cells) + "|"


def code_blocks(text: str) -> list[tuple[int, int]]:
    """Where the blocks of code of a text begin and end."""
    found: list[tuple[int, int]] = []
    opened: re.Match[str] | None = None
    for fence in _CODE.finditer(text) if "```" in text or "~~~" in text else ():
        if opened is None:
            opened = fence
        elif fence[1].startswith(opened[1]) and not fence[2].strip():
            found.append((opened.start(), fence.end()))
            opened = None
    return found if opened is None else [*found, (opened.start(), len(text))]


def plain_lines(text: str, start: int) -> list[Slot]:
    """The lines of a text from a place on, without those in blocks of code; a slot's value has no newline."""
    found, blocks = [], code_blocks(text[start:])
    at = 0
    for line in text[start:].split("\n"):
        if not any(first <= at <= last for first, last in blocks):
            found.append(Slot(line.rstrip("\r"), start + at, min(start + at + len(line) + 1, len(text))))
        at += len(line) + 1
    return found


def read_table(text: str, lines: Sequence[Slot], problems: list[Problem]) -> Table | None:
    """The first table with the columns In and Out."""
    for at, line in enumerate(lines[:-1]):
        names = [cell.value.strip(" *_`").lower() for cell in _cells(line)] if "|" in line.value else []
        if {"in", "out"} <= set(names) and _RULE.fullmatch(lines[at + 1].value):
            break
    else:
        return None
    columns = len(names), names.index("in"), names.index("out")
    rows, places, stop = [], [], lines[at + 1].stop
    for line in lines[at + 2 :]:
        if "|" not in line.value or line.start != stop:
            break
        stop = line.stop
        cells = _cells(line)
        if not any(cell.value for cell in cells):
            continue
        if len(cells) <= max(columns[1:]):
            problems.append(Problem(line.start, "A row lacks a cell", line.value, "Write | 10:40 | 16:30 |"))
            continue
        row = read_row(text, cells[columns[1]], cells[columns[2]], problems)
        if row is not None:
            rows.append(row)
            places.append((line.start, line.stop))
    return Table(tuple(rows), tuple(places), columns, stop)


def read_labels(lines: Sequence[Slot]) -> dict[str, Slot]:
    """The first line of each label, by its name, with where its value stands."""
    found: dict[str, Slot] = {}
    for line in lines:
        label = _LABEL.fullmatch(line.value)
        if label and label[1].lower() not in found:
            value = label[2].strip()
            start = line.start + label.start(2)
            found[label[1].lower()] = Slot(value, start, start + len(value))
    return found


def read_title(lines: Sequence[Slot]) -> Slot | None:
    """The first heading of the first level."""
    for line in lines:
        if line.value.startswith("# "):
            value = line.value[2:].strip()
            start = line.start + line.value.index(value, 2) if value else line.start + 2
            return Slot(value, start, start + len(value))
    return None


def _cells(line: Slot) -> list[Slot]:
    """The cells of a line with where their characters stand."""
    text = line.value.rstrip()
    first = len(text) - len(text.lstrip())
    begin, end = first + text[first:].startswith("|"), len(text)
    end -= text.endswith("|") and not text.endswith("\\|") and end > begin
    cells, at = [], begin
    for cut in [*(found.start() for found in re.finditer(r"(?<!\\)\|", text) if begin <= found.start() < end), end]:
        inner = text[at:cut]
        value = inner.strip()
        start = at + (inner.index(value) if value else len(inner) // 2 if len(inner) > 1 else 0)
        cells.append(Slot(value, line.start + start, line.start + start + len(value)))
        at = cut + 1
    return cells
