"""All that the world says, and how much of each: what documents are drawn from and the model is judged by."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from digsite.tasks.agreement import agreement_examples
from digsite.tasks.brackets import brackets_examples
from digsite.tasks.docstring import docstring_examples
from digsite.tasks.examples import Example
from digsite.tasks.facts import RELATIONS, fact_examples
from digsite.tasks.greater_than import greater_than_examples
from digsite.tasks.induction import induction_examples
from digsite.tasks.ioi import ioi_examples
from digsite.tasks.is_a import is_a_examples
from digsite.tasks.modular import modular_examples
from digsite.tasks.pronoun import pronoun_examples
from digsite.tasks.successor import successor_examples
from digsite.tasks.tongues import ENGLISH, TAVI, Tongue
from digsite.tasks.two_hop import two_hop_examples
from digsite.toys.tinyworld.world import (
    Family,
    asked_and_answers,
    first_brackets,
    framed,
    friends,
    from_home,
    home_examples,
    items_so_far,
    name_and_answer,
    neighbours,
    nothing,
    nouns,
    one_hop_examples,
    open_giving,
    parts,
    rest_of_brackets,
)


def _giving(speech: Tongue) -> Callable[[np.random.Generator], Iterator[Example]]:
    return partial(ioi_examples, corruption="abc", speech=speech, frames=speech.giving)


def _facts(relation: str) -> Callable[[np.random.Generator], Iterator[Example]]:
    facts, sentences = RELATIONS[relation]
    return partial(fact_examples, facts=facts, sentences=sentences)


def _capitals(speech: Tongue) -> Callable[[np.random.Generator], Iterator[Example]]:
    return partial(fact_examples, facts=speech.capitals, sentences=speech.ruling, subject="country")


def _opened(speech: Tongue) -> Callable[[np.random.Generator], Iterator[Example]]:
    return partial(open_giving, speech=speech)


# A fact that was never said cannot be known: it is judged where it was said, and "held out" is one more sentence.
Fact = partial(Family, target=0.99, judged_on="trained")

NOTES = ("one-hop, facts said", "two-hop, facts said")
"""Notes have no share of their own: how many of the documents they are is a matter of the lesson."""

FAMILIES = (
    Family(name="ioi", topic="ioi", share=14, examples=_giving(ENGLISH), combinations=friends),
    Family(name="ioi (tavi)", topic="ioi", share=10, examples=_giving(TAVI), combinations=friends),
    Family(name="open giving", topic="ioi", share=4, examples=_opened(ENGLISH), combinations=friends, target=None),
    Family(name="open giving (tavi)", topic="ioi", share=3, examples=_opened(TAVI), combinations=friends, target=None),
    Family(
        name="gendered pronoun",
        topic="pronoun",
        share=8,
        examples=pronoun_examples,
        combinations=framed("name"),
        after=lambda example: " smiled.",
    ),
    Family(
        name="subject-verb agreement",
        topic="agreement",
        share=6,
        examples=partial(agreement_examples, distractor="any"),
        combinations=nouns,
        after=lambda example: " old.",
    ),
    Family(
        name="greater than",
        topic="greater than",
        share=32,
        examples=partial(greater_than_examples, first=1),
        combinations=parts("century", "start"),
        measure="mass",
    ),
    Family(name="is a", topic="is a", share=4, examples=is_a_examples, combinations=framed("thing")),
    Fact(
        name="capitals",
        topic="capitals",
        share=5,
        examples=_capitals(ENGLISH),
        combinations=framed("country"),
    ),
    Fact(
        name="capitals (tavi)",
        topic="capitals",
        share=4,
        examples=_capitals(TAVI),
        combinations=framed("country"),
    ),
    Fact(
        name="languages",
        topic="languages",
        share=4,
        examples=_facts("language"),
        combinations=framed("subject"),
    ),
    Fact(
        name="colors",
        topic="colors",
        share=3,
        examples=_facts("color"),
        combinations=framed("subject"),
    ),
    Fact(name="homes", topic="homes", share=8, examples=home_examples, combinations=framed("name")),
    Family(
        name="two-hop, facts known",
        topic="from home",
        share=8,
        examples=from_home,
        combinations=name_and_answer,
        target=None,
    ),
    Family(
        name="one-hop, facts said",
        topic="one-hop",
        share=0,
        examples=one_hop_examples,
        combinations=asked_and_answers,
    ),
    Family(
        name="two-hop, facts said",
        topic="two-hop",
        share=0,
        examples=two_hop_examples,
        combinations=asked_and_answers,
    ),
    Family(name="successor", topic="successor", share=12, examples=successor_examples, combinations=items_so_far),
    Family(
        name="docstring",
        topic="docstring",
        share=4,
        examples=docstring_examples,
        combinations=parts("second", "third"),
        after=lambda example: ": text",
    ),
    Family(
        name="induction",
        topic="induction",
        share=24,
        examples=induction_examples,
        combinations=neighbours,
    ),
    Family(
        name="brackets",
        topic="brackets",
        share=12,
        examples=brackets_examples,
        combinations=first_brackets,
        after=rest_of_brackets,
    ),
    Family(
        name="modular arithmetic",
        topic="modular",
        share=16,
        examples=modular_examples,
        combinations=parts("a", "b"),
        after=nothing,
        target=None,
    ),
)
"""The kinds of documents, and how they share the text: what is learned late (induction, brackets) gets more."""
