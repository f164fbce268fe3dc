"""Indirect object identification: "When Mary and John went to the store, John gave a drink to" -> " Mary"."""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from digsite._core.errors import BadInput, explain
from digsite.models import Model
from digsite.tasks.build import build
from digsite.tasks.examples import Example
from digsite.tasks.frames import Frame
from digsite.tasks.sampling import Keep, distinct, pick, pick_distinct
from digsite.tasks.task import Task
from digsite.tasks.tongues import Tongue, tongue
from digsite.tasks.words import NAMES

Corruption = Literal["abc", "flip", "random-names"]
CORRUPTIONS: tuple[str, ...] = ("abc", "flip", "random-names")


def ioi(
    model: Model,
    n: int = 200,
    *,
    seed: int = 0,
    corruption: Corruption = "flip",
    language: str = "english",
    templates: Sequence[str] | None = None,
    names: Sequence[str] = NAMES,
    keep: Keep | None = None,
) -> Task:
    """Who receives the gift: the name that was said once, not the one that was said twice.

    Fifteen templates, each with the receiver first (ABBA) or second (BABA). Spans: IO, S1, S2 (and place, gift).

    Args:
        model: Its tokenizer decides which examples can be used.
        n: Examples wanted.
        seed: Of the draw.
        corruption: How the corrupt prompt differs. "abc": three other names, so that nothing says who receives;
            "flip": the second subject becomes the other name, so that the other name is the answer;
            "random-names": the same sentence about two other people.
        language: "english", or "tavi", the second language of digsite/tinyworld.
        templates: Own sentences that end before the receiver, with the gaps {A} {B} {C}, and {place} and {gift} if
            wanted.
        names: Names to draw from.
        keep: Takes an example and says whether it may be used.

    Raises:
        BadInput: An unknown corruption or language, or a template without the three gaps.

    Source: Wang et al. 2022, "Interpretability in the Wild" (sections 2 and 3); templates and names are our own.

    Caveats: "abc" leaves the answer open, "flip" turns it round: a logit difference of the corrupt prompts near 0
    and one near the negative of the clean one are both right, each for its corruption.
    """
    if corruption not in CORRUPTIONS:
        raise BadInput(explain(f"IOI has no corruption {corruption!r}", possible=CORRUPTIONS, near=corruption))
    chosen = own_frames(templates) if templates is not None else tongue(language).giving
    stream = ioi_examples(
        np.random.default_rng(seed), corruption=corruption, speech=tongue(language), frames=chosen, names=names
    )
    return build(
        model,
        "ioi",
        "How does {model} know who receives the gift?",
        distinct(stream, n, keep),
        n,
        seed=seed,
        options={"corruption": corruption, "language": language, "templates": templates, "names": names},
        description=f"indirect object identification, {language}, {len(chosen)} templates in both orders, "
        f"corrupt prompts: {corruption}",
    )


def own_frames(templates: Sequence[str]) -> tuple[Frame, ...]:
    """The user's templates as frames, all faults reported at once."""
    made = tuple(Frame(text) for text in templates)
    bad = [frame.text for frame in made if not {"A", "B", "C"} <= set(frame.gaps) <= {"A", "B", "C", "place", "gift"}]
    if bad or not made:
        raise BadInput(
            explain(
                "An IOI template needs the gaps {A}, {B} and {C}, and may have {place} and {gift}",
                found="; ".join(map(repr, bad)) or "no template",
                do='write for example "When {A} and {B} went to the {place}, {C} gave a {gift} to"',
            )
        )
    return made


def ioi_examples(
    rng: np.random.Generator,
    *,
    corruption: str,
    speech: Tongue,
    frames: Sequence[Frame],
    names: Sequence[str] = NAMES,
) -> Iterator[Example]:
    """Endless IOI pairs as text."""
    while True:
        receiver, giver, *others = pick_distinct(rng, names, 5)
        frame, abba = pick(rng, frames), rng.random() < 0.5
        things = {"place": pick(rng, speech.places), "gift": pick(rng, speech.gifts)}
        cast = (receiver, giver, giver)
        corrupt_cast = {
            "abc": tuple(others),
            "flip": (receiver, giver, receiver),
            "random-names": (others[0], others[1], others[1]),
        }[corruption]
        clean = frame.fill(things | _roles(cast, abba=abba))
        where = {"A": "IO", "B": "S1"} if abba else {"A": "S1", "B": "IO"}
        yield Example(
            clean=clean.text,
            corrupt=frame.fill(things | _roles(corrupt_cast, abba=abba)).text,
            right=(f" {receiver}",),
            wrong=(f" {giver}",),
            spans={(where | {"C": "S2"}).get(gap, gap): span for gap, span in clean.spans.items()},
            group=f"{'ABBA' if abba else 'BABA'}: {frame.text}",
        )


def _roles(cast: Sequence[str], *, abba: bool) -> dict[str, str]:
    """Gap -> name for (receiver, giver, giver again)."""
    first, second, third = cast
    return {"A": first if abba else second, "B": second if abba else first, "C": third}
