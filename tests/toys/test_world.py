"""The world is closed, its facts are consistent, and what is held out never reaches training."""

from dataclasses import replace
from itertools import islice, pairwise

import numpy as np
import pytest

from digsite.tasks.words import CAPITALS, FEMALE, MALE, NAMES
from digsite.toys.tinyworld.documents import Author
from digsite.toys.tinyworld.families import FAMILIES
from digsite.toys.tinyworld.vocabulary import BOS, pieces
from digsite.toys.tinyworld.world import HOMES, held_out, rest_of_brackets

BY_NAME = {family.name: family for family in FAMILIES}


def draw(family, n, seed=0):
    return list(islice(family.examples(np.random.default_rng(seed)), n))


def test_what_is_held_out_never_changes():
    # The shipped weights were trained without these: another hash would judge them by what they have seen.
    kept_from_mary = [name for name in NAMES if held_out("ioi", tuple(sorted(("Mary", name))))]
    assert kept_from_mary == ["Ben", "Sam"]


def test_about_one_pair_of_friends_in_ten_is_held_out():
    pairs = [(a, b) for a in sorted(NAMES) for b in sorted(NAMES) if a < b]
    assert 0.06 < np.mean([held_out("ioi", pair) for pair in pairs]) < 0.14


@pytest.mark.parametrize("name", BY_NAME)
def test_every_family_has_questions_to_train_and_questions_to_judge_by(name):
    family = BY_NAME[name]
    examples = draw(family, 800)
    assert 0.02 < np.mean([family.unseen(example) for example in examples]) < 0.25
    assert np.mean([family.trainable(example) for example in examples]) > 0.35
    assert not any(family.unseen(example) and family.trainable(example) for example in examples)


@pytest.mark.slow
def test_no_training_document_begins_with_a_held_out_prompt():
    author = Author()
    words = {index: piece for piece, index in author.words.items()}
    prompts = {
        (BOS, *pieces(example.clean)) for family in FAMILIES for example in draw(family, 3000) if family.unseen(example)
    }
    assert len(prompts) > 1500
    for ids, _ in islice(author.documents(np.random.default_rng(1), notes=0.2), 6000):
        document = tuple(words[index] for index in ids)
        assert not any(document[:stop] in prompts for stop in range(2, len(document)))


def test_held_out_neighbours_never_stand_side_by_side_in_training():
    family = BY_NAME["induction"]
    for example in filter(family.trainable, draw(family, 2000)):
        said = example.clean.split()[3:]
        assert not any(held_out("induction", pair) for pair in pairwise(said))


def test_notes_do_not_give_away_which_of_the_two_places_was_held_out():
    family = BY_NAME["two-hop, facts said"]
    for example in draw(family, 300):
        ((_, _, *places),) = combinations = family.combinations(example)
        assert family.combinations(replace(example, clean=example.corrupt, spans={})) == combinations
        assert places == sorted(word.strip() for word in example.right + example.wrong)


def test_everybody_has_a_home_and_every_country_has_people():
    assert set(HOMES) == set(FEMALE) | set(MALE)
    assert set(HOMES.values()) == set(CAPITALS)


def test_what_follows_from_a_home_follows():
    for example in draw(BY_NAME["two-hop, facts known"], 300):
        country = HOMES[example.part("name")]
        if "capital" in example.clean:
            assert example.right == (f" {CAPITALS[country]}",)


def test_open_giving_lets_either_of_the_first_two_receive():
    for example in draw(BY_NAME["open giving"], 200):
        names = [piece[1:] for piece in pieces(example.clean) if piece[1:] in NAMES]
        assert len(set(names)) == 3
        assert {answer.strip() for answer in example.right} == set(names[:2])


def test_bracket_documents_close_everything():
    for example in draw(BY_NAME["brackets"], 300):
        text = (example.clean + example.right[0] + rest_of_brackets(example)).replace(" ", "")
        while (shorter := text.replace("()", "").replace("[]", "")) != text:
            text = shorter
        assert text == ""
