"""Transfer between languages is what it must be where the answer is known, and readings are tested by signed ranks."""

from dataclasses import replace

import pytest
import torch
from scipy.stats import wilcoxon

import digsite
from digsite._core.errors import BadInput
from digsite.artifacts import load_result
from digsite.directions import Direction
from digsite.directions.steering import Readings, language_transfer, readings
from digsite.directions.steering.languages import signed_rank
from digsite.models import made_by
from digsite.sites import Site
from digsite.tasks.same_meaning import who_receives

SITE = "layers.2.resid_post"


@pytest.fixture(scope="module")
def model():
    return digsite.load("digsite/tinyworld", verify=False)


@pytest.fixture(scope="module")
def tasks(model):
    return who_receives(model, 40)


@pytest.fixture(scope="module")
def transfer(model, tasks):
    return language_transfer(model, tasks, SITE, draws=6)


def test_both_languages_tell_the_same_events_and_the_model_understands_both(model, tasks):
    english, tavi = tasks.values()
    assert len(english) == len(tavi) == 40
    for task in tasks.values():
        right = task.metric(model.run(task.clean, logits=1).logits)
        wrong = task.metric(model.run(task.require_corrupt(), logits=1).logits)
        assert (right > 0).all() and (wrong < 0).all()
    assert not set(english.clean.texts or ()) & set(tavi.clean.texts or ())


def test_a_language_transfers_to_itself_exactly_as_well_as_it_reads_at_home(model, tasks):
    same = language_transfer(model, {"one": tasks["english"], "two": tasks["english"]}, SITE, draws=2)
    for values in (same.scores, same.effects):
        assert torch.equal(values[0, 0], values[0, 1]) and torch.equal(values[0, 0], values[1, 1])
    assert torch.allclose(same.cosines, torch.ones(2, 2), atol=1e-5)


def test_the_direction_of_either_language_reads_and_steers_the_other(transfer):
    for row in transfer.to_frame().to_dicts():
        assert row["auroc"] > 0.95 and row["effect_low"] > row["null_effect_max"]
    assert "no better" not in transfer.verdict
    assert transfer.cosines[0, 1] > 0.8, "the receiver is the same name in both"


def test_concepts_that_have_nothing_to_do_with_each_other_do_not_transfer(model, tasks):
    """The second language tells the same sentences with clean and corrupt exchanged at random."""
    english = tasks["english"]
    turned = torch.rand(len(english), generator=torch.Generator().manual_seed(0)) < 0.5
    ids = [torch.where(turned[:, None], b, a) for a, b in ((english.clean.ids, english.corrupt.ids),) * 2]
    ids[1] = torch.where(turned[:, None], english.clean.ids, english.corrupt.ids)
    mixed = replace(
        english,
        clean=replace(english.clean, ids=ids[0], texts=None),
        corrupt=replace(english.corrupt, ids=ids[1], texts=None),
    )
    result = language_transfer(model, {"told": english, "mixed": mixed}, SITE, draws=2)
    rows = {(row["from"], row["to"]): row for row in result.to_frame().to_dicts()}
    assert rows["told", "told"]["auroc"] > 0.95
    assert rows["told", "mixed"]["low"] < 0.5 < rows["told", "mixed"]["high"]
    assert "told in mixed" in result.verdict and "reading no better than shuffled labels" in result.verdict


def test_transfer_comes_back_from_its_folder(transfer, tmp_path):
    assert load_result(transfer.save(tmp_path / "transfer")).verdict == transfer.verdict


# -- readings --------------------------------------------------------------------------------------------------------
def test_signed_ranks_are_those_of_the_definition():
    """W+ of 1, 2, -3, 4, 5, 6, 7, 8, 9 is 42 of 45; of the 512 signs 10 give as much or as little: p = 0.02."""
    values = torch.tensor([1.0, 2, -3, 4, 5, 6, 7, 8, 9])
    signs = (torch.arange(512)[:, None] >> torch.arange(9)) & 1
    ranks = (signs * torch.arange(1, 10)).sum(1)
    exact = float(((ranks >= 42) | (ranks <= 3)).float().mean())
    assert signed_rank(values) == pytest.approx(exact) == pytest.approx(wilcoxon(values.numpy())[1])
    assert signed_rank(torch.zeros(9)) == 1.0


def test_a_direction_of_tavi_decides_what_english_leaves_open(model, tasks):
    """Who of two receives from a third is open; the direction "Mary rather than John" of Tavi decides it."""
    tavi, site = tasks["tavi"], Site.parse(SITE)
    ends = [model.run(prompts, read=[site], at=-1, logits=None)[site] for prompts in (tavi.clean, tavi.corrupt)]
    vector = (ends[0] - ends[1]).flatten(1).mean(0)
    mary = Direction(site=site, vector=vector, name="Mary, in Tavi", provenance=made_by("tavi", model))
    told = [
        f"When {a} and {b} went to the {place}, Peter gave a book to"
        for place in ("park", "market", "school", "garden", "station", "store")
        for a, b in (("Mary", "John"), ("John", "Mary"))
    ]
    frame = {"clean": told, "right": [" Mary"] * len(told), "wrong": [" John"] * len(told)}
    sentences = digsite.Task.from_frame(model, frame, corrupt=None, name="open receiver")
    result = readings(model, sentences, mary, 1.0, at=-1, draws=6)
    assert isinstance(result, Readings) and len(result.plain) == 12
    plain, _, shift = result.to_frame().to_dicts()
    assert shift["low"] > shift["null_high"] and shift["p"] < 0.01 and "no more than chance" not in result.verdict
    assert abs(plain["mean"]) < shift["mean"]
    nothing = readings(model, sentences, mary, 0.0, at=-1, draws=2)
    assert torch.equal(nothing.steered, nothing.plain) and "no more than chance" in nothing.verdict


def test_bad_input_says_what_is_wrong(model, tasks):
    with pytest.raises(BadInput, match=r"same events(.|\n)*Found: english 40"):
        language_transfer(model, {"english": tasks["english"]}, SITE)
    with pytest.raises(BadInput, match=r"Found: english 40, tavi 20"):
        language_transfer(model, tasks | {"tavi": tasks["tavi"].take(slice(20))}, SITE)
    direction = Direction(site=Site.parse(SITE), vector=torch.ones(model.d_model), provenance=made_by("x", model))
    with pytest.raises(BadInput, match=r"8 sentences or more(.|\n)*Found: 3 sentences"):
        readings(model, tasks["english"].take(slice(3)), direction)
