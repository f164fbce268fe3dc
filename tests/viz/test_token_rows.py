"""Tokens are shown as the model gets them."""

import re

import pytest

from digsite.viz import TokenPair, token_rows, token_text

PAIR = TokenPair(
    clean=("<bos>", "when", " Mary", " and", " John", " gave", " to"),
    corrupt=("<bos>", "when", " Mary", " and", " Anna", " gave", " to"),
    right=(" Mary",),
    wrong=(" John",),
    special=frozenset({"<bos>"}),
)


def tokens(html: str) -> list[tuple[str, str]]:
    """Classes and text of every token."""
    return re.findall(r'<span class="(tok[^"]*)" title="[^"]*">([^<]*)</span>', html)


@pytest.mark.parametrize(
    ("token", "special", "shown"),
    [
        (" Mary", False, "·Mary"),
        ("  ", False, "··"),
        ("\n", False, "⏎"),
        (" \n\t", False, "·⏎⇥"),
        ("<bos>", True, "⟨bos⟩"),
        ("<|endoftext|>", True, "⟨endoftext⟩"),
        ("[CLS]", True, "⟨CLS⟩"),
        ("<bos>", False, "<bos>"),
        ("\x00", False, "\\x00"),
        ("", False, "∅"),
        ("日本", False, "日本"),
    ],
)
def test_a_token_shows_what_is_in_it(token, special, shown):
    assert token_text(token, special=special) == shown


def test_what_differs_is_underlined_and_the_answer_position_ringed():
    shown = tokens(token_rows([PAIR]))
    assert [text for names, text in shown if "differs" in names] == ["·John", "·Anna"]
    assert [text for names, text in shown if "ringed" in names] == ["·to", "·to"]
    assert [text for names, text in shown if "special" in names] == ["⟨bos⟩", "⟨bos⟩"]
    assert shown[2] == ("tok", "when")


def test_the_bos_says_who_put_it_there():
    html = token_rows([PAIR], bos="added by the tokenizer")
    assert html.count("position 0: &#39;&lt;bos&gt;&#39;, BOS added by the tokenizer") == 2
    assert "the answer is read here" in html


def test_answers_say_which_is_right():
    html = token_rows([PAIR])
    assert re.search(r'tok right">.*→.*·Mary', html) and re.search(r'tok wrong">.*not.*·John', html)
    assert "Clean prompt: &lt;bos&gt;when Mary and John gave to Right answer: ·Mary." in html, "for a screen reader"


def test_tokens_cannot_write_into_the_page():
    evil = TokenPair(clean=(" <script>alert(1)</script>", '" onload="x'), special=frozenset())
    html = token_rows([evil])
    assert "<script" not in html and '" onload="x' not in html
    assert "·&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_pairs_wait_for_their_turn():
    html = token_rows([PAIR, PAIR, PAIR])
    assert html.count('<div class="pair" hidden>') == 2 and "<b>1</b> of 3" in html
    assert "steps" not in token_rows([PAIR])


def test_prompts_of_different_length_stand_above_each_other():
    html = token_rows([TokenPair(clean=("a", "b", "c"), corrupt=("a", "b"), answer_at=-1)])
    shown = tokens(html)
    assert [text for names, text in shown if "ringed" in names] == ["b", "c"]
    assert [text for names, text in shown if "differs" in names] == ["c"]


def test_a_prompt_without_a_pair_stands_alone():
    html = token_rows([TokenPair(clean=("a", "b"))])
    assert "corrupt" not in html.lower() and len(tokens(html)) == 2
