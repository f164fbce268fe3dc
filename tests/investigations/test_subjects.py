"""The effect of each kind of subject is that of the method that measures it, and its null is of its kind."""

import pytest
import torch

import digsite
from digsite._core.errors import BadInput
from digsite.circuits import eap, judge_circuit
from digsite.dictionaries import load
from digsite.dictionaries.splice import rows_in, rows_of
from digsite.directions import Direction
from digsite.directions.files import save
from digsite.investigations.subjects import FEW, Component, subject_of
from digsite.models import made_by
from digsite.patching import ablation, activation_patching
from digsite.sites import Site

DRAWS = 3


@pytest.fixture(scope="module")
def model():
    return digsite.load("digsite/tinyworld", verify=False)


@pytest.fixture(scope="module")
def task(model):
    """Prompts of several lengths, so that rows are padded."""
    made = digsite.tasks.ioi(model, n=8)
    assert made.clean.padded
    return made


def effect(model, task, address, folder="."):
    return subject_of(model, address, folder=folder).effect(model, task, "logit_diff", DRAWS, 0)


def metric(model, task, *edits):
    return task.metric(model.run(task.clean, edits=list(edits), logits=1).logits)


@pytest.mark.parametrize("address", ["layers.0.attn.z[5]", "layers.3.mlp.out", "layers.2.resid_pre"])
def test_a_component_is_activation_patching_and_its_null_moves_as_far(model, task, address):
    ours = effect(model, task, address)
    theirs = activation_patching(model, task, address, direction="noise")
    torch.testing.assert_close(ours.values, (theirs.base - theirs.patched[0]), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(torch.tensor(ours.whole), (theirs.base - theirs.source).mean(), atol=1e-3, rtol=1e-4)
    assert ours.null.shape == (DRAWS,) and ours.few == min(FEW, len(task)) and ours.null.unique().numel() == DRAWS


def test_the_null_of_many_draws_at_once_is_that_of_each_by_itself(model, task):
    subject = Component(Site.parse("layers.0.attn.z[5]"))
    each = list(subject.random(model, task, DRAWS, torch.Generator().manual_seed(0)))
    alone = torch.stack([metric(model, task, *edits).mean() for edits in each])
    null = effect(model, task, "layers.0.attn.z[5]").null
    torch.testing.assert_close(null, metric(model, task).mean() - alone, atol=1e-4, rtol=1e-4)


def test_a_set_is_ablation_and_its_null_are_other_sets(model, task):
    names = ["layers.0.attn.z[5]", "layers.3.mlp.out"]
    ours = effect(model, task, ", ".join(names))
    theirs = ablation(model, task, names, random_sets=0)
    torch.testing.assert_close(ours.values, theirs.clean - theirs.knockout, atol=1e-4, rtol=1e-4)
    assert torch.equal(ours.values, effect(model, task, "layers.3.mlp.out, layers.0.attn.result[5]").values)


def test_random_sets_hold_none_of_the_set():
    from digsite.patching.sets import random_flags

    names = (*(f"layers.0.attn.z[{i}]" for i in range(5)), "layers.0.mlp.out")
    like = torch.tensor([True, True, False, False, False, True])
    drawn = random_flags(names, like, 20, seed=0, apart=True)
    assert not (drawn & like).any() and (drawn.sum(1) == 2).all(), "no MLP is left to draw"
    assert (random_flags(names, like, 20, seed=0).sum(1) == 3).all()


def test_a_neuron_is_one_number_of_its_site(model, task):
    ours = effect(model, task, "layers.1.mlp.act#17")
    clean, corrupt = (model.run(x, read=["layers.1.mlp.act"]) for x in (task.clean, task.corrupt))
    value = clean["layers.1.mlp.act"].clone()
    value[..., 17] = corrupt["layers.1.mlp.act"][..., 17]
    wanted = metric(model, task) - metric(model, task, digsite.models.replace("layers.1.mlp.act", value))
    torch.testing.assert_close(ours.values, wanted, atol=1e-4, rtol=1e-3)


def test_a_latent_is_taken_away_and_the_error_stays(model, task):
    name, dictionary = "digsite/tinyworld/sae-2", load("digsite/tinyworld/sae-2")
    site = dictionary.reads[0]
    run, where = model.run(task.clean, read=[site]), rows_in(task.clean)
    (latents,) = dictionary.encode(rows_of(run, dictionary.reads, where))
    index = int(latents.dense().sum(0).argmax())
    value = run[site].clone()
    value[where] -= latents.dense()[:, [index]] * dictionary.directions(site)[index].detach()
    wanted = metric(model, task) - metric(model, task, digsite.models.replace(site, value))
    torch.testing.assert_close(effect(model, task, f"{name}#{index}").values, wanted.detach(), atol=2e-3, rtol=1e-2)
    silent = int((latents.fired() == 0).nonzero()[0])
    assert effect(model, task, f"{name}#{silent}").values.abs().max() < 1e-4, "one that never fires does nothing"


def test_a_direction_is_ablated(model, task, tmp_path):
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(1))
    provenance = made_by("by hand", model, None)
    save(Direction(site=Site.parse("layers.2.resid_post"), vector=vector, provenance=provenance), tmp_path / "mine")
    ours = effect(model, task, "mine", tmp_path)
    edit = digsite.models.ablate("layers.2.resid_post", direction=vector)
    torch.testing.assert_close(ours.values, metric(model, task) - metric(model, task, edit), atol=1e-4, rtol=1e-3)


def test_a_circuit_is_what_its_edges_keep(model, task, tmp_path):
    found = eap(model, task).circuit(0.2)
    found.save(tmp_path / "circuit")
    ours = effect(model, task, "circuit", tmp_path)
    theirs = judge_circuit(model, task, found, ways=[("corrupt", "tree")], random_circuits=0)
    torch.testing.assert_close(ours.values, theirs.kept[0] - theirs.empty[0], atol=1e-4, rtol=1e-4)
    assert ours.values.mean() / ours.whole == pytest.approx(theirs.to_frame()["kept"][0], abs=1e-3)


def test_the_behaviour_is_the_metric_and_its_null_that_of_other_answers(model, task):
    ours = effect(model, task, "behaviour")
    assert torch.equal(ours.values, metric(model, task)) and ours.few == len(task)
    assert ours.null.mean().abs() < 0.5 * ours.values.mean()


def test_a_folder_of_something_else_is_refused(model, task, tmp_path):
    ablation(model, task, ["layers.0.attn.z[5]"], random_sets=0).save(tmp_path / "other")
    with pytest.raises(BadInput, match="holds no circuit"):
        subject_of(model, "other", folder=tmp_path)
