"""Recalled facts: "The capital of France is" -> " Paris", and the same question about languages and colours."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from digsite._core.errors import BadInput, explain
from digsite.models import Model
from digsite.tasks.build import build
from digsite.tasks.examples import Example
from digsite.tasks.frames import Frame, frames
from digsite.tasks.sampling import Keep, distinct, pick, pick_distinct
from digsite.tasks.task import Task
from digsite.tasks.tongues import tongue
from digsite.tasks.words import COLORS, SPOKEN

RELATIONS: dict[str, tuple[Mapping[str, str], tuple[Frame, ...]]] = {
    "language": (
        SPOKEN,
        frames(
            "People in {subject} speak",
            "The language of {subject} is",
            "In {subject} they speak",
            "We all know that in {subject} they speak",
        ),
    ),
    "color": (
        COLORS,
        frames(
            "The color of {subject} is",
            "We all know that {subject} is",
            "People know that {subject} is",
            "The color that {subject} has is",
        ),
    ),
}


def capital_of(
    model: Model, n: int = 50, *, seed: int = 0, language: str = "english", keep: Keep | None = None
) -> Task:
    """Which city is a country's capital; the corrupt prompt names another country. Spans: country.

    Args:
        model: Its tokenizer decides which examples can be used.
        n: Examples wanted.
        seed: Of the draw.
        language: "english", or "tavi", the second language of digsite/tinyworld.
        keep: Takes an example and says whether it may be used.

    Raises:
        BadInput: An unknown language.
    """
    speech = tongue(language)
    stream = fact_examples(np.random.default_rng(seed), speech.capitals, speech.ruling, subject="country")
    return build(
        model,
        "capital-of",
        "Where does {model} keep the capitals of countries?",
        distinct(stream, n, keep),
        n,
        seed=seed,
        options={"language": language},
        description=f"a country and its capital, {language}; the corrupt prompt names another country",
    )


def fact_recall(
    model: Model, n: int = 50, *, seed: int = 0, relation: str = "language", keep: Keep | None = None
) -> Task:
    """What is true of a subject in general; the corrupt prompt has a subject with another answer. Spans: subject.

    Args:
        model: Its tokenizer decides which examples can be used.
        n: Examples wanted.
        seed: Of the draw.
        relation: "language" (of a country) or "color" (of a thing).
        keep: Takes an example and says whether it may be used.

    Raises:
        BadInput: An unknown relation.
    """
    if relation not in RELATIONS:
        raise BadInput(explain(f"There are no facts about {relation!r}", possible=list(RELATIONS), near=relation))
    facts, sentences = RELATIONS[relation]
    return build(
        model,
        "fact-recall",
        f"Where does {{model}} keep facts about {relation}s?",
        distinct(fact_examples(np.random.default_rng(seed), facts, sentences), n, keep),
        n,
        seed=seed,
        options={"relation": relation},
        description=f"a subject and its {relation}; the corrupt prompt has a subject with another {relation}",
    )


def fact_examples(
    rng: np.random.Generator, facts: Mapping[str, str], sentences: Sequence[Frame], *, subject: str = "subject"
) -> Iterator[Example]:
    """Endless pairs of two subjects whose answers differ."""
    subjects = tuple(facts)
    while True:
        frame = pick(rng, sentences)
        named, other = pick_distinct(rng, subjects, 2)
        if facts[named] == facts[other]:
            continue
        clean = frame.fill({subject: named})
        yield Example(
            clean=clean.text,
            corrupt=frame.fill({subject: other}).text,
            right=(f" {facts[named]}",),
            wrong=(f" {facts[other]}",),
            spans=clean.spans,
            group=frame.text,
        )
