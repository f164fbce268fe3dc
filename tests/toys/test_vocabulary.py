"""One word, one token, both ways; what the world does not know is said to be unknown."""

from itertools import islice

import numpy as np
import pytest

from digsite.toys.tinyworld.families import FAMILIES
from digsite.toys.tinyworld.vocabulary import BOS, EOS, UNK, pieces, tokenizer, vocabulary


@pytest.fixture(scope="module")
def made():
    return tokenizer()


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_everything_that_the_world_says_is_known_and_decodes_to_itself(family, made):
    for example in islice(family.examples(np.random.default_rng(0)), 300):
        for text in (example.clean + example.right[0] + family.after(example), example.corrupt or example.clean):
            encoded = made(text)
            assert made.unk_token_id not in encoded.input_ids
            assert encoded.tokens() == [BOS, *pieces(text)]
            assert made.decode(encoded.input_ids, skip_special_tokens=True) == text


def test_words_keep_the_space_before_them_and_years_are_two_pieces():
    assert pieces("Mary met Tom in 1732.") == ["▁Mary", "▁met", "▁Tom", "▁in", "▁17", "32", "."]
    assert pieces("def find(self, size):\n    :param size:") == [
        "▁def", "▁find", "(", "self", ",", "▁size", ")", ":", "\n", "▁▁▁", "▁:", "param", "▁size", ":",
    ]  # fmt: skip


def test_the_vocabulary_is_small_and_begins_with_the_special_tokens():
    words = vocabulary()
    assert 500 < len(words) < 620
    assert list(words)[:4] == ["<pad>", BOS, EOS, UNK]
    assert list(words.values()) == list(range(len(words)))


@pytest.mark.slow
def test_every_word_of_the_vocabulary_can_be_said(made):
    author_said = set()
    for family in FAMILIES:
        for example in islice(family.examples(np.random.default_rng(1)), 4000):
            for text in (example.clean, *example.right, family.after(example)):
                author_said.update(pieces(text))
            author_said.update(answer for answer in example.right if not answer.startswith(" "))
    never = {word for word in vocabulary() if word not in author_said} - {"<pad>", BOS, EOS, UNK, "00", "01"}
    assert not never


def test_an_unknown_word_is_unknown(made):
    assert made("Mary met Zebedee").tokens()[-1] == UNK
