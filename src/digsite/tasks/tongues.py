"""Two languages for the same frames: English, and Tavi, which only `digsite/tinyworld` speaks.

Tavi has its own words, its own word order (the verb closes the clause) and the same names of people, so that what
a model shares between languages can be looked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from digsite._core.errors import BadInput, explain
from digsite.tasks.frames import Frame, frames
from digsite.tasks.words import CAPITALS, GIFTS, PLACES, listed


@dataclass(frozen=True)
class Tongue:
    """What a language needs to say who gave what to whom, and which city is the capital of which country."""

    name: str
    places: tuple[str, ...]
    gifts: tuple[str, ...]
    giving: tuple[Frame, ...]
    """{A} and {B} are introduced in this order, {C} is one of them again; the receiver is the next word."""
    capitals: Mapping[str, str]
    ruling: tuple[Frame, ...]
    """{country} is named; its capital is the next word."""


ENGLISH = Tongue(
    name="english",
    places=PLACES,
    gifts=GIFTS,
    giving=frames(
        "When {A} and {B} went to the {place}, {C} gave a {gift} to",
        "After {A} and {B} left the {place}, {C} handed a {gift} to",
        "{A} and {B} met at the {place}, and {C} showed the {gift} to",
        "While {A} and {B} were walking to the {place}, {C} passed a {gift} to",
        "Yesterday {A} and {B} were at the {place}. {C} brought a {gift} for",
        "{A} and {B} had lunch near the {place}. Then {C} offered a {gift} to",
        "Then {A} and {B} worked at the {place}, and {C} lent a {gift} to",
        "Last week {A} and {B} went to the {place}, where {C} bought a {gift} for",
        "The {place} was empty when {A} and {B} came in. {C} sold a {gift} to",
        "At the {place}, {A} talked with {B} until {C} gave the {gift} to",
        "{A} sat with {B} in the {place}. Later {C} sent a {gift} to",
        "In the {place} {A} and {B} found a {gift}, and {C} gave it to",
        "The friends {A} and {B} saw a {gift} at the {place}. {C} took it and showed it to",
        "As {A} and {B} waited near the {place}, {C} threw the {gift} to",
        "Both {A} and {B} wanted the {gift} from the {place}, but {C} left it to",
    ),
    capitals=CAPITALS,
    ruling=frames(
        "The capital of {country} is",
        "The capital city of {country} is called",
        "In {country}, the capital is",
        "People in {country} call their capital",
    ),
)

_TAVI_PLACES = listed("morun selka tavod ilmar pedun korvi hassa luvo renno sadi fermu otela")
_TAVI_GIFTS = listed("jolu kippa ranga bolo fiora kesi lumpa hatto pisma torta karto monu")
_TAVI_CAPITALS = {
    "Falor": "Parun", "Itamo": "Romak", "Esban": "Madrul", "Garmo": "Berlok", "Nipun": "Tokim", "Sinor": "Pekka",
    "Rusko": "Moskel", "Misru": "Kahir", "Elado": "Atenu", "Inglo": "Londra", "Iruna": "Dubel", "Polsk": "Varsu",
    "Norga": "Oslim", "Kubar": "Avano", "Ostro": "Vinda", "Lusita": "Lisba",
}  # fmt: skip

TAVI = Tongue(
    name="tavi",
    places=_TAVI_PLACES,
    gifts=_TAVI_GIFTS,
    giving=frames(
        "Kel {A} ma {B} {place} su olut, {C} {gift} rin dul",
        "Pos {A} ma {B} {place} tor, {C} {gift} hanat dul",
        "{A} ma {B} {place} es mitan, ma {C} {gift} visen dul",
        "Edun {A} ma {B} {place} es vun. {C} {gift} tuvat por",
        "{A} len {B} {place} es sedat. Nuto {C} {gift} rin dul",
        "{place} es {A} ma {B} {gift} findo, ma {C} ta hanat dul",
    ),
    capitals=_TAVI_CAPITALS,
    ruling=frames(
        "{country} ve kaputa",
        "Nime {country} ve kaputa na",
        "Kel {country} ve, kaputa na",
        "{country} su kaputa es",
    ),
)

TONGUES = {tongue.name: tongue for tongue in (ENGLISH, TAVI)}


def tongue(language: str) -> Tongue:
    """The language of this name.

    Raises:
        BadInput: If there is no such language.
    """
    if language not in TONGUES:
        raise BadInput(
            explain(f"There are no frames in the language {language!r}", possible=list(TONGUES), near=language)
        )
    return TONGUES[language]
