"""Subject–verb agreement across a distractor: "The key near the flowers" -> " is"."""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from digsite._core.errors import BadInput, explain
from digsite.models import Model
from digsite.tasks.build import build
from digsite.tasks.examples import Example
from digsite.tasks.frames import frames
from digsite.tasks.sampling import Keep, distinct, pick, pick_distinct
from digsite.tasks.task import Task
from digsite.tasks.words import NOUNS

Distractor = Literal["opposite", "same", "any"]
DISTRACTORS: tuple[str, ...] = ("opposite", "same", "any")
SINGULAR, PLURAL = (" is", " was", " has"), (" are", " were", " have")
PLACINGS = frames(
    "The {subject} near the {distractor}",
    "The {subject} behind the {distractor}",
    "The {subject} with the {distractor}",
    "The {subject} next to the {distractor}",
    "The {subject} that we saw near the {distractor}",
)


def subject_verb_agreement(
    model: Model, n: int = 200, *, seed: int = 0, distractor: Distractor = "opposite", keep: Keep | None = None
) -> Task:
    """Whether the verb agrees with its subject although another noun stands closer.

    Right and wrong are three verb forms each (is, was, has; are, were, have). Spans: subject, distractor.

    Args:
        model: Its tokenizer decides which examples can be used.
        n: Examples wanted.
        seed: Of the draw.
        distractor: Number of the noun in between, "opposite" to that of the clean subject, the "same", or "any".
        keep: Takes an example and says whether it may be used.

    Raises:
        BadInput: An unknown kind of distractor.

    Source: Linzen, Dupoux & Goldberg 2016, "Assessing the Ability of LSTMs to Learn Syntax-Sensitive Dependencies";
    sentences are our own.
    """
    if distractor not in DISTRACTORS:
        raise BadInput(explain(f"There is no distractor {distractor!r}", possible=DISTRACTORS, near=distractor))
    return build(
        model,
        "subject-verb-agreement",
        "How does {model} make the verb agree with a subject that is not the nearest noun?",
        distinct(agreement_examples(np.random.default_rng(seed), distractor=distractor), n, keep),
        n,
        seed=seed,
        options={"distractor": distractor},
        description=f"a subject, a distractor noun of {distractor} number, then a verb; "
        "the corrupt prompt has the subject in the other number",
    )


def agreement_examples(rng: np.random.Generator, *, distractor: str) -> Iterator[Example]:
    """Endless agreement pairs as text."""
    nouns = tuple(NOUNS.items())
    while True:
        frame = pick(rng, PLACINGS)
        subject, other = pick_distinct(rng, nouns, 2)
        number = int(rng.random() < 0.5)  # 0 singular, 1 plural
        between = {"opposite": 1 - number, "same": number, "any": int(rng.random() < 0.5)}[distractor]
        clean = frame.fill({"subject": subject[number], "distractor": other[between]})
        yield Example(
            clean=clean.text,
            corrupt=frame.fill({"subject": subject[1 - number], "distractor": other[between]}).text,
            right=PLURAL if number else SINGULAR,
            wrong=SINGULAR if number else PLURAL,
            spans=clean.spans,
            group=frame.text,
        )
