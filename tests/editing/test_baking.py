"""A baked copy is the edited model, and goes back to the original bit for bit."""

import json

import pytest
import torch

import digsite
from architectures import CONFIGS, randomised, tiny
from digsite._core.errors import BadInput, ContractBroken, LoadError, Unsupported
from digsite.editing import bake, baking, node_edits, unbake

FEW = ["gpt2", "llama", "olmo2", "bloom"]
NAMES = [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in CONFIGS]
NODES = ["layers.1.attn.z[2]", "layers.1.attn.z[0]", "layers.2.mlp.out"]


def over(model):
    return model.tokens(torch.randint(3, 97, (3, 8), generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("how", ["zero", "mean"])
@pytest.mark.parametrize("name", NAMES)
def test_the_copy_is_the_edited_model_and_goes_back(name, how, tmp_path):
    model = digsite.load(tiny(name), verify=False)
    before = {key: value.clone() for key, value in model.hf.state_dict().items()}
    ids = torch.randint(3, 97, (2, 12), generator=torch.Generator().manual_seed(2))
    rows = over(model) if how == "mean" else None
    try:
        made = bake(model, NODES, tmp_path / "copy", how=how, over=rows)
    except Unsupported as refusal:
        assert not (tmp_path / "copy").exists()
        pytest.skip(str(refusal).splitlines()[1])
    assert all(torch.equal(value, before[key]) for key, value in model.hf.state_dict().items())
    copy = digsite.load(tmp_path / "copy", verify=False)
    wanted = model.run(ids, edits=node_edits(model, NODES, how=how, over=rows)).logits
    torch.testing.assert_close(copy.run(ids).logits, wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(wanted, model.run(ids).logits, atol=1e-3)
    record = json.loads((tmp_path / "copy" / "baked.json").read_text())
    assert record["nodes"] == NODES and tuple(record["tensors"]) == made.tensors
    unbake(tmp_path / "copy")
    back = digsite.load(tmp_path / "copy", verify=False).hf.state_dict()
    assert before.keys() == back.keys() and all(torch.equal(before[key], back[key]) for key in before)
    assert not list((tmp_path / "copy").glob("*undo*"))


def test_a_mean_without_a_bias_to_hold_it_is_refused_and_leaves_nothing(tmp_path):
    model = digsite.load(tiny("llama"), verify=False)
    with pytest.raises(Unsupported, match=r"The mean of layers.1.attn.z\[2\] cannot be written into the weights"):
        bake(model, NODES, tmp_path / "copy", how="mean", over=over(model))
    assert not list(tmp_path.iterdir())


def test_experts_and_shared_weights_are_refused(tmp_path):
    model = digsite.load(tiny("mixtral"), verify=False)
    with pytest.raises(Unsupported, match="its neurons are spread over experts"):
        bake(model, ["layers.0.mlp.out"], tmp_path / "copy")
    shared = randomised(CONFIGS["llama"]())
    layers = shared.model.layers
    layers[1].self_attn.o_proj.weight = layers[0].self_attn.o_proj.weight
    with pytest.raises(Unsupported, match=r"shared by model.layers.0.* and model.layers.1"):
        bake(digsite.load(shared, verify=False), ["layers.0.attn.z[1]"], tmp_path / "copy")


def test_a_copy_that_differs_is_not_written(tmp_path, monkeypatch):
    model = digsite.load(tiny("gpt2"), verify=False)
    monkeypatch.setattr(baking, "_without", lambda *_: torch.ones_like)
    with pytest.raises(ContractBroken, match="so nothing was written"):
        bake(model, NODES, tmp_path / "copy")
    assert not list(tmp_path.iterdir())


def test_going_back_can_be_repeated_after_a_kill(tmp_path, monkeypatch):
    model = digsite.load(tiny("gpt2"), verify=False)
    folder = tmp_path / "copy"
    bake(model, NODES, folder)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(baking.Path, "unlink", killed)
        unbake(folder)
    unbake(folder)
    assert digsite.load(folder, verify=False).fingerprint == model.fingerprint
    with pytest.raises(LoadError, match="holds no model that was baked"):
        unbake(folder)


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match="cannot be replaced by a result"):
        bake(digsite.load(tiny("gpt2"), verify=False), NODES, tmp_path)
