"""A lens is an affine map at each point of the stream, and the model's own readout behind it."""

import pytest
import torch

from architectures import CONFIGS, OTHERS, tiny
from digsite._core.errors import BadInput, NotFinite, ShapeMismatch
from digsite._core.visible import visible
from digsite.lenses import Lens, says
from digsite.lenses.lens import Affine, carried, point_names, stream_points
from digsite.models.load import wrap
from digsite.models.tokens import grid
from slowly import slow_but

FEW = ("gpt2", "gemma2", "cohere", "opt_projected", "mamba")


def wrapped(name):
    return wrap(tiny(name), None, name=name, revision=None, attention="eager")


@pytest.fixture(scope="module")
def llama():
    return wrapped("llama")


@pytest.mark.parametrize("name", slow_but(FEW, (*CONFIGS, *OTHERS)))
def test_the_last_point_is_the_model_with_all_that_lies_between_stream_and_logits(name):
    model = wrapped(name)
    tokens = grid([[5, 9, 3, 7, 11, 2], [8, 4, 6]], padding="left")
    last = stream_points(model)[-1]
    run = model.run(tokens, read=[last])
    said = Lens(model).logits(run[last], last)
    torch.testing.assert_close(said[tokens.mask], run.logits[tokens.mask], rtol=1e-5, atol=1e-5)


def test_the_logit_lens_is_the_norm_and_the_unembedding(llama):
    stream = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    norm = llama.hf.model.norm
    by_hand = stream / (stream.square().mean(-1, keepdim=True) + norm.variance_epsilon).sqrt() * norm.weight
    torch.testing.assert_close(Lens(llama).logits(stream, "layers.1.resid_post"), by_hand @ llama.hf.lm_head.weight.T)


def test_a_map_is_h_plus_change_h_plus_bias_and_none_is_exactly_nothing(llama):
    draw = torch.Generator().manual_seed(0)
    h, C, b = (torch.randn(*shape, generator=draw) for shape in ((2, 5, 64), (64, 64), (64,)))
    lens = Lens(llama, "tuned", {"layers.0.resid_post": Affine(C, b), "layers.0.resid_pre": Affine(C)})
    torch.testing.assert_close(lens.carried(h, "layers.0.resid_post"), h + torch.einsum("oi,bpi->bpo", C, h) + b)
    torch.testing.assert_close(lens.carried(h, "layers.0.resid_pre"), h + torch.einsum("oi,bpi->bpo", C, h))
    assert lens.carried(h, "layers.2.resid_post") is h
    assert torch.equal(lens.carried(h, "layers.1.resid_pre"), lens.carried(h, "layers.0.resid_post"))
    assert carried(h.bfloat16(), Affine(C, b)).dtype == torch.bfloat16


def test_gradients_flow_through_a_lens(llama):
    h = torch.randn(4, 64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    lens = Lens(llama, "tuned", {"layers.0.resid_post": Affine(torch.eye(64))})
    (grad,) = torch.autograd.grad(lens.logits(h, "layers.0.resid_post")[:, 7].sum(), h)
    assert grad.abs().min() > 0


def test_what_a_direction_says_does_not_depend_on_its_length_or_on_a_bias(world):
    vector = torch.randn(world.d_model, generator=torch.Generator().manual_seed(0))
    site = "layers.2.resid_post"
    plain = says(Lens(world), vector, site, 5)
    logits = Lens(world).logits(vector, site).detach()
    best = logits.topk(5).indices.tolist()
    assert [token for token, _ in plain] == [visible(world.tokens([[i]]).strings[0][0]) for i in best]
    assert plain[0][1] == pytest.approx(float(logits.max() - logits.mean()))
    assert [t for t, _ in says(Lens(world), 100 * vector, site, 5)] == [t for t, _ in plain]
    d = world.d_model
    shifted = Lens(world, "tuned", {site: Affine(torch.zeros(d, d), torch.ones(d) * 50)})
    assert says(shifted, vector, site, 5) == plain


def test_names_of_points(llama):
    assert point_names(stream_points(llama)) == ("embed", "layer 0", "layer 1", "layer 2")
    assert Lens(llama).name == "logit" and Lens(llama, "future", ahead=2).name == "future +2"
    assert "Lens logit of llama: 4 points" in repr(Lens(llama))


def test_what_does_not_fit_is_refused(llama, world):
    h = torch.zeros(2, 64)
    with pytest.raises(
        BadInput, match=r"The logit lens does not read layers.1.attn.out.\nPossible: .*layers.2.resid_post"
    ):
        Lens(llama).logits(h, "layers.1.attn.out")
    with pytest.raises(ShapeMismatch, match=r"has 64 coordinates.\nFound: a tensor of shape \(2, 32\)"):
        Lens(llama).logits(torch.zeros(2, 32), "layers.1.resid_post")
    with pytest.raises(BadInput, match=r"layers.9.resid_post is no point of this model's stream"):
        Lens(llama, "tuned", {"layers.9.resid_post": Affine(torch.eye(64))})
    with pytest.raises(ShapeMismatch, match=r"The map at layers.0.resid_post is not one of this model's stream"):
        Lens(llama, "tuned", {"layers.0.resid_post": Affine(torch.eye(32))})
    with pytest.raises(NotFinite, match=r"The map at layers.0.resid_post must be finite"):
        Lens(llama, "tuned", {"layers.0.resid_post": Affine(torch.full((64, 64), torch.nan))})
    with pytest.raises(NotFinite, match=r"The vector must be finite"):
        says(Lens(world), torch.full((world.d_model,), torch.nan), "layers.0.resid_post")
    with pytest.raises(BadInput, match=r"0 tokens cannot be listed"):
        says(Lens(world), torch.ones(world.d_model), "layers.0.resid_post", 0)
