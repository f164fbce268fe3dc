"""A sentence for a day without a summary, asked of a language model that the user named.

1. Only days that have notes, and neither a summary nor a draft, are sent, to that address and nowhere else.
2. What comes back is one line, kept in the entry under a key of its own with the model's name; words of a person are
   never replaced, and a summary that is written later is shown instead.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from digsite._core.errors import DigsiteError, MissingExtra, explain

if TYPE_CHECKING:
    from digsite.journal.log import Entry, Log

ASK = (
    "You are given one day of a researcher's log. Say in one plain sentence of at most 25 words what came of the day. "
    "Say only what stands there, negative results too. Answer with the sentence alone."
)
LONGEST, NOTES = 300, 8_000
"""Characters of a draft that are kept, and of a day's notes that are sent."""


class NoDraft(DigsiteError, RuntimeError):
    """The endpoint gave none."""


def drafts(log: "Log", entries: "list[Entry]", *, endpoint: str, model: str) -> "Iterator[Entry]":
    """Asks for a sentence for each day, and writes it into its entry as a draft.

    Args:
        log: The log.
        entries: Days without a summary.
        endpoint: An address that speaks OpenAI's protocol, such as http://localhost:11434/v1. Its key is read from
            OPENAI_API_KEY, and kept nowhere.
        model: The model's name there.

    Raises:
        MissingExtra: The package openai is not installed.
        NoDraft: The endpoint cannot be reached, refuses, or answers nothing.
    """
    try:
        import openai  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtra("openai", "judge", "A draft by a language model") from error
    key = os.environ.get("OPENAI_API_KEY") or "none"
    client = openai.OpenAI(base_url=endpoint, api_key=key, timeout=120)
    for entry in entries:
        told = f"{entry.date}\n{entry.title}\nGoal: {entry.goal}\n\n{entry.body[:NOTES]}"
        asked: Any = [{"role": "system", "content": ASK}, {"role": "user", "content": told}]
        try:
            answer = client.chat.completions.create(model=model, messages=asked)
            said = answer.choices[0].message.content
        except (openai.OpenAIError, IndexError, TypeError, AttributeError, ValueError) as error:
            found = str(error).replace(key, "***") if key != "none" else str(error)
            do = "Is the address right, up to /v1, and the model known there?"
            raise NoDraft(explain(f"{endpoint} gave no draft of {entry.date}", found=found, do=do)) from None
        line = " ".join((said or "").split())[:LONGEST]
        if not line:
            raise NoDraft(explain(f"{model} answered nothing about {entry.date}", do="Try another model"))
        drafted = f"{model}: {line}"
        yield log.change(
            entry.date,
            lambda now, drafted=drafted: now if now.summary else replace(now, drafted=drafted),
            file=entry.file,
        )


def wanting(entries: "tuple[Entry, ...]", last: int) -> "list[Entry]":
    """The newest days that have notes and neither a summary nor a draft."""
    there = (entry for entry in reversed(entries) if entry.body.strip() and not entry.summary and not entry.drafted)
    return list(islice(there, last))
