"""The front matter of an entry: YAML between two lines of dashes.

1. Every value is read as the characters that stand there. YAML would make the number 640 of an unquoted `10:40`.
2. Each value is known with its place, so that a change leaves comments, order, quotes and unknown keys alone.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from digsite.journal.log.places import OPEN, Edit, Problem, Row, Slot, end_of_line, newline_of, read_row
from digsite.journal.log.times import Session, Time

_BASE: type[Any] = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
_FENCE = re.compile(r"\ufeff?---[ \t]*\r?\n")
_CLOSE = re.compile(r"^(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)", re.MULTILINE)
_WORD = re.compile(r"[^\W\d_][\w .+/-]*(?<! )")
_ESCAPED = re.compile(r"[\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff\ufffe\uffff]")
_NO_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
SHAPE = 'Write "sessions:" and below it one "  - in: "10:40"" with its "    out: "16:30"" for each'


class _Loader(_BASE):
    """Gives no value a type, which takes half of the time of reading YAML."""

    # Called for each value, from C: a method of C that takes whatever is given, and says nothing.
    resolve = descend_resolver = ascend_resolver = "".format  # pyright: ignore[reportAssignmentType]


@dataclass(frozen=True)
class Front:
    """The front matter of a text.

    Attributes:
        text: The whole text.
        start: Where the front matter begins, after the dashes.
        stop: Where it ends, before the dashes.
        body: Where the rest begins.
        nodes: Key and value by the name of the key.
    """

    text: str
    start: int
    stop: int
    body: int
    nodes: dict[str, tuple[yaml.Node, yaml.Node]]

    def slot(self, name: str, problems: list[Problem]) -> Slot | None:
        """The text of a key; a list is read as its parts with bars between."""
        if name not in self.nodes:
            return None
        node = self.nodes[name][1]
        if isinstance(node, yaml.ScalarNode):
            return Slot("" if _is_nothing(node) else node.value.strip(), *self._span(node))
        return Slot(" | ".join(self._parts(name, problems)), *self._span(node))

    def words(self, name: str, problems: list[Problem]) -> tuple[str, ...]:
        """The parts of a key: a list, or one text with commas."""
        if name not in self.nodes:
            return ()
        node = self.nodes[name][1]
        if isinstance(node, yaml.ScalarNode):
            return () if _is_nothing(node) else tuple(filter(None, map(str.strip, node.value.split(","))))
        return tuple(self._parts(name, problems))

    def sessions(self, problems: list[Problem]) -> list[Row]:
        """The sessions with their places."""
        node = self.nodes["sessions"][1] if "sessions" in self.nodes else None
        if node is None or (isinstance(node, yaml.ScalarNode) and node.value.strip() in OPEN):
            return []
        if not isinstance(node, yaml.SequenceNode):
            at = self._span(node)[0]
            problems.append(Problem(at, "The sessions are no list", self._said(node), SHAPE))
            return []
        return [row for item in node.value if (row := self._row(item, problems)) is not None]

    def set(self, name: str, value: str) -> Edit:
        """Writes the text of a key."""
        return self._put(name, _quoted(value))

    def set_words(self, name: str, parts: Sequence[str]) -> Edit:
        """Writes the parts of a key as a list on one line."""
        return self._put(name, f"[{', '.join(map(_word, parts))}]")

    def set_sessions(self, rows: Sequence[Row], wanted: Sequence[Session]) -> list[Edit]:
        """Writes the sessions; those that stay keep every character."""
        if not rows or len(wanted) < len(rows):
            return [self._all_sessions(wanted)]
        edits = []
        for row, session in zip(rows, wanted, strict=False):
            if row.session.start != session.start:
                edits.append(Edit(row.start.start, row.start.stop, f'"{session.start}"'))
            if row.session.end != session.end:
                edits.append(self._set_end(row, session.end))
        if added := wanted[len(rows) :]:
            edits.append(self._more_sessions(added))
        return edits

    def _row(self, item: yaml.Node, problems: list[Problem]) -> Row | None:
        found = {}
        if isinstance(item, yaml.MappingNode):
            found = {key.value: node for key, node in item.value if isinstance(node, yaml.ScalarNode)}
        if "in" not in found:
            problems.append(Problem(self._span(item)[0], "A session has no in", self._said(item), SHAPE))
            return None
        start = Slot(found["in"].value, *self._span(found["in"]))
        end = Slot(found["out"].value, *self._span(found["out"])) if "out" in found else None
        return read_row(self.text, start, end, problems)

    def _set_end(self, row: Row, end: Time | None) -> Edit:
        written = "" if end is None else str(end)
        if row.end is not None:
            return Edit(row.end.start, row.end.stop, f'{" " * (row.end.start == row.end.stop)}"{written}"')
        if self._is_flow():
            return Edit(row.start.stop, row.start.stop, f', out: "{written}"')
        line = end_of_line(self.text, row.start.stop)
        item = next(item for item in self._items() if self._span(item)[0] <= row.start.start < self._span(item)[1])
        if isinstance(item, yaml.MappingNode) and item.flow_style:
            return Edit(row.start.stop, row.start.stop, f', out: "{written}"')
        return Edit(line, line, f'{newline_of(self.text)}{" " * item.start_mark.column}out: "{written}"')

    def _more_sessions(self, added: Sequence[Session]) -> Edit:
        node = self.nodes["sessions"][1]
        if self._is_flow():
            at = self._span(node)[1] - 1
            return Edit(at, at, "".join(f", {{{_pair(session, ', ')}}}" for session in added))
        at, indent = self._end(node), " " * node.start_mark.column
        newline = newline_of(self.text)
        lines = "".join(f"{newline}{indent}- {_pair(session, newline + indent + '  ')}" for session in added)
        return Edit(at, at, lines)

    def _all_sessions(self, wanted: Sequence[Session]) -> Edit:
        newline = newline_of(self.text)
        block = "".join(f"{newline}  - {_pair(session, newline + '    ')}" for session in wanted)
        return self._put("sessions", block or "[]", whole=True)

    def _put(self, name: str, written: str, *, whole: bool = False) -> Edit:
        """Puts a value in the place of what a key has, or a new key at the end."""
        space = "" if written[:1] in "\r\n" else " "
        if name not in self.nodes:
            return Edit(self.stop, self.stop, f"{name}:{space}{written}{newline_of(self.text)}")
        key, node = self.nodes[name]
        start, stop = self._span(node)
        if isinstance(node, yaml.ScalarNode) and node.style in (None, "'", '"') and not whole:
            return Edit(start, stop, (" " if start == stop else "") + written)
        colon = self.text.index(":", self._span(key)[1])
        return Edit(colon + 1, max(self._end(node), colon + 1), space + written)

    def _parts(self, name: str, problems: list[Problem]) -> list[str]:
        node = self.nodes[name][1]
        items = node.value if isinstance(node, yaml.SequenceNode) else [node]
        wrong = [item for item in items if not isinstance(item, yaml.ScalarNode)]
        if wrong:
            do = f"Write {name}: [one, two]"
            problems.append(Problem(self._span(wrong[0])[0], f"{name} is no list of words", self._said(wrong[0]), do))
            return []
        return [item.value for item in items]

    def _items(self) -> list[yaml.Node]:
        node = self.nodes["sessions"][1]
        return node.value if isinstance(node, yaml.SequenceNode) else []

    def _is_flow(self) -> bool:
        node = self.nodes["sessions"][1]
        return isinstance(node, yaml.SequenceNode) and bool(node.flow_style)

    def _end(self, node: yaml.Node) -> int:
        """Where the characters of a node end, without the blank lines and comments that YAML counts to it."""
        if not isinstance(node, yaml.CollectionNode) or node.flow_style:
            start, stop = self._span(node)
            return start + len(self.text[start:stop].rstrip()) if stop > start else stop
        last = node.value[-1]
        end = self._end(last[1] if isinstance(last, tuple) else last)
        return end_of_line(self.text, end)

    def _span(self, node: yaml.Node) -> tuple[int, int]:
        return self.start + node.start_mark.index, self.start + node.end_mark.index

    def _said(self, node: yaml.Node) -> str:
        start, stop = self._span(node)
        return " ".join(self.text[start:stop].split())[:60] or "nothing"


def read_front(text: str, problems: list[Problem]) -> Front | None:
    """The front matter of a text; None where it has none, or none that can be read."""
    opening = _FENCE.match(text)
    if opening is None:
        return None
    closing = _CLOSE.search(text, opening.end())
    if closing is None:
        problems.append(Problem(0, "The front matter has no end", "--- only at its beginning", "Close it with ---"))
        return None
    start, stop = opening.end(), closing.start()
    try:
        root = yaml.compose(text[start:stop], Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        at = start + (0 if error.problem_mark is None else error.problem_mark.index)
        problems.append(Problem(at, "The front matter is no YAML", str(error.problem), "Put quotes around the value"))
        return None
    except yaml.YAMLError as error:
        problems.append(Problem(start, "The front matter is no YAML", str(error), "Remove the character"))
        return None
    if root is not None and not isinstance(root, yaml.MappingNode):
        problems.append(
            Problem(start, "The front matter has no keys", text[start:stop][:40], 'Write lines as title: "…"')
        )
        return None
    nodes: dict[str, tuple[yaml.Node, yaml.Node]] = {}
    for key, node in () if root is None else root.value:
        at = start + key.start_mark.index
        if key.value in nodes:
            problems.append(Problem(at, f"{key.value} is written twice", str(node.value)[:60], "Keep one"))
        elif node.start_mark.index < key.end_mark.index:
            problems.append(Problem(at, f"{key.value} is a YAML alias", "*", "Write the value itself"))
        else:
            nodes[str(key.value)] = key, node
    return Front(text, start, stop, closing.end(), nodes)


def _pair(session: Session, between: str) -> str:
    end = "" if session.end is None else f'{between}out: "{session.end}"'
    return f'in: "{session.start}"{end}'


def _is_nothing(node: yaml.ScalarNode) -> bool:
    return node.style is None and node.value in ("", "~", "null")


def _word(text: str) -> str:
    plain = _WORD.fullmatch(text) and text.lower() not in _NO_WORDS
    return text if plain else _quoted(text)


def _quoted(text: str) -> str:
    """A text in quotes; what YAML does not let stand in them is escaped."""
    return _ESCAPED.sub(_escaped, json.dumps(text, ensure_ascii=False))


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"
