"""The figures of a card, a transfer matrix and a monitor show the claim beside its control, and nothing overlaps."""

import dataclasses

import pytest
import torch
from drawn import collisions, outside, texts

import digsite
from digsite import tasks
from digsite.directions.probes import LabelledPrompts, monitor, probe_card, transfer_matrix
from digsite.models import Sampling
from digsite.tasks import Corpus
from digsite.viz import monitor_figure, probe_card_report, readings_figure, tail_shape_figure
from digsite.viz.probe_cards import scarcity_figure, scores_figure


@pytest.fixture(scope="module")
def model():
    return digsite.load("digsite/tinyworld", verify=False)


@pytest.fixture(scope="module")
def female(model):
    return LabelledPrompts.answering(tasks.gendered_pronoun(model, n=60), (" she", " She"), name="female")


@pytest.fixture(scope="module")
def card(model, female):
    text = Corpus.of(["The capital of France is Paris."] * 40, model, length=16, packed=False)
    behaviour = tasks.gendered_pronoun(model, n=20, seed=4)
    return probe_card(model, female, "layers.2.resid_post", neutral=text, behaviour=behaviour, draws=5)


def sound(figure):
    return not collisions(figure) and not outside(figure)


def test_the_card_shows_probe_baselines_and_controls(card):
    figure = card.figure()
    assert sound(figure)
    names = set(figure.data["name"])
    assert {"on held-out examples", "bag of words", "shuffled labels", "random directions"} <= names
    one = figure.data.filter(figure.data["name"] == "on held-out examples")
    assert one["mean"].to_list() == pytest.approx([card.on("held out").value])


def test_the_other_figures_of_a_card_are_sound(card):
    assert card.causal is not None
    for figure in (scores_figure(card), scarcity_figure(card), card.causal.figure()):
        assert sound(figure), figure.title


def test_the_page_says_what_failed_and_whether_the_direction_is_used(card):
    page = probe_card_report(card).html()
    assert "Does the model use it?" in page and "Probe card" in page
    assert "not tested" in probe_card_report(dataclasses.replace(card, causal=None)).html()


def test_the_transfer_matrix_is_centred_on_chance(model, female):
    turned = dataclasses.replace(female, name="turned", labels=~female.labels, groups=None)
    figure = transfer_matrix(model, [female, turned], "layers.2.resid_post", draws=10).figure()
    assert sound(figure) and figure.data["value"].min() < -0.9 and figure.data["value"].max() > 0.9
    assert {"fitted on", "judged on", "better than random"} <= set(texts(figure))


@pytest.mark.slow
def test_a_monitor_shows_its_check_or_its_readings(model, card):
    prompts = model.tokens(["When Mary and John went to the park,", "One day,", "The", "Where is"])
    found = monitor(model, card.direction, prompts, new=20, sample=Sampling(temperature=3.0), times=16, draws=20)
    for figure in (monitor_figure(found), readings_figure(found), tail_shape_figure(found)):
        assert sound(figure), figure.title
    none = torch.zeros(0, dtype=torch.float64)
    refused = dataclasses.replace(found, choice=None, shapes=none, scales=none, rates=none)
    assert "no tail fits" in refused.figure().caption and sound(refused.figure())
