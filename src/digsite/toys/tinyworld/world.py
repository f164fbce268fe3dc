"""The world of `digsite/tinyworld`: everything that is true in it, and everything that can be said.

A family is one way of saying something: the examples of a task, taken as they are from `digsite.tasks`, or a fact that
only this world has (who comes from where). A document is one example with its answer. About one combination of words in
ten (two friends, a subject and its distractor, two summands, ...) is never said in training: `held_out` decides which.
"""

import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from digsite.tasks.brackets import CLOSES
from digsite.tasks.brackets import SHORTEST as SHORTEST_BRACKETS
from digsite.tasks.examples import Example
from digsite.tasks.facts import fact_examples
from digsite.tasks.frames import frames
from digsite.tasks.induction import OPENING
from digsite.tasks.sampling import pick, pick_distinct
from digsite.tasks.tongues import Tongue
from digsite.tasks.two_hop import CHAIN
from digsite.tasks.words import CAPITALS, CONTAINERS, GIFTS, NAMES, NOUNS, PLACES, SPOKEN

Combination = tuple[str, ...]
Combinations = Callable[[Example], list[Combination]]

# Everybody comes from somewhere: two people share a country.
HOMES = {name: tuple(CAPITALS)[(7 * index) % len(CAPITALS)] for index, name in enumerate(NAMES)}
HOME_FRAMES = frames(
    "{name} comes from",
    "The home of {name} is",
    "{name} was born in",
    "{name} went home to",
    "The farm of {name} is in",
)
HOME_CAPITAL_FRAMES = frames("The country of {name} has the capital", "The capital of the home of {name} is")
HOME_SPEECH_FRAMES = frames("At home {name} speaks", "The language of the home of {name} is")


def held_out(family: str, combination: Combination) -> bool:
    """Whether this combination of words is never trained on: about one in ten, by a hash that never changes."""
    return zlib.crc32("|".join((family, *combination)).encode()) % 10 == 0


@dataclass(frozen=True, kw_only=True)
class Family:
    """One way of saying something.

    Args:
        name: What the held-out table calls it.
        topic: Families of one topic hold out the same combinations.
        share: Documents of this family among all that are not notes, in parts.
        examples: Endless examples from a seeded generator.
        combinations: What an example combines; first what its question asks, then what else it says.
        after: What follows the answer in a document.
        measure: "accuracy" (the top token of the whole vocabulary is a right answer) or "mass" (probability on right).
        target: What the shipped model has to reach; None is reported as it comes.
        judged_on: What the target is for: "held out" or "trained" combinations.
    """

    name: str
    topic: str
    share: int
    examples: Callable[[np.random.Generator], Iterator[Example]]
    combinations: Combinations
    after: Callable[[Example], str] = lambda example: "."
    measure: str = "accuracy"
    target: float | None = 0.95
    judged_on: str = "held out"

    def unseen(self, example: Example) -> bool:
        """Whether the question of this example is about a held-out combination: the examples to judge by."""
        return held_out(self.topic, self.combinations(example)[0])

    def trainable(self, example: Example) -> bool:
        """Whether nothing in this example is held out."""
        return not any(held_out(self.topic, combination) for combination in self.combinations(example))


def parts(*names: str) -> Combinations:
    """The words at these spans, in this order."""
    return lambda example: [tuple(example.part(name) for name in names)]


def framed(name: str) -> Combinations:
    """The word at this span, in this very sentence."""
    return lambda example: [(example.clean, example.part(name))]


def friends(example: Example) -> list[Combination]:
    """The two who are introduced, whoever of them receives."""
    first, second = sorted((example.part("IO"), example.part("S1")))
    return [(first, second)]


def nouns(example: Example) -> list[Combination]:
    """Subject and distractor, whatever their numbers."""
    singular = {plural: noun for noun, plural in NOUNS.items()}
    subject, distractor = (example.part(name) for name in ("subject", "distractor"))
    return [(singular.get(subject, subject), singular.get(distractor, distractor))]


