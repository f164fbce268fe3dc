"""The direction that decides a behaviour is found where it was put, and what the tests drop is dropped."""

import dataclasses

import pytest
import torch

import digsite
from digsite._core.errors import BadInput
from digsite.artifacts import load_result
from digsite.directions.steering import log_odds, select_direction
from digsite.directions.steering.target import token_ids

SHE, HE = [" she", " She"], [" he", " He"]


@pytest.fixture(scope="module")
def model():
    return digsite.load("digsite/tinyworld", verify=False)


@pytest.fixture(scope="module")
def sides(model):
    task = digsite.tasks.gendered_pronoun(model, n=120)
    hers = torch.tensor([right[0].strip().lower() == "she" for right in task.right.texts])
    return task.clean[hers], task.clean[~hers]


@pytest.fixture(scope="module")
def found(model, sides):
    return select_direction(model, sides[0], sides[1], SHE, against=HE, most_kl=0.5, draws=3)


def test_every_candidate_is_a_row_with_its_reason(model, found):
    frame = found.to_frame()
    assert len(frame) == model.n_layers
    assert frame["chosen"].sum() == 1
    for row, ablated, passed in zip(frame.to_dicts(), found.ablated.tolist(), found.passed.tolist(), strict=True):
        assert (row["dropped"] == "") == passed
        if passed:
            assert ablated >= float(found.ablated[found.chosen])


def test_the_chosen_one_decides_the_behaviour_on_prompts_that_did_not_choose_it(found):
    assert found.direction is not None
    assert float((found.reported - found.plain).mean()) < -5
    assert float((found.brought - found.quiet).mean()) > 5
    assert float((found.null_reported - found.plain).mean(1).min()) > -5
    assert "but" not in found.verdict and "held-out" in found.verdict


def test_the_numbers_are_those_of_the_interventions(model, sides, found):
    """The reporting quarter again, by hand: ablated in every stream, attention and MLP; added at its own layer."""
    order = torch.Generator().manual_seed(0)
    parts = []
    for side in sides:
        drawn = torch.randperm(len(side), generator=order)
        parts.append(side[drawn[len(side) // 2 + len(side) // 4 :]])
    ids, other = token_ids(model, SHE), token_ids(model, HE)
    everywhere = [found.direction.ablate(site=f"layers.*.{s}") for s in ("resid_pre", "attn.out", "mlp.out")]
    for tokens, edits, wanted in (
        (parts[0], everywhere, found.reported),
        (parts[1], [found.direction.add(1.0)], found.brought),
    ):
        for row in range(3):
            logits = model.run(tokens[row], edits=edits).logits[0, -1]
            assert float(log_odds(logits, ids, other)) == pytest.approx(float(wanted[row]), abs=1e-2)


def test_late_layers_costly_and_powerless_candidates_are_dropped(model, found):
    late = dataclasses.replace(found, latest=0.25)
    assert bool((late.layers[late.passed] < 1).all())
    assert dataclasses.replace(found, most_kl=-1.0).chosen is None
    none = dataclasses.replace(found, least_induced=1e9)
    assert none.chosen is None and none.verdict.startswith("None of 4 candidates passes")
    assert set(none.to_frame()["dropped"]) <= {"late layer", "KL", "does not induce"}


def test_a_direction_that_decides_nothing_on_held_out_prompts_is_said_to_fail(found):
    idle = dataclasses.replace(found, reported=found.null_reported[0], brought=found.null_brought[0])
    assert "ablating it takes away no more than random directions do" in idle.verdict
    assert "adding it brings no more than random directions do" in idle.verdict


def test_a_selection_comes_back_with_its_direction(found, tmp_path):
    again = load_result(found.save(tmp_path / "s"))
    assert again.verdict == found.verdict
    assert torch.equal(again.direction.vector, found.direction.vector)  # pyright: ignore[reportAttributeAccessIssue]


def test_too_few_prompts(model, sides):
    with pytest.raises(BadInput, match="with 8 prompts of each side or more"):
        select_direction(model, sides[0][:5], sides[1], SHE)
