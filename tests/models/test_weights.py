"""Weights are views with the field's names, norms are formulas that were seen to hold, folding is exact."""

import pytest
import torch
from torch import nn

from architectures import CONFIGS, randomised, tiny
from digsite._core.errors import NoSuchSite
from digsite.models import folded
from digsite.models.identity import fingerprint
from digsite.models.load import wrap
from digsite.models.norms import find_norm
from digsite.models.tokens import grid

TOKENS = grid([[5, 6, 7, 8], [9, 10, 11, 12]])
FORMULAS = [("gpt2", True, 0), ("llama", False, 0), ("gemma", False, 1), ("cohere", True, 0), ("nemotron", True, 1)]


def wrapped(name):
    return wrap(tiny(name), None, name=name, revision=None, attention="eager")


def with_bias(made, biases, layer):
    return made + biases[layer] if layer in biases else made


@pytest.mark.parametrize("name", ["gpt2", "llama", "phi3", "gpt_neox", "gpt_bigcode", "starcoder2", "codegen"])
def test_weights_compute_the_layer(name):
    """From one site to the next with nothing but the views."""
    model = wrapped(name)
    w = model.weights
    run = model.run(TOKENS, read=[site for site in model.sites if site.layer in (1, None)])
    x, z, act = (run[f"layers.1.{site}"] for site in ("attn.norm", "attn.z", "mlp.act"))
    torch.testing.assert_close(with_bias(torch.einsum("bsd,ndh->bsnh", x, w.W_Q[1]), w.b_Q, 1), run["layers.1.attn.q"])
    out = with_bias(torch.einsum("bsnh,nhd->bsd", z, w.W_O[1]), w.b_O, 1)
    torch.testing.assert_close(out, run["layers.1.attn.out"])
    x = run["layers.1.mlp.norm"]
    torch.testing.assert_close(with_bias(x @ w.W_in[1], w.b_in, 1), run["layers.1.mlp.up"])
    if 1 in w.W_gate:
        torch.testing.assert_close(x @ w.W_gate[1], run["layers.1.mlp.gate"])
    torch.testing.assert_close(with_bias(act @ w.W_out[1], w.b_out, 1), run["layers.1.mlp.out"])
    bias = w.b_U if w.b_U is not None else 0
    torch.testing.assert_close(run["final.norm"] @ w.W_U + bias, run.logits)


def test_shapes_and_stacks():
    w = wrapped("qwen3").weights
    assert w.W_Q[0].shape == (4, 64, 24)
    assert w.W_K[0].shape == w.W_V[-1].shape == (2, 64, 24)
    assert w.W_O[2].shape == (4, 24, 64)
    assert w.W_gate[0].shape == w.W_in[0].shape == (64, 96)
    assert w.W_out[0].shape == (96, 64)
    assert (w.W_E.shape, w.W_U.shape, w.b_U) == ((97, 64), (64, 97), None)
    assert w.W_Q.stack().shape == (3, 4, 64, 24)
    assert len(w.W_Q) == 3
    assert [one.shape for one in w.W_Q[1:]] == [(4, 64, 24)] * 2


def test_weights_that_are_not_there():
    w = wrapped("llama").weights
    for missing, found in ((w.b_Q, "Layer 0 has no b_Q"), (w.b_O, "Layer 0 has no b_O")):
        assert 0 not in missing
        with pytest.raises(NoSuchSite, match=found):
            missing[0]
    with pytest.raises(NoSuchSite, match=r"There is no layer 3.\nPossible: 0 to 2"):
        w.W_Q[3]
    latent, experts = wrapped("deepseek_v3").weights, wrapped("mixtral").weights
    for one in (latent.W_Q, experts.W_in, experts.W_out, experts.W_gate):
        with pytest.raises(NoSuchSite, match="has no W_"):
            one[1]
    assert latent.W_O[1].shape == (4, 16, 64)