def asked_and_answers(example: Example) -> list[Combination]:
    """Both things that notes ask for and both answers, whichever belong together: a pair would give the other away."""
    said = re.findall(r"(\w+) (\w+)[,;]", example.clean)
    things = [first for first, _ in said[:2]]
    return [(*sorted(things), *sorted(answer.strip() for answer in (*example.right, *example.wrong)))]


def items_so_far(example: Example) -> list[Combination]:
    """The items in this sentence, and every shorter list that a list of items begins with."""
    listed = re.fullmatch(r"(\w+, )+\w+,", example.clean)
    items = example.clean.rstrip(",").split(", ")
    return [tuple(items[:count]) for count in range(len(items), 1, -1)] if listed else [(example.clean,)]


def neighbours(example: Example) -> list[Combination]:
    """The word before and its successor, then all other neighbours in the list."""
    said = example.clean.removeprefix(OPENING).split()
    return [(example.part("before"), example.part("target")), *pairwise(said)]


def first_brackets(example: Example) -> list[Combination]:
    """How the string begins, so that no trained string contains a held-out prompt."""
    return [tuple(example.clean.split()[:SHORTEST_BRACKETS])]


def rest_of_brackets(example: Example) -> str:
    """The closing brackets of what is still open once the answer is given."""
    still_open: list[str] = []
    for sign in [*example.clean.split(), example.right[0].strip()]:
        still_open.append(CLOSES[sign]) if sign in CLOSES else still_open.pop()
    return "".join(f" {sign}" for sign in reversed(still_open))


def open_giving(rng: np.random.Generator, speech: Tongue) -> Iterator[Example]:
    """Three people, and the third gives: either of the first two may receive. The world behind the "abc" corruption."""
    while True:
        first, second, giver = pick_distinct(rng, NAMES, 3)
        cast = {"A": first, "B": second, "C": giver, "place": pick(rng, speech.places), "gift": pick(rng, speech.gifts)}
        text, spans = pick(rng, speech.giving).fill(cast)
        spans = {"IO": spans["A"], "S1": spans["B"]}
        yield Example(clean=text, corrupt=None, right=(f" {first}", f" {second}"), wrong=(f" {giver}",), spans=spans)


def one_hop_examples(rng: np.random.Generator) -> Iterator[Example]:
    """Notes in which the way ends at the holder, because the places that are said are those of other things."""
    while True:
        things, holders, places = (
            pick_distinct(rng, words, count) for words, count in ((GIFTS, 4), (CONTAINERS, 2), (PLACES, 2))
        )
        asked = int(rng.random() < 0.5)
        words = dict(zip(("thing_1", "thing_2", "holder_3", "holder_4"), things, strict=True))
        words |= dict(zip(("holder_1", "holder_2", "place_3", "place_4"), (*holders, *places), strict=True))
        text, spans = CHAIN.fill(words | {"asked": things[asked]})
        yield Example(
            clean=text, corrupt=None, right=(f" {holders[asked]}",), wrong=(f" {holders[1 - asked]}",), spans=spans
        )


def home_examples(rng: np.random.Generator) -> Iterator[Example]:
    """Where somebody comes from: a fact of this world alone."""
    return fact_examples(rng, HOMES, HOME_FRAMES, subject="name")


def from_home(rng: np.random.Generator) -> Iterator[Example]:
    """What follows from where somebody comes from: the capital of that country, or its language."""
    capitals = {name: CAPITALS[country] for name, country in HOMES.items()}
    speech = {name: SPOKEN[country] for name, country in HOMES.items()}
    streams = (
        fact_examples(rng, capitals, HOME_CAPITAL_FRAMES, subject="name"),
        fact_examples(rng, speech, HOME_SPEECH_FRAMES, subject="name"),
    )
    while True:
        yield next(pick(rng, streams))


def name_and_answer(example: Example) -> list[Combination]:
    """Who, and what follows for them: never said in any sentence."""
    return [(example.part("name"), example.right[0])]


def nothing(example: Example) -> str:
    """The document ends with its answer."""
    return ""
