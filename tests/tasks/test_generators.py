"""Text level of the task families: answers are exact, pairs are minimal, spans name what they say."""

import re
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from digsite._core.errors import BadInput
from digsite.tasks.agreement import agreement_examples
from digsite.tasks.brackets import brackets_examples
from digsite.tasks.docstring import docstring_examples
from digsite.tasks.examples import Example
from digsite.tasks.facts import RELATIONS, fact_examples
from digsite.tasks.families import FAMILIES, family
from digsite.tasks.frames import Frame
from digsite.tasks.greater_than import greater_than_examples
from digsite.tasks.induction import induction_examples
from digsite.tasks.ioi import CORRUPTIONS, ioi_examples, own_frames
from digsite.tasks.is_a import is_a_examples
from digsite.tasks.modular import modular_examples
from digsite.tasks.pronoun import pronoun_examples
from digsite.tasks.sampling import distinct, pick_distinct
from digsite.tasks.successor import ORDERS, successor_examples
from digsite.tasks.tongues import ENGLISH, TAVI, tongue
from digsite.tasks.two_hop import two_hop_examples
from digsite.tasks.words import FEMALE, KINDS, NAMES, NOUNS, SEQUENCES


def _ioi(rng, corruption="abc", speech=ENGLISH):
    return ioi_examples(rng, corruption=corruption, speech=speech, frames=speech.giving)


STREAMS = {
    **{f"ioi {kind} {speech.name}": (lambda rng, k=kind, s=speech: _ioi(rng, k, s)) for kind in CORRUPTIONS
       for speech in (ENGLISH, TAVI)},
    "greater-than": greater_than_examples,
    **{f"agreement {kind}": (lambda rng, k=kind: agreement_examples(rng, distractor=k))
       for kind in ("opposite", "same", "any")},
    "pronoun": pronoun_examples,
    "is-a": is_a_examples,
    "capital": lambda rng: fact_examples(rng, ENGLISH.capitals, ENGLISH.ruling, subject="country"),
    "capital tavi": lambda rng: fact_examples(rng, TAVI.capitals, TAVI.ruling, subject="country"),
    **{f"fact {name}": (lambda rng, n=name: fact_examples(rng, *RELATIONS[n])) for name in RELATIONS},
    "successor": successor_examples,
    "docstring": docstring_examples,
    "induction": induction_examples,
    "brackets": brackets_examples,
    "modular": modular_examples,
    "two-hop": two_hop_examples,
}  # fmt: skip


def draw(name: str, n: int = 200, seed: int = 0) -> list[Example]:
    return list(islice(STREAMS[name](np.random.default_rng(seed)), n))


def words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text)


@pytest.mark.parametrize("name", STREAMS)
def test_the_corrupt_prompt_has_as_many_words_and_differs(name):
    for example in draw(name):
        assert example.corrupt is not None
        assert len(words(example.clean)) == len(words(example.corrupt))
        assert example.clean != example.corrupt


@pytest.mark.parametrize("name", STREAMS)
def test_the_same_seed_draws_the_same_examples_and_another_seed_others(name):
    assert draw(name, 30) == draw(name, 30)
    assert draw(name, 30) != draw(name, 30, seed=1)


@pytest.mark.parametrize(
    "name", sorted(set(STREAMS) - {"successor"} - {n for n in STREAMS if "abc" in n or "ran" in n})
)
def test_one_word_differs_where_one_fact_is_changed(name):
    for example in draw(name):
        changed = [a for a, b in zip(words(example.clean), words(example.corrupt or ""), strict=True) if a != b]
        assert len(changed) == 1


@pytest.mark.parametrize("name", STREAMS)
def test_prompts_end_where_the_answer_begins(name):
    for example in draw(name, 50):
        assert example.clean == example.clean.rstrip()
        assert all(answer.startswith(" ") or name == "greater-than" for answer in example.right + example.wrong)
        assert all(answer.strip() == answer.removeprefix(" ") for answer in example.right + example.wrong)


