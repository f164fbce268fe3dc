"""Gendered pronoun: "One day, Lily was very sad." -> " She"."""

from collections.abc import Iterator, Sequence

import numpy as np

from digsite.models import Model
from digsite.tasks.build import build
from digsite.tasks.examples import Example
from digsite.tasks.frames import Frame, frames
from digsite.tasks.sampling import Keep, distinct, pick
from digsite.tasks.task import Task
from digsite.tasks.words import FEMALE, MALE

# Plain stories: small models that were trained on TinyStories can continue them too.
STORIES = frames(
    "One day, {name} went to the park.",
    "One day, {name} was very sad.",
    "One day, {name} was playing in the park.",
    "{name} was very happy.",
    "{name} had a big red ball.",
    "{name} loved to play with the ball.",
    "Once upon a time, there was a child named {name}.",
    "{name} was sad because",
    "{name} was so happy that",
)


def gendered_pronoun(
    model: Model,
    n: int = 200,
    *,
    seed: int = 0,
    female: Sequence[str] = FEMALE,
    male: Sequence[str] = MALE,
    keep: Keep | None = None,
) -> Task:
    """Whether "she" or "he" follows a name; the corrupt prompt has a name of the other gender.

    Nine story sentences; after a full stop the answer is " She" or " He", inside a sentence " she" or " he".
    Spans: name.

    Args:
        model: Its tokenizer decides which examples can be used (both names must have equally many tokens).
        n: Examples wanted.
        seed: Of the draw.
        female: Names that take "she".
        male: Names that take "he".
        keep: Takes an example and says whether it may be used.

    Source: Mathwin et al. 2023, "Identifying a Preliminary Circuit for Predicting Gendered Pronouns in GPT-2 Small"
    (theirs is one template; sentences and names here are our own).

    Caveats: The lists hold common associations of English names; a person's pronoun is not a function of the name.
    """
    return build(
        model,
        "gendered-pronoun",
        "How does {model} choose between he and she after a name?",
        distinct(pronoun_examples(np.random.default_rng(seed), female=female, male=male), n, keep),
        n,
        seed=seed,
        options={"female": female, "male": male},
        description="a story sentence about one person; the corrupt prompt names a person of the other gender",
    )


def pronoun_examples(
    rng: np.random.Generator, *, female: Sequence[str] = FEMALE, male: Sequence[str] = MALE
) -> Iterator[Example]:
    """Endless pronoun pairs as text."""
    while True:
        frame: Frame = pick(rng, STORIES)
        hers, his = pick(rng, female), pick(rng, male)
        she, he = (" She", " He") if frame.text.endswith(".") else (" she", " he")
        named, other, right, wrong = (hers, his, she, he) if rng.random() < 0.5 else (his, hers, he, she)
        clean = frame.fill({"name": named})
        yield Example(
            clean=clean.text,
            corrupt=frame.fill({"name": other}).text,
            right=(right,),
            wrong=(wrong,),
            spans=clean.spans,
            group=frame.text,
        )
