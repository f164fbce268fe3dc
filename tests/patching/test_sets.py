"""Sets of components: many sets in one pass equal one set a pass, and planted components are found."""

import pytest
import torch

import digsite
from architectures import tiny
from digsite.models.load import wrap
from digsite.patching import ablation, components, evaluate_sets
from paired import paired_task


@pytest.fixture(scope="module")
def model():
    return wrap(tiny("llama"), None, name="llama", revision=None, attention="eager")


def test_components_are_heads_and_mlps(model):
    names = components(model)
    assert len(names) == model.n_layers * (model.n_heads + 1)
    assert names[0] == "layers.0.attn.z[0]" and names[-1] == f"layers.{model.n_layers - 1}.mlp.out"


@pytest.mark.parametrize("how", ["corrupt", "zero", "mean", "resample"])
def test_many_sets_at_once_equal_one_set_a_run(model, how):
    task, names = paired_task(), components(model)
    sets = torch.rand(5, len(names), generator=torch.Generator().manual_seed(0)) < 0.4
    together = evaluate_sets(model, task, sets, how=how, batch_rows=12)
    for flags, scores in zip(sets, together, strict=True):
        chosen = [name for name, flag in zip(names, flags.tolist(), strict=True) if flag]
        if how == "corrupt":
            donor = model.run(task.corrupt, read=chosen)
            edits = [digsite.patch(name, donor) for name in chosen]
        else:
            edits = [digsite.ablate(name, how=how, over=task.corrupt) for name in chosen]
        alone = task.metric(model.run(task.clean, edits=edits).logits)
        torch.testing.assert_close(scores, alone, rtol=1e-4, atol=1e-4)


def test_nothing_replaced_is_the_clean_run_and_everything_replaced_depends_on_embeddings_alone(model):
    task, names = paired_task(), components(model)
    none, every = evaluate_sets(model, task, torch.tensor([[False] * len(names), [True] * len(names)]))
    torch.testing.assert_close(none, task.metric(model.run(task.clean).logits))
    # The embedding is no component: at the answer position it is the same token in both prompts.
    torch.testing.assert_close(every, task.metric(model.run(task.corrupt).logits), rtol=1e-4, atol=1e-4)


def test_knockout_and_keep_are_complements(model):
    task = paired_task()
    heads = [name for name in components(model) if name.startswith("layers.1")]
    rest = [name for name in components(model) if name not in heads]
    one, two = (ablation(model, task, names, random_sets=3) for names in (heads, rest))
    torch.testing.assert_close(one.knockout, two.keep, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(one.keep, two.knockout, rtol=1e-4, atol=1e-4)
    whole = ablation(model, task, components(model), random_sets=0)
    assert whole.kept[0] == pytest.approx(1, abs=1e-4) and whole.left[0] == pytest.approx(0, abs=1e-4)


def test_random_sets_have_as_many_heads_and_mlps():
    from digsite.patching.sets import random_flags

    heads = [f"layers.{i}.attn.z[{h}]" for i in range(3) for h in range(4)]
    names = (*heads, "layers.0.mlp.out", "layers.1.mlp.out")
    like = torch.tensor([True] * 3 + [False] * 9 + [True, False])
    drawn = random_flags(names, like, 50, seed=0)
    assert bool((drawn[:, :12].sum(1) == 3).all()) and bool((drawn[:, 12:].sum(1) == 1).all())
    assert len({tuple(row) for row in drawn.tolist()}) > 30
    assert torch.equal(drawn, random_flags(names, like, 50, seed=0))


def test_bad_sets_are_refused(model):
    task = paired_task()
    with pytest.raises(ValueError, match="The set of components is empty"):
        ablation(model, task, [])
    with pytest.raises(ValueError, match=r"layers.0.resid_pre is not a component"):
        ablation(model, task, ["layers.0.resid_pre"])
    with pytest.raises(KeyError, match=r"asks for head 9"):
        ablation(model, task, ["layers.0.attn.z[9]"])
    with pytest.raises(ValueError, match="A component stands twice"):
        ablation(model, task, ["layers.0.attn.z[1]", "layers.0.attn.z[1]"])
    with pytest.raises(ValueError, match="how='nothing' is not a replacement"):
        ablation(model, task, ["layers.0.attn.z[1]"], how="nothing")
