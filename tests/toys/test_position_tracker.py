"""Where position lives: the directions are found in a stream made by hand, and a random network is refused."""

from typing import Any

import pytest
import torch

import digsite
from digsite._core.errors import ContractBroken
from digsite.toys.trained.networks import small_gpt2
from digsite.toys.trained.position_tracker import (
    BLOCK,
    LENGTH,
    SIZE,
    START,
    TOKENS,
    TOY,
    answers,
    decoded,
    directions,
    examine,
    random_basis,
    recipe,
    removed,
)
from digsite.toys.training import Trained, train


def by_hand() -> Any:
    """Attends by position alone, in three directions of the stream, to where the block began, and copies."""
    width, place = 64, slice(TOKENS + 1, TOKENS + 4)
    network: Any = small_gpt2(vocab=TOKENS + 1, length=LENGTH, layers=1, heads=1, width=width, norm="still")
    block, angle = torch.arange(LENGTH) // BLOCK, 2 * torch.pi * (torch.arange(LENGTH) // BLOCK) / (LENGTH // BLOCK)
    begins = (torch.arange(LENGTH) % BLOCK == 0).float()
    with torch.no_grad():
        for label, parameter in network.named_parameters():
            if "ln_" not in label and "mlp" not in label:
                parameter.zero_()
        embed, places = network.transformer.wte.weight, network.transformer.wpe.weight
        embed[: TOKENS + 1, : TOKENS + 1] = torch.eye(TOKENS + 1)
        places[:, place] = torch.stack([angle.cos(), angle.sin(), begins * (block > 0)], 1)
        attention = network.transformer.h[0].attn
        attention.c_attn.weight[place, :2] = 2000.0 * torch.eye(3)[:, :2]
        attention.c_attn.bias[2] = 8000.0
        attention.c_attn.weight[place, width : width + 3] = torch.eye(3)
        attention.c_attn.weight[:TOKENS, 2 * width : 2 * width + TOKENS] = torch.eye(TOKENS)
        attention.c_proj.weight[:TOKENS, :TOKENS] = 3.0 * torch.eye(TOKENS)
        network.lm_head.weight[:TOKENS, :TOKENS] = torch.eye(TOKENS)
        for writer in (embed, places, attention.c_proj.weight):
            writer[:, -1] = -writer.sum(1)  # what is written has mean zero, so that centring changes nothing
    return network.eval()


def test_the_examination_reads_a_network_made_by_hand():
    found = examine(Trained(by_hand(), [1.0, 0.5]), seed=0)
    value = dict(zip(found.claims, found.values.tolist(), strict=True))
    assert value["held-out rows: positions answered"] == 1.0
    assert value[f"variance of the position means in {SIZE} directions"] > 0.95
    assert value[f"answered without the {SIZE} directions"] < 0.4
    # Positions of one block that do not begin it are the same in this stream: only so many can be told apart.
    assert 0.2 < value[f"held-out positions read from {SIZE} directions"] < 0.7


def test_directions_and_decoding_are_what_a_loop_says():
    draw = torch.Generator().manual_seed(0)
    means = torch.randn(6, 10, generator=draw)
    basis, shares = directions(means)
    values = torch.linalg.eigvalsh((means - means.mean(0)).T @ (means - means.mean(0))).flip(0)[:6]
    torch.testing.assert_close(shares, values / values.sum(), rtol=1e-4, atol=1e-5)
    stream = means + 0.5 * torch.randn(3, 6, 10, generator=draw)
    for row, place in ((0, 0), (1, 4), (2, 5)):
        apart = [float(((stream[row, place] - mean) @ basis[:4].T).norm()) for mean in means]
        assert decoded(stream, means, basis[:4])[row, place] == min(range(6), key=apart.__getitem__)


def test_removing_directions_sets_them_to_the_middle_and_leaves_the_rest():
    network: Any = small_gpt2(vocab=TOKENS + 1, length=LENGTH, layers=2, heads=2, width=64, neurons=16).eval()
    model, middle, basis = digsite.load(network, verify=False), torch.arange(64.0), random_basis(3, 64, seed=1)
    tokens = model.tokens([[START, 3, 4, 5]])
    site = "layers.0.resid_pre"
    before = model.run(tokens, read=[site])[site]
    after = model.run(tokens, read=[site], edits=[removed(basis, middle)])[site]
    torch.testing.assert_close(after @ basis.T, (middle @ basis.T).expand(1, 4, 3), rtol=1e-4, atol=1e-4)
    rest = torch.eye(64) - basis.T @ basis
    torch.testing.assert_close(after @ rest, before @ rest, rtol=1e-4, atol=1e-4)


def test_the_answer_is_the_token_at_which_the_block_began():
    ids = torch.arange(2 * LENGTH).reshape(2, LENGTH)
    assert answers(ids)[1, :9].tolist() == [32, 32, 32, 32, 36, 36, 36, 36, 40]


def test_the_same_seed_gives_the_same_weights(tmp_path):
    first, again = (train(recipe(0, 3), tmp_path / name).network.state_dict() for name in ("first", "again"))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_network_that_was_not_trained_is_refused(tmp_path):
    with pytest.raises(ContractBroken, match="held-out rows: positions answered: 0"):
        TOY.make(tmp_path / "toy", steps=2)
