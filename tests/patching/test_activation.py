"""Activation patching equals its definition: one edited forward pass a cell."""

import pytest
import torch

import digsite
from architectures import tiny
from digsite.models.load import wrap
from digsite.patching import activation_patching
from paired import paired_task
from slowly import slow_but

ARCHITECTURES = ["llama", "gpt2", "gemma2", "olmo2", "gpt_neox", "bloom", "mistral_sliding"]
SITES = ["layers.*.resid_pre", "layers.*.attn.out", "layers.*.mlp.out", "layers.*.attn.z[*]"]


def model_of(name):
    return wrap(tiny(name), None, name=name, revision=None, attention="eager")


def one_by_one(model, task, result, at, direction):
    """The definition: for each cell one pass over all rows with one patch."""
    ends = task.clean, task.require_corrupt()
    source, base = ends if direction == "denoise" else ends[::-1]
    found = []
    for site, place in zip(result.sites, result.places, strict=True):
        donor = model.run(source, read=[site])
        where = int(place) if at == "each" else None
        edit = digsite.patch(site, donor, at=where)
        found.append(task.metric(model.run(base, edits=[edit], logits=task.keep).logits))
    return torch.stack(found)


@pytest.mark.parametrize("name", slow_but(["llama", "gpt2"], ARCHITECTURES))
@pytest.mark.parametrize("at", slow_but([None], [None, "each"]))
def test_a_sweep_equals_one_forward_a_patch(name, at):
    model, task = model_of(name), paired_task()
    for direction in ("denoise", "noise"):
        result = activation_patching(model, task, SITES, direction=direction, at=at, batch_rows=24)
        torch.testing.assert_close(result.patched, one_by_one(model, task, result, at, direction), rtol=1e-4, atol=1e-4)
        assert result.effects.abs().max() > 1e-3


@pytest.mark.parametrize(
    "site", ["layers.1.attn.q[1]", "layers.1.attn.k[0]", "layers.1.attn.v[0]", "layers.1.attn.pattern[2]"]
)
def test_inside_attention(site):
    model, task = model_of("llama"), paired_task()
    result = activation_patching(model, task, site, at="each")
    torch.testing.assert_close(result.patched, one_by_one(model, task, result, "each", "denoise"), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", slow_but(["olmo2"], ["llama", "gpt_neox", "olmo2"]))
def test_every_site_of_the_last_layer_also_where_nothing_leads_to_the_answer(name):
    model, task = model_of(name), paired_task()
    wanted = [site for site in model.sites if site.layer == model.n_layers - 1 and site.name != "attn.scores"]
    sites = [str(site) for site in wanted if not site.name.endswith(("_in", "result", "scale"))]
    result = activation_patching(model, task, sites, at="each")
    by_hand = one_by_one(model, task, result, "each", "denoise")
    torch.testing.assert_close(result.patched, by_hand, rtol=1e-4, atol=1e-4)
    still = (result.patched == result.base).all(1)
    assert still.any()
    assert not still.all()


def test_rotated_keys_are_patched_at_their_own_column():
    model, task = model_of("llama"), paired_task()
    result = activation_patching(model, task, "layers.1.attn.k_rot[0]", at="each")
    torch.testing.assert_close(result.patched, one_by_one(model, task, result, "each", "denoise"), rtol=1e-4, atol=1e-4)


def test_patching_the_whole_stream_carries_everything():
    model, task = model_of("llama"), paired_task()
    for layer in range(model.n_layers):
        result = activation_patching(model, task, f"layers.{layer}.resid_pre")
        torch.testing.assert_close(result.effects.mean(), torch.tensor(1.0), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(result.patched[0], result.source, rtol=1e-4, atol=1e-4)


def test_a_task_patched_into_itself_has_nothing_to_patch():
    model, task = model_of("llama"), paired_task(same=True)
    with pytest.raises(digsite._core.errors.BadInput, match="score the same, so there is nothing to patch"):
        activation_patching(model, task, "layers.0.resid_pre")


def test_spans_and_the_answer_position_are_places():
    model, task = model_of("llama"), paired_task()
    result = activation_patching(model, task, "layers.1.resid_pre", at=["subject", "answer"])
    assert result.places == ("subject", "answer")
    each = activation_patching(model, task, "layers.1.resid_pre", at="each")
    start = int(task.spans["subject"][0, 0])
    torch.testing.assert_close(result.patched[0], each.patched[start], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(result.patched[1], each.patched[-1], rtol=1e-4, atol=1e-4)


def test_left_padded_rows_of_unequal_length():
    model, task = model_of("gpt2"), paired_task(lengths=(6, 9))
    result = activation_patching(model, task, ["layers.1.attn.z[*]"], at=["subject", "answer"])
    for i, site in enumerate(result.sites):
        donor = model.run(task.clean, read=[site])
        where = task.spans["subject"][:, 0] if result.places[i] == "subject" else -1
        logits = model.run(task.require_corrupt(), edits=[digsite.patch(site, donor, at=where)], logits=1).logits
        torch.testing.assert_close(result.patched[i], task.metric(logits), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match='at="each" needs prompts of one length'):
        activation_patching(model, task, "layers.0.resid_pre", at="each")


@pytest.mark.slow
def test_the_null_is_a_change_of_the_same_size_in_a_random_direction():
    model, task = model_of("llama"), paired_task()
    one, two = (activation_patching(model, task, SITES, seed=seed) for seed in (0, 1))
    again = activation_patching(model, task, SITES, seed=0)
    torch.testing.assert_close(one.null, again.null, rtol=0, atol=0)
    assert not torch.equal(one.null, two.null)
    torch.testing.assert_close(one.patched, two.patched, rtol=0, atol=0)


def test_a_direction_that_does_not_exist():
    with pytest.raises(ValueError, match="direction='sideways' does not exist"):
        activation_patching(model_of("llama"), paired_task(), "layers.0.resid_pre", direction="sideways")
