"""Steering only where a condition holds: decided per row from the prompt, alike in every batch and with a KV cache."""

import dataclasses

import pytest
import torch

import digsite
from digsite._core.errors import BadInput
from digsite.artifacts import load_result
from digsite.directions.steering import condition, difference

SITE = "layers.1.resid_post"


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
    direction = difference(model, sides[0][:20], sides[1][:20], SITE, name="female")
    return condition(model, direction, sides[0][20:], sides[1][20:], false_positives=0.1)


def test_the_threshold_is_set_on_one_half_and_judged_on_the_other(found, sides):
    others = len(sides[1]) - 20
    assert found.chosen_on == others // 2
    assert int((~found.labels).sum()) == others - others // 2
    assert int(found.labels.sum()) == len(sides[0]) - 20
    frame = {row["prompts"]: row for row in found.to_frame().to_dicts()}
    above = found.readings > found.threshold
    assert frame["without"]["above"] == pytest.approx(float(above[~found.labels].float().mean()))
    assert frame["with"]["above"] == pytest.approx(float(above[found.labels].float().mean()))
    assert frame["with"]["above"] > 0.9 > 0.3 > frame["without"]["above"]
    assert "random directions at most" in found.verdict and "no better" not in found.verdict


def test_on_the_half_that_set_it_no_more_lie_above_than_was_asked(model, sides):
    direction = difference(model, sides[0][:20], sides[1][:20], SITE)
    for share in (0.0, 0.1, 0.25):
        one = condition(model, direction, sides[0][20:], sides[1][20:], false_positives=share, draws=0)
        order = torch.randperm(len(sides[1]) - 20, generator=torch.Generator().manual_seed(0))
        setting = sides[1][20:][order[: one.chosen_on]]
        above = one.holds(model, setting)
        assert float(above.float().mean()) <= share


def test_a_random_condition_is_said_to_be_none(model, sides):
    direction = difference(model, sides[0][:20], sides[1][:20], SITE, name="noise")
    noise = torch.randn(model.d_model, generator=torch.Generator().manual_seed(3))
    shuffled = dataclasses.replace(direction, vector=noise)
    assert "no better than a random direction" in condition(model, shuffled, sides[0][20:], sides[1][20:]).verdict


def test_only_rows_in_which_it_holds_are_steered_in_every_batch_and_with_a_kv_cache(model, sides, found):
    prompts = model.tokens(
        ["One day, Lily went to the park.", "Ben was sad because", "Tim was very happy.", "Sara was so happy that"]
    )
    assert found.holds(model, prompts).tolist() == [True, False, False, True]
    assert found.holds(model, prompts.padded_left()).tolist() == [True, False, False, True]
    vector = 3 * torch.randn(model.d_model, generator=torch.Generator().manual_seed(1))
    steer = digsite.add("layers.0.resid_post", vector)
    edits = found.edits(model, prompts, [steer])
    made = model.generate(prompts, max_new_tokens=5, edits=edits, logits=True, stop_at=None)
    plain = model.generate(prompts, max_new_tokens=5, logits=True, stop_at=None)
    for row, held in enumerate((True, False, False, True)):
        single = prompts[row]
        alone = model.generate(
            single, max_new_tokens=5, edits=found.edits(model, single, [steer]), logits=True, stop_at=None
        )
        torch.testing.assert_close(alone.logits[0], made.logits[row], atol=3e-4, rtol=1e-4)
        whole = made.tokens.ids[row][made.tokens.mask[row]][None]
        again = model.run(whole[:, :-1], edits=[steer] if held else []).logits[0, -5:]
        torch.testing.assert_close(again, made.logits[row], atol=3e-4, rtol=1e-4)
        changed = (made.logits[row, 0] - plain.logits[row, 0]).abs().max() > 0.01
        assert bool(changed) == held


def test_rows_that_an_edit_names_itself_stay_the_only_ones(model, found):
    prompts = model.tokens(["One day, Lily went to the park.", "Ben was sad because", "Sara was so happy that"])
    edit = digsite.add("layers.0.resid_post", torch.ones(model.d_model), rows=[1, 2])
    assert [one.rows for one in found.edits(model, prompts, [edit])] == [(2,)]
    assert found.edits(model, model.tokens(["Tim was very happy.", "Ben was sad because"]), [edit]) == []


def test_a_condition_is_saved_with_its_direction(model, found, tmp_path):
    again = load_result(found.save(tmp_path / "c"))
    prompts = model.tokens(["Lily was sad", "Ben was sad"])
    assert again.holds(model, prompts).tolist() == found.holds(model, prompts).tolist()  # pyright: ignore[reportAttributeAccessIssue]


def test_too_few_prompts(model, sides):
    direction = difference(model, sides[0][:20], sides[1][:20], SITE)
    with pytest.raises(BadInput, match="four prompts on each side"):
        condition(model, direction, sides[0][:3], sides[1])
    with pytest.raises(BadInput, match="share below 1"):
        condition(model, direction, sides[0], sides[1], false_positives=1.0)
