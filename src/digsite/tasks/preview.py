"""Prompt pairs as a person reads them: tokens as the model gets them, what differs underlined and bracketed."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rich.text import Text

from digsite._core.visible import visible

_ANSWERS_SHOWN = 4
_WIDTH, _INDENT = 80, 10


class Shown(NamedTuple):
    """One example, as token strings."""

    title: str
    clean: Sequence[str]
    corrupt: Sequence[str] | None
    right: Sequence[Sequence[str]]
    wrong: Sequence[Sequence[str]]


def preview(head: Sequence[str], examples: Iterable[Shown]) -> Text:
    """The head lines and the examples as styled text; its `.plain` says the same without a terminal."""
    text = Text("\n".join(head))
    text.stylize("bold", 0, len(head[0]))
    for example in examples:
        text.append(f"\n{example.title}\n", style="dim")
        _add_prompt(text, "clean", example.clean, example.corrupt)
        if example.corrupt is not None:
            text.append("\n")
            _add_prompt(text, "corrupt", example.corrupt, example.clean)
        for label, answers in (("right", example.right), ("wrong", example.wrong)):
            if answers:
                spelled = ["│".join(map(visible, answer)) for answer in answers[:_ANSWERS_SHOWN]]
                more = f"  and {len(answers) - _ANSWERS_SHOWN} more" if len(answers) > _ANSWERS_SHOWN else ""
                text.append(f"\n  {label:8}{'  '.join(spelled)}{more}")
    return text


def _add_prompt(text: Text, label: str, tokens: Sequence[str], other: Sequence[str] | None) -> None:
    text.append(f"  {label:8}")
    column = _INDENT
    for i, token in enumerate(tokens):
        differs = other is not None and token != other[i]
        cell = f"⟦{visible(token)}⟧" if differs else visible(token)
        if i:
            text.append("│", style="dim")
        if column + len(cell) + 1 > _WIDTH:
            text.append("\n" + " " * _INDENT)
            column = _INDENT
        text.append(cell, style="underline" if differs else "")
        column += len(cell) + 1
