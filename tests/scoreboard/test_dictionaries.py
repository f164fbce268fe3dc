"""A dictionary is judged by what was planted: the truth is perfect, chance is not, and tricks do not count."""

import math

import pytest
import torch
from sklearn.metrics import f1_score

from digsite._core.errors import BadInput, NotFinite, ShapeMismatch, Unsupported
from digsite.artifacts import load_result
from digsite.scoreboard import (
    CEILINGS,
    LEARNERS,
    PLANTED,
    DictionaryBoard,
    Learner,
    dictionary_scoreboard,
    judge_dictionary,
    learners,
)
from digsite.toys.planted import Planted, planted_batch

FEW = Planted(features=10, d_model=12, density=0.2)
HELD_OUT = planted_batch(FEW, 1, examples=3000)


def test_the_truth_is_perfect_in_any_order_and_length():
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    found = judge_dictionary(3 * FEW.directions[order], FEW, 5 * HELD_OUT.features[:, order], HELD_OUT.features)
    assert found.recovered.all() and found.dead == 0
    assert [order[latent] for latent in found.matched] == list(range(10))
    numbers = (found.cosine_of_features, found.cosine_of_latents, found.correlation, found.f1)
    assert numbers == pytest.approx((1, 1, 1, 1))
    assert found.active == pytest.approx(float((HELD_OUT.features > 0).float().sum(1).mean()))


def test_the_opposite_direction_is_not_the_feature():
    found = judge_dictionary(-FEW.directions, FEW, HELD_OUT.features, HELD_OUT.features)
    assert not found.recovered.any() and found.cosine_of_features < 0.9


def test_one_latent_stands_for_one_feature():
    copies = FEW.directions[[0] * 10]
    found = judge_dictionary(copies, FEW, HELD_OUT.features[:, [0] * 10], HELD_OUT.features)
    assert int(found.recovered.sum()) == 1
    assert found.cosine_of_latents == pytest.approx(1) and found.cosine_of_features < 0.9


def test_fewer_latents_than_features():
    found = judge_dictionary(FEW.directions[:4], FEW, HELD_OUT.features[:, :4], HELD_OUT.features)
    assert found.recovered.tolist() == [True] * 4 + [False] * 6
    assert found.matched == (0, 1, 2, 3, *[-1] * 6)
    assert (found.correlation, found.f1) == pytest.approx((0.4, 0.4)), "what has no latent counts as zero"


def test_dead_latents_and_latents_without_direction():
    decoder = torch.cat([FEW.directions, torch.zeros(10, 12)])
    latents = torch.cat([HELD_OUT.features, torch.zeros(3000, 10)], dim=1)
    found = judge_dictionary(decoder, FEW, latents, HELD_OUT.features)
    assert (found.dead, found.cosine_of_latents) == pytest.approx((0.5, 0.5))
    assert found.recovered.all()


def test_correlation_and_f1_are_those_of_other_libraries():
    noisy = HELD_OUT.features + 0.5 * torch.randn(3000, 10, generator=torch.Generator().manual_seed(0)) - 0.4
    found = judge_dictionary(FEW.directions, FEW, noisy, HELD_OUT.features)
    pairs = list(zip(noisy.T, HELD_OUT.features.T, strict=True))
    assert found.correlation == pytest.approx(
        sum(float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in pairs) / 10
    )
    assert found.f1 == pytest.approx(sum(f1_score(true > 0, fires > 0) for fires, true in pairs) / 10)


def test_what_does_not_fit():
    with pytest.raises(ShapeMismatch, match=r"12 dimensions.\nFound: decoder.*features \[3000, 9\]"):
        judge_dictionary(FEW.directions, FEW, HELD_OUT.features, HELD_OUT.features[:, :9])
    with pytest.raises(NotFinite, match="The latents must be finite"):
        judge_dictionary(FEW.directions, FEW, HELD_OUT.features / 0, HELD_OUT.features)
    with pytest.raises(BadInput, match="No feature is active"):
        judge_dictionary(FEW.directions, FEW, HELD_OUT.features, 0 * HELD_OUT.features)


@pytest.mark.parametrize("name", [*LEARNERS, *CEILINGS])
def test_learners_see_what_they_should(name, monkeypatch):
    monkeypatch.setattr(learners, "EPOCHS", 4)
    planted = Planted(features=12, d_model=8, density=0.1, noise=0.01, bias=1.0)
    x = planted_batch(planted, 0, examples=1000).x
    learned = CEILINGS[name](planted) if name in CEILINGS else LEARNERS[name].learn(x, 12, 0)
    latents = learned.encode(x[:50])
    assert learned.decoder.shape[1] == 8 and latents.shape == (50, len(learned.decoder))
    assert torch.equal(learned.encode(x[:50]), latents)
    if name not in CEILINGS:
        assert (latents >= 0).all()
        assert torch.equal(LEARNERS[name].learn(x, 12, 0).decoder, learned.decoder), "the seed decides"


def test_chance_a_baseline_and_the_ceiling(tmp_path):
    names = ["random directions", "ICA", "matching pursuit on the truth"]
    board = dictionary_scoreboard(["fewer than dimensions"], names, seeds=2)
    rows = {row["learner"]: row for row in board.to_frame().to_dicts()}
    assert rows["random directions"]["recovered"] == 0 and rows["random directions"]["recovered_high"] < 0.1
    assert rows["ICA"]["recovered"] > 0.9, "with fewer features than dimensions ICA has the answer"
    assert (
        rows["matching pursuit on the truth"]["recovered"] == 1 and rows["matching pursuit on the truth"]["f1"] > 0.99
    )
    assert [row["kind"] for row in rows.values()] == ["baseline", "baseline", "ceiling"]
    assert board.verdict.startswith("ICA, a baseline, recovers most: ")
    again = load_result(board.save(tmp_path / "board"))
    assert isinstance(again, DictionaryBoard) and again.to_frame().equals(board.to_frame())


def test_more_can_be_put_on_the_board(monkeypatch):
    def refuses(x, latents, seed):
        raise Unsupported("Not these.\nFound: those.")

    monkeypatch.setitem(LEARNERS, "refuses", Learner("refuses", refuses))
    monkeypatch.setitem(PLANTED, "small", FEW)
    board = dictionary_scoreboard(["small"], ["refuses"], seeds=1)
    (row,) = board.to_frame().to_dicts()
    assert row["note"] == "Not these." and math.isnan(row["recovered"])
    assert board.verdict == "No dictionary was found"


def test_names_of_nothing():
    with pytest.raises(BadInput, match=r"no learner 'ICS'.\nPossible: did you mean ICA\?"):
        dictionary_scoreboard(learners=["ICS"])
    with pytest.raises(BadInput, match="no set of planted features 'all'"):
        dictionary_scoreboard(["all"])