@pytest.mark.parametrize("speech", [ENGLISH, TAVI], ids=lambda speech: speech.name)
def test_ioi_asks_for_the_name_that_is_said_once(speech):
    for example in islice(_ioi(np.random.default_rng(0), speech=speech), 300):
        said = Counter(word for word in words(example.clean) if word in NAMES)
        assert said == {example.part("IO"): 1, example.part("S1"): 2}
        assert example.right == (f" {example.part('IO')}",)
        assert example.wrong == (f" {example.part('S2')}",) == (f" {example.part('S1')}",)
        assert (example.spans["IO"] < example.spans["S1"]) == example.group.startswith("ABBA")
        assert example.spans["S2"] > max(example.spans["IO"], example.spans["S1"])


def test_ioi_has_fifteen_templates_in_both_orders():
    assert len(ENGLISH.giving) == 15
    groups = {example.group for example in draw("ioi abc english", 2000)}
    assert len(groups) == 30


def test_ioi_corruptions_mean_what_they_say():
    def names(text):
        return [word for word in words(text) if word in NAMES]

    for abc, flip, other in zip(*(draw(f"ioi {kind} english") for kind in CORRUPTIONS), strict=True):
        assert abc.clean == flip.clean == other.clean
        clean = names(abc.clean)
        assert len(set(names(abc.corrupt))) == 3
        assert not set(names(abc.corrupt)) & set(clean)
        assert names(flip.corrupt) == [*clean[:2], abc.part("IO")]
        pattern = [clean.index(name) for name in clean]
        moved = names(other.corrupt)
        assert [moved.index(name) for name in moved] == pattern
        assert not set(moved) & set(clean)


def test_years_that_are_right_are_later_and_all_are_sorted_into_right_or_wrong():
    for example in draw("greater-than"):
        start = int(example.part("start"))
        assert all(int(year) > start for year in example.right)
        assert all(int(year) <= start for year in example.wrong)
        assert len(example.right) + len(example.wrong) == 100
        assert f"{example.part('century')}01 to the year" in (example.corrupt or "")
        assert example.clean.endswith(example.part("century"))


def test_the_verb_agrees_with_the_subject_and_not_with_the_distractor():
    plurals = set(NOUNS.values())
    for kind in ("opposite", "same"):
        for example in draw(f"agreement {kind}"):
            subject_is_plural = example.part("subject") in plurals
            assert (" are" in example.right) == subject_is_plural
            assert ((example.part("distractor") in plurals) == subject_is_plural) == (kind == "same")


def test_she_follows_her_names():
    for example in draw("pronoun"):
        assert (example.right[0].strip().lower() == "she") == (example.part("name") in FEMALE)
        assert example.right[0].strip()[0].isupper() == example.clean.endswith(".")


def test_kinds_and_facts_are_those_of_the_lists():
    for example in draw("is-a"):
        assert example.part("thing") in KINDS[example.right[0].strip()]
        assert example.part("thing") not in KINDS[example.wrong[0].strip()]
    for relation, (facts, _) in RELATIONS.items():
        for example in draw(f"fact {relation}"):
            assert example.right == (f" {facts[example.part('subject')]}",) != example.wrong


def test_the_answer_follows_the_last_item():
    for example in draw("successor", 500):
        items, goes_round = SEQUENCES[example.group]
        here = items.index(example.part("last"))
        assert goes_round or here + 1 < len(items)
        assert example.right == (f" {items[(here + 1) % len(items)]}",)


def test_the_documented_parameter_is_the_third_of_the_signature():
    for example in draw("docstring"):
        inside = re.search(r"self, (\w+), (\w+), (\w+)\)", example.clean)
        assert inside is not None
        assert inside.groups() == tuple(example.part(name) for name in ("first", "second", "third"))
        assert example.right == (f" {example.part('third')}",)
        assert re.findall(r":param (\w+)", example.clean) == [example.part("first"), example.part("second")]


def test_the_repeated_list_goes_on_with_what_followed_before():
    for example in draw("induction"):
        said = example.clean.split()
        assert example.part("last") == example.part("before") == said[-1]
        assert said.count(said[-1]) == 2
        assert f"{said[-1]}{example.right[0]}" in example.clean
        assert f"{said[-1]}{example.wrong[0]}" in (example.corrupt or "")
        assert example.part("target") == example.right[0].strip()


