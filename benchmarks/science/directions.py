"""Directions that steer and read, in a model that is known and in one that wrote stories, each with its card.

1. digsite/tinyworld: gender, number and language are steered on every token, at two layers. A direction is found on
   some words and judged on others; the half of the prompts that chooses the coefficient chooses the layer too. Beside
   it stands the same from the last token of the prompt on.
2. digsite/tinyworld: probes of one event told in English and in Tavi, carried from one language to the other and back.
   People come in pairs, and no pair is on both sides. Gender has its probe card.
3. stories260K: gender at the name, with its probe card, steer card and monitor, and at the last token; what kind of
   head each head is; lenses on the same held-out text.
4. What did not stand up to its control heads the page.

stories260K and TinyStories are read from the folder in DIGSITE_TEST_DATA; without it, 3. is left out and the page says
so.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch
from benchmarks.science.halves import (
    HE,
    NEUTRAL,
    SHE,
    are_hers,
    events,
    first_named,
    labelled,
    name_ends,
    pronouns,
    verbs,
    who,
    woman,
)
from benchmarks.science.study import Page, Study
from jaxtyping import Float
from torch import Tensor

import digsite
from digsite import Direction, Model, Tokens, tasks
from digsite.directions.probes import LabelledPrompts, ProbeCard, TransferMatrix, monitor, probe_card, transfer_matrix
from digsite.directions.steering import (
    FROM_LAST,
    SteerCard,
    Target,
    difference,
    log_odds,
    steer_card,
    token_target,
)
from digsite.directions.steering.target import token_ids
from digsite.heads import head_scores
from digsite.lenses import Lens, compare_lenses, fit_jacobian, fit_tuned
from digsite.models import Sampling
from digsite.tasks import Corpus
from digsite.tasks.agreement import PLURAL, SINGULAR
from digsite.tasks.same_meaning import who_receives
from digsite.tasks.tongues import ENGLISH, TAVI
from digsite.tasks.words import FEMALE, MALE, NAMES

COEFFICIENTS = (-1.0, -0.5, -0.25, -0.1, 0.1, 0.25, 0.5, 1.0)
LAYERS = (1, 2)
STORY_LAYERS = (1, 3)
EVERY, LAST = "every token", "from the last of the prompt on"
TOKENS = {EVERY: None, LAST: FROM_LAST}
EVENTS = 12
STEPS, JACOBIANS, ROWS = 100, 24, 64
"""Of the tuned lens; prompts of the Jacobian lens; rows of held-out text that lenses are judged on."""
SHOWN = ("effect", "low", "high", "wrong_way", "kl", "loss_added", "random_least", "random_most", "random_kl")
HER_WORDS = ("girl", "mom", "sister", "lady", "queen", "princess", "grandma", "aunt", "woman", "daughter")
HIS_WORDS = ("boy", "dad", "brother", "gentleman", "king", "prince", "grandpa", "uncle", "man", "son")
NOUN_FRAMES = ("One day, the little {}", "Once upon a time, there was a {}", "The {}")


def study() -> Study:
    """The whole study; says on the way what it finds."""
    page = Page("Directions: steered, read and watched")
    model = digsite.load("digsite/tinyworld", verify=False)
    _steered(page, model)  # 1
    _read(page, model)  # 2
    folder = os.environ.get("DIGSITE_TEST_DATA")
    if folder:
        _stories(page, Path(folder))  # 3
    else:
        page.lines += ["## stories260K", "", "Left out: DIGSITE_TEST_DATA does not name a folder with the model.", ""]
    return page.written()


# -- 1. ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Steered:
    """What is steered.

    Attributes:
        title: Of the section.
        asked: What was done.
        find: The direction at a site.
        target: What it is meant to raise.
        neutral: Prompts that have nothing to do with it.
    """

    title: str
    asked: str
    find: Callable[[str], Direction]
    target: Target
    neutral: Tokens


def _steered(page: Page, model: Model) -> None:
    found, judged = (pronouns(model, part) for part in (0, 1))
    subjects, others = (verbs(model, part) for part in (0, 1))
    hers, plural = are_hers(found), torch.tensor([PLURAL[0] in right for right in subjects.right.texts])
    digits = tasks.greater_than(model, n=NEUTRAL).clean
    some, rest = NAMES[::4], [name for name in NAMES if name not in NAMES[::4]]
    english, tavi = (
        model.tokens([f"{opener} {name}" for opener in openers for name in some])
        for openers in (("When", "After", "While"), ("Kel", "Pos", "Edun"))
    )
    capitals, theirs = ([f" {city}" for city in speech.capitals.values()] for speech in (ENGLISH, TAVI))

    def female(site: str) -> Direction:
        return difference(model, found.clean[hers], found.clean[~hers], site, text=others.clean, name="female")

    def many(site: str) -> Direction:
        sides = subjects.clean[plural], subjects.clean[~plural]
        return difference(model, *sides, site, text=found.clean, name="plural")

    def other_language(site: str) -> Direction:
        return difference(model, tavi, english, site, text=digits, name="Tavi")

    _cards(
        page,
        model,
        Steered(
            title="tinyworld: steering gender",
            asked="Found on sentences about half of the names, judged on sentences about the others.",
            find=female,
            target=token_target(model, judged.clean, SHE, against=HE),
            neutral=others.clean,
        ),
    )
    _cards(
        page,
        model,
        Steered(
            title="tinyworld: steering number",
            asked="Found on half of the nouns as subjects, judged on the others; between subject and verb stands a "
            "noun of the opposite number.",
            find=many,
            target=token_target(model, others.clean, PLURAL, against=SINGULAR),
            neutral=found.clean,
        ),
    )
    _cards(
        page,
        model,
        Steered(
            title="tinyworld: steering language where it is open",
            asked="Found at a name after the first word of an English sentence and of a Tavi one; judged where a "
            "sentence begins with another name and both languages may go on.",
            find=other_language,
            target=token_target(model, model.tokens(rest), [" ma", " len"]),
            neutral=digits,
        ),
    )
    _cards(
        page,
        model,
        Steered(
            title="tinyworld: steering language where it is settled",
            asked="The same direction, judged at the end of English sentences that ask for a capital: does the model "
            "give a Tavi city?",
            find=other_language,
            target=token_target(model, tasks.capital_of(model, n=64).clean, theirs, against=capitals),
            neutral=digits,
        ),
    )


def _cards(
    page: Page, model: Model, asked: Steered, layers: Sequence[int] = LAYERS, ons: Sequence[str] = (EVERY, LAST)
) -> None:
    """Cards at two layers, on every token and from the last one on; the better layer is shown whole, on every token."""
    ways = {
        (f"layers.{layer}.resid_post", on): steer_card(
            model,
            asked.find(f"layers.{layer}.resid_post"),
            target=asked.target,
            neutral=asked.neutral,
            coefficients=COEFFICIENTS,
            at=TOKENS[on],
            new_tokens=8,
        )
        for layer in layers
        for on in ons
    }
    rows = []
    for (site, on), card in ways.items():
        frame = card.to_frame().filter("chosen").select("coefficient", *SHOWN).to_dicts()
        row = frame[0] if frame else dict.fromkeys(("coefficient", *SHOWN))
        rows.append({"site": site, "written on": on} | row | {"fails": "; ".join(card.failures) or "–"})
    site = max((site for site, on in ways if on == EVERY), key=lambda site: _chosen_by(ways[site, EVERY]))
    best = ways[site, EVERY]
    elsewhere = [(at, _failures(card)) for (at, on), card in ways.items() if on == EVERY and at != site]
    page.part(
        asked.title,
        f"{asked.asked} {len(asked.target.prompts)} prompts, of which half choose coefficient and layer, and half "
        f"report; units are the mean length of an activation. Below, {site} on every token. The KL is a mean over all "
        "tokens of the neutral prompts: where only the last one is written, its cost is that of one token in many.",
        best,
        [pl.DataFrame(rows, infer_schema_length=None), best.to_frame().select("coefficient", *SHOWN, "chosen")],
        [*_failures(best), *(f"{at} in its place: {', '.join(failed)}" for at, failed in elsewhere if failed)],
    )


def _failures(card: SteerCard) -> list[str]:
    """What speaks against a steering."""
    return ["no coefficient raises it at that cost"] * (card.chosen is None) + list(card.failures)


def _chosen_by(card: SteerCard) -> float:
    """The effect on the prompts that choose."""
    return -torch.inf if card.chosen is None else float(card.effect[card.chosen, card.choosing].mean())


# -- 2. ------------------------------------------------------------------------------------------------------------
def _read(page: Page, model: Model) -> None:
    told = [who_receives(model, EVENTS, people=pair, seed=at) for at, pair in enumerate(zip(FEMALE, MALE, strict=True))]
    site = "layers.1.resid_post"
    asked = (
        f"{len(told)} pairs of a woman and a man in {EVENTS} events each, told in both languages; {site}, last token. "
        "Probes are judged on pairs of people that they were not fitted on."
    )
    for question, label in (("a woman receives", woman), ("the one named first receives", first_named)):
        sets = [events(model, [both[speech.name] for both in told], speech.name, label) for speech in (ENGLISH, TAVI)]
        matrix = transfer_matrix(model, sets, site)
        title = f"tinyworld: {question}"
        page.part(title, asked, matrix, [_short(matrix)], [_lost(matrix)] * bool(matrix.lost))
    found, judged = (pronouns(model, part) for part in (0, 1))
    card = probe_card(
        model,
        labelled(found, "she", -1),
        site,
        others=[labelled(judged, "other names", -1)],
        neutral=verbs(model, 0).clean,
        neutral_at=-1,
        behaviour=judged,
    )
    asked = (
        f"{site}, at the last token, where the model is about to say she or he. In another set of sentences all names "
        "are others."
    )
    page.part("tinyworld: a probe of gender", asked, card, _tables(card), card.failures())


def _short(matrix: TransferMatrix) -> pl.DataFrame:
    return matrix.to_frame().select("train", "test", "auroc", "low", "high", "accuracy", "random_95", "cosine", "n")


def _lost(matrix: TransferMatrix) -> str:
    return f"no better than random directions: {', '.join(f'{train} → {test}' for train, test in matrix.lost)}"


# -- 3. ------------------------------------------------------------------------------------------------------------
def _stories(page: Page, folder: Path) -> None:
    model = digsite.load(folder / "models/stories260K", verify=False)
    texts = json.loads((folder / "data/tinystories/tinystories_clean.json").read_text())
    stories = Corpus.of(texts[:32], model, length=128, name="TinyStories")
    neutral = next(stories.batches(64))
    found, judged = (pronouns(model, part) for part in (0, 1))
    hers, name = are_hers(found), name_ends(found)
    site = f"layers.{STORY_LAYERS[1]}.resid_post"

    sides = found.clean[hers], found.clean[~hers]
    target = token_target(model, judged.clean, SHE, against=HE)

    def female(site: str) -> Direction:
        return difference(model, *sides, site, at=name[hers], minus_at=name[~hers], text=neutral, name="female")

    def at_last(site: str) -> Direction:
        return difference(model, *sides, site, text=neutral, name="female, at the last token")

    _gender_at_the_name(page, model, site, stories)
    _cards(
        page,
        model,
        Steered(
            title="stories260K: steering gender",
            asked="Found at half of the names, judged at the end of sentences about the others.",
            find=female,
            target=target,
            neutral=neutral,
        ),
        STORY_LAYERS,
    )
    _cards(
        page,
        model,
        Steered(
            title="stories260K: steering gender, found at the last token",
            asked="The same, found at the end of the sentences.",
            find=at_last,
            target=target,
            neutral=neutral,
        ),
        STORY_LAYERS,
        (EVERY,),
    )
    watched = monitor(model, female(site), judged.clean, new=48, sample=Sampling())
    asked = f"The direction of gender ({site}) while the model goes on from {len(judged)} prompts, temperature 1."
    wrong = [] if watched.choice is None else watched.check().filter(~pl.col("within"))["level"].to_list()
    failures = ["no tail fits"] if watched.choice is None else [f"held-out sequences above {at:.1f}" for at in wrong]
    tables = [] if watched.choice is None else [watched.check()]
    tables.append(watched.to_frame())
    page.part("stories260K: a monitor of gender", asked, watched, tables, failures)
    heads = head_scores(model, text=stories, random_weights=True)
    asked = (
        "Every kind of head, on random repeats and on stories, beside its null and the same model with shuffled "
        "weights; of each kind the strongest head."
    )
    page.part("stories260K: what each head does", asked, heads, [heads.best().drop("unit", "n")])
    _lenses(page, model, texts)


def _gender_at_the_name(page: Page, model: Model, site: str, stories: Corpus) -> None:
    """The probe is read at the last token of the name, and names are split, not sentences."""
    task = tasks.gendered_pronoun(model, n=300)
    named = [frame.format(word) for words in (HER_WORDS, HIS_WORDS) for word in words for frame in NOUN_FRAMES]
    hers = torch.arange(len(named)) < len(named) // 2
    she, he = (token_ids(model, words) for words in (SHE, HE))

    def she_against_he(logits: Float[Tensor, "batch pos vocab"]) -> Float[Tensor, " batch"]:
        return log_odds(logits[:, -1], she, he)

    card = probe_card(
        model,
        LabelledPrompts(name="she", tokens=task.clean, labels=are_hers(task), groups=who(task), at=name_ends(task)),
        site,
        fit="logistic",
        others=[LabelledPrompts(name="nouns", tokens=model.tokens(named), labels=hers)],
        neutral=stories,
        behaviour=she_against_he,
    )
    asked = (
        f"{site}, at the last token of the name; half of the names are held out. Another set has words such as "
        f"{', '.join(HER_WORDS[:3])} in their place. It is ablated at the name, and its effect read at the end of the "
        "sentence. The neutral text is stories, which have girls and boys in them: a probe of gender has to fire there."
    )
    page.part("stories260K: a probe of gender at the name", asked, card, _tables(card), card.failures())


def _lenses(page: Page, model: Model, texts: Sequence[str]) -> None:
    """Four lenses on rows of text that none was fitted on."""
    learn, held_out = Corpus.of(list(texts), model, length=256, name="TinyStories").split(ROWS)
    lenses = {
        "logit": Lens(model),
        "tuned": fit_tuned(model, learn, held_out, steps=STEPS),
        "Jacobian": fit_jacobian(model, learn, prompts=JACOBIANS),
    }
    compared = compare_lenses(model, held_out, lenses, learn=learn, rows=ROWS)
    asked = (
        f"The tuned lens learned for {STEPS} steps of 4 rows, the Jacobian lens is the mean of {JACOBIANS} prompts; "
        f"all are judged on the same {ROWS} rows of 256 tokens. KL is from the model, in nats a token; null is the "
        "lens on the stream of another token."
    )
    failures = [compared.verdict.split("; ")[1]] if " is no nearer than " in compared.verdict else []
    shown = compared.to_frame().drop("ahead", "ce", "n")
    page.part("stories260K: lenses", asked, compared, [shown], failures)


def _tables(card: ProbeCard) -> list[pl.DataFrame]:
    """The AUROC by whom and on what; recall, calibration and the causal check of the probe."""
    frame = card.to_frame()
    tables = [frame.select("set", "by", "auroc", "low", "high", "accuracy", "random_95", "n")]
    own = frame.filter(pl.col("recall").is_not_null() | pl.col("brier").is_not_null())
    tables.append(own.select("set", "recall", "recall_low", "recall_high", "brier", "calibration_error"))
    if card.causal is None:
        return tables
    rows = card.causal.to_frame()
    random = rows.filter(pl.col("change").str.starts_with("random")).sort("lost", descending=True)
    return [*tables, pl.concat([rows.head(2), random.head(1)])]
