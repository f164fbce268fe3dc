"""The Jacobian of a dictionary beside the model's: 1 where both compute by one rule, and nowhere else."""

from functools import cache
from typing import Any

import pytest
import torch
from transformers import GPT2Config

import digsite
from architectures import VOCAB, randomised, tiny
from dictionaries.exact import identity, planted, planted_clt, planted_transcoder
from digsite._core.errors import BadInput, Unsupported
from digsite.dictionaries import Relu, TopK, initialise, molt, transcoder
from digsite.dictionaries.jacobians import JacobianFaithfulness, jacobian_faithfulness
from digsite.models.tokens import grid

READ, WRITE = {"layers.0.mlp.norm": 32}, {"layers.0.mlp.out": 32}


@cache
def linear_model():
    """A model whose MLPs are linear."""
    config = GPT2Config(
        vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=2, n_positions=32, activation_function="linear",
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return digsite.load(randomised(config), verify=False)


def text(count=10, vocab=VOCAB):
    drawn = torch.Generator().manual_seed(0)
    return grid([torch.randint(3, vocab, (12,), generator=drawn).tolist() for _ in range(count)])


def product(model):
    return (model.weights.W_in[0] @ model.weights.W_out[0]).T


@pytest.mark.slow
def test_a_skip_that_is_the_product_of_the_weights_has_cosine_1():
    model = linear_model()
    new: Any = transcoder(READ, WRITE, 4, TopK(k=1), skip=True)
    with torch.no_grad():
        new.blocks[0].W_skip[0].copy_(product(model))
    (row,) = jacobian_faithfulness(model, new, text()).to_frame().to_dicts()
    assert row["cosine"] == pytest.approx(1, abs=1e-5) and row["ratio"] == pytest.approx(1, abs=1e-5)
    assert row["another_token"] == pytest.approx(1, abs=1e-5)  # a linear part has one Jacobian everywhere
    assert row["exact"] and row["n"] == 5
    assert "no more faithful than the Jacobian of another token" in jacobian_faithfulness(model, new, text()).verdict


@pytest.mark.slow
def test_the_dense_map_finds_a_linear_part():
    model = linear_model()
    new = initialise(transcoder(READ, WRITE, 64, TopK(k=4)), seed=0)
    result = jacobian_faithfulness(model, new, text(40), rows=20, tokens=2)
    (row,) = result.to_frame().to_dicts()
    assert row["dense_map"] > 0.97 and abs(row["cosine"]) < 0.2
    assert "no more faithful than" in result.verdict and "a dense linear map" in result.verdict


def test_a_molt_of_one_map_of_full_rank_is_the_linear_part():
    model = linear_model()
    new: Any = molt(READ, WRITE, [(1, 32)], Relu())
    with torch.no_grad():
        new.blocks[0].b_enc.fill_(1.0)  # always active, with value 1 and no slope
        new.blocks[0].decoder.V[0][0].copy_(torch.eye(32))
        new.blocks[0].decoder.U[0][0][0].copy_(product(model))
    (row,) = jacobian_faithfulness(model, new, text()).to_frame().to_dicts()
    assert row["cosine"] == pytest.approx(1, abs=1e-5)


def test_exact_transcoders_compute_by_the_rule_of_the_model():
    network = planted()
    rows = network.model.tokens(torch.randint(0, 16, (4, 12), generator=torch.Generator().manual_seed(0)))
    for new in (planted_transcoder(1), planted_clt()):
        result = jacobian_faithfulness(network.model, new, rows, probes=1000)
        for row in result.to_frame().to_dicts():
            assert row["cosine"] == pytest.approx(1, abs=1e-3)
            assert row["another_token"] < 0.9 and row["dense_map"] < 0.95
        assert "no more faithful" not in result.verdict


def test_random_vectors_estimate_what_a_basis_gives():
    network = planted()
    rows = network.model.tokens(torch.randint(0, 16, (4, 12), generator=torch.Generator().manual_seed(0)))
    new = initialise(planted_transcoder(1), seed=3)
    with torch.no_grad():
        new.blocks[0].W_enc[0].add_(network.encoders[1])
        new.blocks[0].W_dec("layers.1.mlp.out").add_(network.decoders[1])
    exact, estimated = (jacobian_faithfulness(network.model, new, rows, probes=n) for n in (1000, 100))
    assert exact.exact == (True,) and estimated.exact == (False,)
    torch.testing.assert_close(exact.cosine, estimated.cosine, atol=0.1, rtol=0)


def test_it_comes_back_from_a_folder(tmp_path):
    new = initialise(transcoder(READ, WRITE, 64, TopK(k=4)), seed=0)
    result = jacobian_faithfulness(linear_model(), new, text())
    assert JacobianFaithfulness.load(result.save(tmp_path / "j")).verdict == result.verdict
    assert result.cost.backwards > 0


def test_what_has_no_jacobian_of_its_own_is_refused():
    model = digsite.load(tiny("llama"), verify=False)
    with pytest.raises(Unsupported, match=r"made of one other column[\s\S]*resid_post → layers\.0\.resid_post"):
        jacobian_faithfulness(model, identity({"layers.0.resid_post": 64}), text())
    across = initialise(transcoder({"layers.0.resid_pre": 64}, {"layers.0.attn.out": 64}, 8, TopK(k=2)), seed=0)
    with pytest.raises(Unsupported, match=r"depends on what other tokens read[\s\S]*attention between"):
        jacobian_faithfulness(model, across, text())
    backwards = initialise(transcoder({"layers.1.mlp.out": 64}, {"layers.0.mlp.norm": 64}, 8, TopK(k=2)), seed=0)
    with pytest.raises(Unsupported, match="does not depend on what is read"):
        jacobian_faithfulness(model, backwards, text())
    with pytest.raises(BadInput, match=r"at least 4 sequences[\s\S]*Found: 2"):
        jacobian_faithfulness(model, across, text(2))
