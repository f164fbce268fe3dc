"""What heads and neurons write: the rows of an exact decomposition, and a null that chance explains."""

from typing import Any

import pytest
import torch

from architectures import tiny
from digsite._core.errors import BadInput, NoSuchSite
from digsite.lenses import WrittenTokens, head_lens, neuron_lens
from digsite.models.load import wrap
from digsite.models.tokens import grid
from digsite.patching import direct_attribution
from paired import paired_task

ARCHITECTURES = ["gpt2", "llama", "gemma2", "olmo2", "granite", "falcon_grouped", "opt"]


def untrained(name):
    return wrap(tiny(name), None, name=name, revision=None, attention="eager")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_towards_the_answers_a_head_is_its_row_of_direct_attribution(name):
    model, task = untrained(name), paired_task(lengths=(6, 8))
    lens, exact = head_lens(model, task), direct_attribution(model, task)
    rows = [exact.components.index(part.replace("result", "z")) for part in lens.parts]
    torch.testing.assert_close(lens.towards, exact.values[rows], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "opt"])
def test_all_neurons_and_the_bias_are_the_mlp(name):
    model, task = untrained(name), paired_task()
    layer = 1
    width = model.weights.W_out[layer].shape[0]
    lens, exact = neuron_lens(model, task, [(layer, n) for n in range(width)], top=2), direct_attribution(model, task)
    whole = exact.values[exact.components.index(f"layers.{layer}.mlp.out")]
    rest = whole - lens.towards.sum(0)
    if layer in model.weights.b_out:  # what the bias writes is in no neuron; it is the same direction in every row
        assert float(rest.abs().max()) > 0
    else:
        torch.testing.assert_close(rest, torch.zeros_like(rest), rtol=0, atol=1e-4)


def test_the_effect_on_a_token_is_that_on_its_logit():
    """By hand: the head's own share through the final norm with its scale held, for every token."""
    model, task = untrained("llama"), paired_task()
    lens = head_lens(model, task.clean, [(1, 2)], top=97)
    run = model.run(task.clean, read=["layers.1.attn.result", "layers.2.resid_post"], at=-1)
    norm: Any = model.anatomy.final_norm
    logits = norm.linear(run["layers.1.attn.result"][:, 2], norm.scale(run["layers.2.resid_post"])) @ model.weights.W_U
    logits = logits - logits.mean(1, keepdim=True)
    order = logits.mean(0).sort(descending=True).indices
    assert torch.equal(lens.raised[0], order) and torch.equal(lens.lowered[0], order.flip(0))
    torch.testing.assert_close(lens.raised_by[0], logits[:, order].T, rtol=1e-4, atol=1e-5)
    assert lens.towards.shape == (0, len(task.clean))


def test_padding_on_the_left_changes_nothing():
    model = untrained("gpt2")
    rows = [[5, 9, 7, 8, 30], [4, 4, 6]]
    single = [head_lens(model, grid([row]), [(2, 1)], at=1, top=97) for row in rows]
    for padding in ("left", "right"):
        both = head_lens(model, grid(rows, padding=padding), [(2, 1)], at=1, top=97)
        for at, one in enumerate(single):
            back, mine = torch.empty(97), torch.empty(97)
            back[one.raised[0]] = one.raised_by[0, :, 0]
            mine[both.raised[0]] = both.raised_by[0, :, at]
            torch.testing.assert_close(mine, back, rtol=1e-4, atol=1e-5)


def test_a_planted_word_is_said_above_the_null_and_chance_is_not(tmp_path):
    model, task = untrained("llama"), paired_task()
    chance = head_lens(model, task, [(0, 0)], draws=40)
    with torch.no_grad():
        hf = tiny("llama")
        hf.model.layers[2].mlp.down_proj.weight[:, 5] = 30 * hf.lm_head.weight[42]
    planted = wrap(hf, None, name="planted", revision=None, attention="eager")
    lens = neuron_lens(planted, task, [(2, 4), (2, 5)])
    top = int((lens.raised[1, 0] == 42) or (lens.lowered[1, 0] == 42))
    assert top and float(lens.norm[1].mean()) > float(lens.norm[0].mean())
    assert float(chance.raised_by[0, 0].mean()) < 3 * float(chance.null.max())
    back = WrittenTokens.load(lens.save(tmp_path / "lens"))
    assert back.verdict == lens.verdict and "layers.2.mlp.act" in lens.verdict
    assert lens.to_frame().height == 2 * 2 * 8


def test_what_is_not_there_is_refused():
    model, task = untrained("llama"), paired_task()
    with pytest.raises(BadInput, match=r"\(7, 0\) is no head of this model"):
        head_lens(model, task, [(7, 0)])
    with pytest.raises(BadInput, match="No neuron was asked for"):
        neuron_lens(model, task, [])
    with pytest.raises((BadInput, NoSuchSite)):
        head_lens(untrained("mamba"), task)