def test_views_follow_the_model_and_carry_no_gradient():
    model = wrap(randomised(CONFIGS["gpt2"]()), None, name="gpt2", revision=None, attention="eager")
    view = model.weights.W_K[1]
    parameter = model.hf.transformer.h[1].attn.c_attn.weight
    assert view.untyped_storage().data_ptr() == parameter.untyped_storage().data_ptr()
    assert not view.requires_grad
    before = view.clone()
    with torch.no_grad():
        parameter.mul_(2)
    torch.testing.assert_close(model.weights.W_K[1], 2 * before)


# -- norms ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "centred", "offset"), [*FORMULAS, ("olmo", True, 0)])
def test_the_formula_of_a_norm(name, centred, offset):
    model = wrapped(name)
    mlp = () if name == "cohere" else (model.weights.norm(1, "mlp"),)  # it shares attention's
    for norm in (model.weights.norm(1), model.weights.norm(None), *mlp):
        assert norm is not None
        assert (norm.centred, norm.offset) == (centred, offset)
        x = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(1)) * 0.01
        torch.testing.assert_close(norm.linear(x, norm.scale(x)) + norm.bias, norm.module(x), rtol=1e-4, atol=1e-5)


class Odd(nn.Module):
    """Divides by the largest value instead of a root mean square."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(64))

    def forward(self, x):
        return x / x.abs().amax(-1, keepdim=True) * self.weight


class Hidden(nn.Module):
    """An RMS norm whose epsilon has a name that nobody knows."""

    def __init__(self, epsilon):
        super().__init__()
        self.weight, self.tiny = nn.Parameter(torch.ones(64)), epsilon

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.tiny) * self.weight


def test_what_follows_no_formula_is_no_norm():
    assert find_norm(Odd(), 64) is None
    for epsilon in (1e-3, 1e-6):
        assert find_norm(Hidden(epsilon), 64) is None, "a wrong epsilon shows on small vectors only"
    found = find_norm(Hidden(1e-5), 64)
    assert found is not None
    assert found.eps == 1e-5


def test_an_unknown_norm_refuses_its_scale():
    hf = randomised(CONFIGS["llama"]())
    hf.model.layers[1].input_layernorm = Odd()
    model = wrap(hf, None, name="odd", revision=None, attention="eager")
    with pytest.raises(NoSuchSite, match="its norm follows no formula that digsite knows"):
        model.run(TOKENS, read=["layers.1.attn.norm.scale"])
    assert model.run(TOKENS, read=["layers.1.attn.norm"])["layers.1.attn.norm"].shape == (2, 4, 64)
    assert model.weights.norm(1) is None


@pytest.mark.parametrize(("name", "centred", "offset"), FORMULAS)
def test_folding_takes_the_norm_into_the_weight(name, centred, offset):
    model = wrapped(name)
    norm, w = model.weights.norm(1), model.weights.W_Q[1]
    assert norm is not None
    before = w.clone()
    x = model.run(TOKENS, read=["layers.1.resid_pre"])["layers.1.resid_pre"]
    hat = (x - x.mean(-1, keepdim=True) if centred else x) / norm.scale(x)
    bias = norm.bias.expand(64) if isinstance(norm.bias, torch.Tensor) else torch.zeros(64)
    left = torch.einsum("bsd,ndh->bsnh", hat, folded(w, norm)) + torch.einsum("d,ndh->nh", bias, w)
    torch.testing.assert_close(left, torch.einsum("bsd,ndh->bsnh", norm.module(x), w), rtol=1e-4, atol=1e-5)
    assert torch.equal(w, before), "the model keeps its own"
    if centred:
        assert folded(w, norm).mean(1).abs().max() < 1e-6, "a constant direction has no effect"


# -- identity ------------------------------------------------------------------------------------------------------
def test_a_fingerprint_is_of_names_shapes_types_and_values():
    base = fingerprint(randomised(CONFIGS["llama"]()))
    assert base == fingerprint(randomised(CONFIGS["llama"]()))
    assert len({base, fingerprint(randomised(CONFIGS["llama"](), seed=1)), fingerprint(tiny("mistral"))}) == 3
    assert fingerprint(randomised(CONFIGS["llama"](), torch.bfloat16)) != base
    changed = randomised(CONFIGS["llama"]())
    with torch.no_grad():
        changed.model.norm.weight[3] += 1e-3
    assert fingerprint(changed) != base
