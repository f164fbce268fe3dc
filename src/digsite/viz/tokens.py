"""Prompts as the model gets them: exact tokens, clean over corrupt, differences underlined, the answer position ringed.

A leading space is `·`, a line break `⏎`, a tab `⇥`; special tokens stand in angle brackets and grey, the BOS with who
put it there. Each column is one position, so that the two prompts stay aligned when a line wraps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from markupsafe import Markup

from digsite._core.visible import visible
from digsite.viz.html import render


@dataclass(frozen=True, kw_only=True)
class TokenPair:
    """One prompt pair, token by token.

    Attributes:
        clean: The tokens of the clean prompt, each with its own spaces, padding left out.
        corrupt: The tokens of the corrupt prompt, or None.
        right: The right answers.
        wrong: The wrong answers.
        special: Which strings are special tokens.
        answer_at: The position where the answer is read, counted from the front or, if negative, from the end.
    """

    clean: tuple[str, ...]
    corrupt: tuple[str, ...] | None = None
    right: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    special: frozenset[str] = frozenset()
    answer_at: int = -1


@dataclass(frozen=True)
class _Token:
    text: str
    classes: str
    hover: str


def token_text(token: str, *, special: bool = False) -> str:
    """A token as it is shown: ` Mary` as `·Mary`, a line break as `⏎`, the special `<|bos|>` as `⟨bos⟩`.

    Args:
        token: The token's own text, its spaces included.
        special: It is a special token.
    """
    if special:
        return f"⟨{token.strip('<|>[]⟨⟩ ') or token}⟩"
    return visible(token)


def token_rows(pairs: Sequence[TokenPair], *, bos: str = "") -> Markup:
    """Shows exactly what the model read, pair by pair; on a page the arrow keys walk through them.

    Args:
        pairs: The pairs to show.
        bos: Who put the BOS there (`Tokens.bos`), said when the pointer rests on it.
    """
    shown = [
        {
            "columns": list(zip_longest(_row(pair, pair.clean, bos), _row(pair, pair.corrupt or (), bos))),
            "clean": "".join(pair.clean),
            "corrupt": None if pair.corrupt is None else "".join(pair.corrupt),
            "right": [token_text(answer) for answer in pair.right],
            "wrong": [token_text(answer) for answer in pair.wrong],
        }
        for pair in pairs
    ]
    return render("tokens.html", pairs=shown)


def _row(pair: TokenPair, tokens: Sequence[str], bos: str) -> list[_Token]:
    other = (pair.corrupt or pair.clean) if tokens is pair.clean else pair.clean
    answer_at = pair.answer_at % len(tokens) if tokens else -1
    row = []
    for position, token in enumerate(tokens):
        is_special = token in pair.special
        differs = position >= len(other) or token != other[position]
        signs = {"special": is_special, "differs": differs, "ringed": position == answer_at}
        hover = f"position {position}: {token!r}"
        if is_special and position == 0 and bos:
            hover += f", BOS {bos}"
        if position == answer_at:
            hover += ", the answer is read here"
        classes = " ".join(["tok", *(name for name, holds in signs.items() if holds)])
        row.append(_Token(token_text(token, special=is_special), classes, hover))
    return row
