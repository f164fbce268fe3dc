"""Tokens as a person reads them."""

from digsite._core.visible import visible


def test_nothing_in_a_token_is_invisible():
    assert [visible(token) for token in (" Mary", "\n\n", "\t", "", "\x00", "é")] == [
        "·Mary",
        "⏎⏎",
        "⇥",
        "∅",
        "\\x00",
        "é",
    ]
