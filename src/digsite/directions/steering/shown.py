"""Which tokens a method reads or writes, painted on the tokens themselves."""

from digsite._core.visible import visible
from digsite.models import Tokens
from digsite.models.tokens import Positions


def show(tokens: Tokens, at: Positions = None, *, rows: int = 4) -> str:
    """The tokens with those in brackets that positions select: what `at=` means, before it is used.

    Args:
        tokens: The rows.
        at: As everywhere: an int or several, a slice, a tensor of positions of each row, None for all. What is open at
            its end goes on into every token that is generated, shown as `[…]`.
        rows: Most rows that are shown.

    Raises:
        BadInput: A position lies outside a row.
    """
    places = tokens.places(at)
    chosen = set(zip(places.rows.tolist(), places.columns.tolist(), strict=True))
    open_ended = at is None or (isinstance(at, slice) and at.stop is None)
    lines = []
    for row, strings in enumerate(tokens.strings[:rows]):
        start = tokens.starts[row]
        cells = [f"[{visible(s)}]" if (row, start + at_) in chosen else visible(s) for at_, s in enumerate(strings)]
        lines.append(" ".join([*cells, "[…]"] if open_ended else cells))
    more = [f"and {len(tokens) - rows} more rows"] if len(tokens) > rows else []
    return "\n".join([*lines, *more])