def test_the_closing_bracket_closes_the_innermost_open_one():
    closes = {"(": ")", "[": "]"}
    for example in draw("brackets"):
        rest = example.clean
        while rest != (shorter := re.sub(r"\( ?\)|\[ ?\]", "", rest).replace("  ", " ").strip()):
            rest = shorter
        assert closes[rest.split()[-1]] == example.right[0].strip() == closes[example.part("opener")]
        assert example.wrong[0].strip() in set(closes.values()) - {example.right[0].strip()}


def test_sums_are_right():
    for example in draw("modular"):
        a, b, modulus = (int(example.part(name)) for name in ("a", "b", "modulus"))
        assert example.right == (f" {(a + b) % modulus}",)


def test_two_facts_lead_to_the_place():
    for example in draw("two-hop"):
        facts = dict(re.findall(r"(\w+) (\w+)[,;]", example.clean))
        assert example.right == (f" {facts[facts[example.part('asked')]]}",)
        other = words(example.corrupt or "")[-1]
        assert example.wrong == (f" {facts[facts[other]]}",)
        assert facts[example.part("thing")] == example.part("holder") == example.part("holder_again")
        assert example.part("place") == example.right[0].strip()


def test_tavi_and_english_share_names_of_people_only():
    def said(speech):
        lists = (speech.places, speech.gifts, speech.capitals, speech.capitals.values())
        fixed = " ".join(re.sub(r"\{\w+\}", " ", frame.text) for frame in (*speech.giving, *speech.ruling))
        return {word for each in lists for word in each} | set(re.findall(r"[A-Za-z]+", fixed))

    assert not said(ENGLISH) & said(TAVI)


def test_distinct_stops_when_a_small_family_runs_dry_and_never_repeats():
    stream = successor_examples(np.random.default_rng(0), sequences=("days",))
    found = list(distinct(stream, 10_000))
    assert len(found) == len({(example.clean, example.corrupt) for example in found}) == len(ORDERS) * 7 * 6


def test_keep_filters_the_stream():
    stream = pronoun_examples(np.random.default_rng(0))
    kept = list(islice(distinct(stream, 20, lambda example: "park" in example.clean), 20))
    assert len(kept) == 20
    assert all("park" in example.clean for example in kept)


def test_pick_distinct_draws_every_word_equally_often():
    rng = np.random.default_rng(0)
    counts = Counter(word for _ in range(3000) for word in pick_distinct(rng, "abcdef", 2))
    assert all(abs(count - 1000) < 120 for count in counts.values())


def test_a_frame_knows_where_its_words_landed():
    text, spans = Frame("{A} met {B}").fill({"A": "Mary", "B": "John", "C": "ignored"})
    assert text == "Mary met John"
    assert {gap: text[slice(*span)] for gap, span in spans.items()} == {"A": "Mary", "B": "John"}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"clean": "  "}, "the clean prompt is empty"),
        ({"corrupt": ""}, "the corrupt prompt is empty"),
        ({"right": ()}, "there is no right answer"),
        ({"wrong": ("",)}, "a wrong answer is empty"),
        ({"wrong": (" b",), "right": (" b",)}, "' b' is right and wrong at once"),
        ({"spans": {"S": (1, 9)}}, "span S is 1..9 in a prompt of 3 characters"),
    ],
)
def test_an_example_that_cannot_be_used_says_why(fault, words):
    good = {"clean": "a b", "corrupt": "a c", "right": (" d",), "wrong": (" e",)}
    Example(**good)
    with pytest.raises(BadInput, match=re.escape(words)):
        Example(**(good | fault))


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(BadInput, match="did you mean gendered-pronoun"):
        family("gendered pronouns")
    with pytest.raises(BadInput, match="did you mean tavi"):
        tongue("tavy")
    with pytest.raises(BadInput, match="needs the gaps"):
        own_frames(["{A} met {B} and gave it to"])
    assert set(FAMILIES) >= {"ioi", "greater-than", "gendered-pronoun"}
