"""A card says of a good probe that it is good, and of a bad one what is wrong with it."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

import digsite
import digsite.models as models
from digsite import tasks
from digsite._core.errors import BadInput, NotFinite
from digsite._core.ranking import auroc
from digsite.directions.probes import LabelledPrompts, ProbeCard, causal_check, probe_card, transfer_matrix
from digsite.directions.probes.controls import neutral_scores, threshold_for
from digsite.directions.probes.judged import (
    Judged,
    brier,
    calibration_error,
    calibration_null,
    log_odds,
    weighted_auroc,
    weights_of_draws,
)
from digsite.tasks import Corpus
from digsite.tasks.words import FEMALE, MALE

SITE = "layers.2.resid_post"
SHE = (" she", " She")


@pytest.fixture(scope="module")
def model():
    return digsite.load("digsite/tinyworld", verify=False)


def gender(model, part=slice(None), n=60, seed=0, name="female"):
    task = tasks.gendered_pronoun(model, n=n, seed=seed, female=FEMALE[part], male=MALE[part])
    return LabelledPrompts.answering(task, SHE, name=name)


@pytest.fixture(scope="module")
def card(model):
    return probe_card(
        model,
        gender(model, slice(0, 12)),
        SITE,
        others=[gender(model, slice(12, 16), n=30, name="other names")],
        neutral=Corpus.of(["The capital of France is Paris."] * 40, model, length=16, packed=False),
        behaviour=tasks.gendered_pronoun(model, n=30, seed=5),
        draws=5,
    )


# -- what a card says ------------------------------------------------------------------------------------------------
def test_a_probe_of_gender_holds_up_but_for_what_words_say_too(card):
    rows = {(row["by"], row["set"]): row for row in card.to_frame().to_dicts()}
    assert rows["probe", "held out"]["auroc"] > 0.98 and rows["probe", "other names"]["auroc"] > 0.95
    assert rows["bag of words", "held out"]["auroc"] > 0.95, "names of the training part say it"
    assert rows["bag of words", "other names"]["auroc"] < 0.7, "but not names that it has not seen"
    assert rows["token embedding", "held out"]["auroc"] < 0.7
    assert card.causal is not None and card.causal.is_used
    as_well = rows["bag of words", "held out"]["auroc"] >= rows["probe", "held out"]["low"]
    assert as_well == any("bag of words reads it as well" in failure for failure in card.failures())
    assert not any("carry over" in failure or "random" in failure for failure in card.failures())


def test_a_label_that_means_nothing_fails_its_controls(model):
    real = gender(model)
    labels = torch.arange(len(real)) % 2 == 0
    card = probe_card(model, dataclasses.replace(real, labels=labels, groups=None), SITE, draws=5, others=[real])
    failed = " ".join(card.failures())
    assert "shuffled labels reach" in failed and "does not carry over to female" in failed
    assert "no neutral text was given" in card.verdict and card.failures()[0] in card.verdict


def test_the_metric_of_the_held_out_prompts_is_enough_for_a_causal_check(model):
    she, he = (model.tokens([word], special=False).ids[0, -1] for word in (" She", " He"))

    def she_rather_than_he(logits):
        return logits[:, -1, she] - logits[:, -1, he]

    card = probe_card(model, gender(model), SITE, draws=3, behaviour=she_rather_than_he)
    assert card.causal is not None and len(card.causal.base) == len(card.on("held out").labels)
    assert card.causal.base.mean() > 0, "towards the label, whichever that is"
    assert card.causal.metric_name == "she rather than he"


def test_cards_come_back_from_disk(card, tmp_path):
    card.save(tmp_path / "card")
    again = ProbeCard.load(tmp_path / "card")
    assert again.verdict == card.verdict and again.to_frame().equals(card.to_frame())


def test_more_examples_are_never_fewer(card):
    assert card.sizes.tolist() == sorted(card.sizes.tolist()) and card.sizes[-1] == card.trained
    assert card.curve[-1].max() == card.curve[-1].min() == pytest.approx(card.on("held out").value)


# -- prompts ---------------------------------------------------------------------------------------------------------
def test_no_prompt_is_judged_that_was_fitted_on(model):
    train, test = gender(model, n=150).split(0.5, 0)
    assert not set(train.seen()) & set(test.seen())
    assert not set(train.grouped.tolist()) & set(test.grouped.tolist())
    other = gender(model, n=150, seed=3).unseen_in(train)
    assert not set(train.seen()) & set(other.seen())


def test_activations_do_not_depend_on_the_padding(model):
    texts = ["Lily was sad because", "Once upon a time, there was a child named Tim."]
    labels = torch.tensor([True, False])
    left, right = (model.tokens(texts, padding=side) for side in ("left", "right"))
    for at in (-1, 2, slice(1, 4), None, torch.tensor([2, -2])):
        found = [LabelledPrompts(name="x", tokens=t, labels=labels, at=at) for t in (left, right)]
        one, two = (prompts.activations(model, SITE) for prompts in found)
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)
        assert found[0].seen() == found[1].seen()
        single = []
        for row, text in enumerate(texts):
            run = model.run(model.tokens([text]), read=[SITE])
            which = at[row] if isinstance(at, torch.Tensor) else slice(None) if at is None else at
            single.append(run[SITE][0][which].reshape(-1, model.d_model).mean(0).double())
        torch.testing.assert_close(one, torch.stack(single), atol=1e-4, rtol=1e-4)


def test_the_token_before_the_first_is_none(model):
    tokens = model.tokens(["Lily was sad", "Tim was"])
    prompts = LabelledPrompts(name="x", tokens=tokens, labels=torch.tensor([True, False]), at=torch.tensor([0, 1]))
    before = prompts.activations(model, "embed", before=1)
    assert not before[0].any()
    torch.testing.assert_close(before[1], model.run(tokens, read=["embed"])["embed"][1, tokens.starts[1]].double())


# -- numbers ---------------------------------------------------------------------------------------------------------
def test_weights_are_repeated_examples():
    generator = np.random.default_rng(0)
    scores, labels = np.round(generator.normal(size=30), 1), generator.random(30) < 0.5
    weights = generator.integers(0, 4, (5, 30)).astype(float)
    for row, found in zip(weights, weighted_auroc(scores, labels, weights), strict=True):
        again = np.repeat(np.arange(30), row.astype(int))
        assert found == pytest.approx(float(auroc(scores[again], labels[again])))


def test_copies_of_an_example_make_no_number_surer():
    generator = np.random.default_rng(1)
    scores, labels = torch.from_numpy(generator.normal(size=40)), torch.arange(40) % 2 == 0
    alone = Judged(of="x", by="y", scores=scores, labels=labels, groups=torch.arange(40) // 2)
    copied = Judged(of="x", by="y", scores=scores.repeat(9), labels=labels.repeat(9), groups=alone.groups.repeat(9))
    assert copied.auroc() == pytest.approx(alone.auroc())
    drawn = weights_of_draws(labels, torch.arange(40), resamples=50, seed=0)
    assert (drawn[:, labels.numpy()].sum(1) == 20).all(), "each label keeps its number where examples are alone"


def test_recall_is_the_share_above_the_threshold():
    one = Judged(of="x", by="y", scores=torch.arange(10.0), labels=torch.arange(10) >= 4, groups=torch.arange(10))
    assert one.recall(6.0).value == pytest.approx(0.5) and one.accuracy().value == pytest.approx(0.7)


def test_the_threshold_holds_its_rate_on_text_that_was_not_seen():
    draws = torch.from_numpy(np.random.default_rng(0).normal(size=(2000, 200)))
    above = torch.tensor([float((row[1:] > threshold_for(row[:199], 0.05)).double().mean()) for row in draws])
    fresh = torch.from_numpy(np.random.default_rng(1).normal(size=2000))
    rate = torch.stack([fresh[at] > threshold_for(row[:199], 0.05) for at, row in enumerate(draws)]).double().mean()
    assert rate == pytest.approx(0.05, abs=0.015) and above.mean() < 0.06
    assert threshold_for(torch.arange(99.0), 0.01) == 98.0
    with pytest.raises(BadInput, match=r"(?s)1\.00% needs 99 pieces.*98"):
        threshold_for(torch.arange(98.0), 0.01)


def test_neutral_text_is_averaged_as_examples_are(model, card):
    text = model.tokens(["The capital of France is Paris.", "Lily was sad because"])
    scores = [card.direction.read(model.run(text[row], read=[SITE]))[0, 1:].double() for row in range(2)]
    pieces = neutral_scores(model, card.direction, text, 2, None)
    wanted = torch.cat([row[: len(row) // 2 * 2].reshape(-1, 2).mean(1) for row in scores])
    torch.testing.assert_close(pieces, wanted, atol=1e-4, rtol=1e-4)
    ends = neutral_scores(model, card.direction, text, 1, -1)
    torch.testing.assert_close(ends, torch.stack([row[-1] for row in scores]), atol=1e-4, rtol=1e-4)


def test_log_odds_are_found_where_they_are_known():
    generator = np.random.default_rng(0)
    odds = torch.from_numpy(2 * generator.normal(size=4000))
    labels = torch.from_numpy(generator.random(4000)) < odds.sigmoid()
    slope, offset = log_odds((odds - 1) / 3, labels)
    assert slope == pytest.approx(3, rel=0.1) and offset == pytest.approx(1, abs=0.15)
    assert calibration_error(odds, labels) < float(calibration_null(odds, draws=100, seed=0).quantile(0.99))
    assert calibration_error(3 * odds, labels) > float(calibration_null(3 * odds, draws=100, seed=0).max())
    assert brier(torch.zeros(5), torch.tensor([True, False, True, True, False])) == pytest.approx(0.25)
    apart = log_odds(torch.tensor([-1.0, -2.0, 1.0, 2.0]), torch.tensor([False, False, True, True]))
    assert np.isfinite(apart).all(), "scores that are apart have a finite slope"


# -- the causal check ------------------------------------------------------------------------------------------------
def test_the_check_is_the_edit_it_says_and_first_order_is_its_slope(model, card):
    task, direction = tasks.gendered_pronoun(model, n=12, seed=8), card.direction
    found = causal_check(model, direction, task, draws=2)
    run = model.run(task.clean, edits=[direction.ablate(to="mean", at=-1)])
    torch.testing.assert_close(found.ablated.float(), task.metric(run.logits), atol=1e-3, rtol=1e-3)
    unit, small = direction.unit_vector, 1e-2

    def nudge(x):
        return x + small * (direction.scale.mean - x @ unit)[..., None] * unit

    nudged = task.metric(model.run(task.clean, edits=[models.apply(SITE, nudge, at=-1)]).logits)
    slope = (nudged.double() - found.base) / small
    torch.testing.assert_close(slope, found.predicted - found.base, atol=0.05, rtol=0.05)


def test_random_directions_are_moved_as_far(model, card, monkeypatch):
    task, direction = tasks.gendered_pronoun(model, n=6, seed=8), card.direction
    seen, plain = [], model.run(task.clean, read=[SITE])[SITE]
    made = models.apply

    def watched(site, function, **options):
        seen.append(function)
        return made(site, function, **options)

    monkeypatch.setattr(models, "apply", watched)
    causal_check(model, direction, task, draws=3)
    far = [(edit(plain) - plain).norm(dim=-1) for edit in seen]
    assert len(far) == 4
    for one in far[1:]:
        torch.testing.assert_close(one, far[0], atol=1e-4, rtol=1e-4)


# -- transfer --------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def matrix(model):
    english, tavi = (
        LabelledPrompts.answering(
            tasks.ioi(model, n=80, language=language), [f" {name}" for name in FEMALE], name=language
        )
        for language in ("english", "tavi")
    )
    turned = dataclasses.replace(tavi, name="turned", labels=~tavi.labels)
    return transfer_matrix(model, [english, tavi, turned], SITE, draws=30)


def test_the_receivers_gender_carries_over_from_one_language_to_the_other(matrix):
    rows = {(row["train"], row["test"]): row for row in matrix.to_frame().to_dicts()}
    for pair in (("english", "tavi"), ("tavi", "english"), ("english", "english"), ("tavi", "tavi")):
        assert rows[pair]["low"] > rows[pair]["random_95"] and rows[pair]["auroc"] > 0.7
    assert rows["english", "tavi"]["cosine"] > 0.5


def test_turned_labels_turn_a_column_and_a_row(matrix):
    rows = {(row["train"], row["test"]): row for row in matrix.to_frame().to_dicts()}
    assert rows["english", "turned"]["auroc"] == pytest.approx(1 - rows["english", "tavi"]["auroc"], abs=0.1)
    assert rows["turned", "english"]["auroc"] == pytest.approx(1 - rows["tavi", "english"]["auroc"], abs=0.1)
    assert rows["tavi", "turned"]["cosine"] < -0.8
    assert "english → turned" in matrix.verdict.split("no better than random")[1]


# -- bad input -------------------------------------------------------------------------------------------------------
def test_what_no_card_is_made_of(model):
    real = gender(model, n=20)
    changes: list[tuple[dict[str, Any], str]] = [
        ({"labels": torch.ones(len(real), dtype=torch.bool)}, "40 with the label, 0 without"),
        ({"labels": torch.ones(3, dtype=torch.bool)}, "3 labels, 40 prompts"),
        ({"groups": torch.zeros(3, dtype=torch.long)}, "3 groups, 40 prompts"),
    ]
    for change, told in changes:
        with pytest.raises(BadInput, match=told):
            dataclasses.replace(real, **change)
    few = Corpus.of(["The capital of France is Paris."] * 3, model, length=16, packed=False)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"others": [dataclasses.replace(gender(model, seed=4), name="held out")]}, "a name of its own"),
        ({"others": [dataclasses.replace(real.split(0.5, 0)[0], name="same")]}, "Nothing of same is left"),
        ({"neutral": few}, r"needs 99 pieces of neutral text"),
        ({"rate": 0.0}, "no rate of false positives"),
        ({"held_out": 1.0}, "no share of the examples"),
        ({"draws": 0}, "gives no control"),
        ({"fit": "logistik"}, "There is no fit"),
    ]
    for options, told in cases:
        with pytest.raises(BadInput, match=told):
            probe_card(model, gender(model, n=20) if "others" not in options else real, SITE, **options)
    with pytest.raises(BadInput, match="8 training examples"):
        probe_card(model, real.take(torch.tensor([0, 1, 2, 20, 21, 22])), SITE)
    with pytest.raises(BadInput, match="fitted on every prompt of the task"):
        same = tasks.gendered_pronoun(model, n=20)
        probe_card(model, LabelledPrompts.answering(same, SHE), SITE, behaviour=same.take([0]), held_out=0.05, draws=1)
    with pytest.raises(BadInput, match="two sets or more"):
        transfer_matrix(model, [real], SITE)
    with pytest.raises(BadInput, match="one number a prompt"):
        probe_card(model, real, SITE, draws=1, behaviour=lambda logits: logits[:, -1])
    with pytest.raises(NotFinite, match="the metric"):
        probe_card(model, real, SITE, draws=1, behaviour=lambda logits: logits[:, -1, 0] / 0)
