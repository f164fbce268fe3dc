"""Tokens as a person reads them: a leading space is `·`, a line break `⏎`, a tab `⇥`."""

_SHOWN = str.maketrans({" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍"})


def visible(token: str) -> str:
    """A token's text with everything in it made visible; an empty one is `∅`."""
    shown = token.translate(_SHOWN)
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in shown) or "∅"
