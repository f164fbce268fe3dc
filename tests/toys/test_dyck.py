"""Balanced brackets: the examination tells the two questions apart in weights made by hand, and refuses others."""

from typing import Any

import numpy as np
import pytest
import torch

from digsite._core.errors import ContractBroken
from digsite.toys.trained.dyck import (
    ASK,
    BALANCED,
    BELOW,
    BOTH,
    CLOSE,
    LENGTH,
    NO,
    OPEN,
    START,
    TOTAL,
    TOY,
    examine,
    kinds,
    recipe,
    rows,
    words,
)
from digsite.toys.trained.networks import small_gpt2
from digsite.toys.training import Trained, train

SIGN, ASKS, COUNT, OFF, UNDER, MOVED, REST = range(7)


def by_hand() -> Any:
    """Averages the brackets, marks places where the average is not zero, and looks at `?` for a place below zero."""
    width = 8
    network: Any = small_gpt2(vocab=6, length=LENGTH + 2, layers=2, heads=1, width=width, neurons=8, norm="still")
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "ln_" not in name:
                parameter.zero_()
        embed = network.transformer.wte.weight
        embed[OPEN, SIGN], embed[CLOSE, SIGN], embed[ASK, ASKS] = 1.0, -1.0, 1.0
        first, second = network.transformer.h
        first.attn.c_attn.weight[SIGN, 2 * width] = 1.0
        first.attn.c_proj.weight[0, COUNT] = 1.0
        # two neurons make a step: 0 where the mean is zero, 1 where it is at least 1/30 away on one side
        for neuron, (sign, shift) in enumerate([(60, 0), (60, -1), (-60, 0), (-60, -1)]):
            first.mlp.c_fc.weight[COUNT, neuron], first.mlp.c_fc.bias[neuron] = sign, shift
            first.mlp.c_proj.weight[neuron, OFF] = 1.0 if shift == 0 else -1.0
            first.mlp.c_proj.weight[neuron, UNDER] = (1.0 if shift == 0 else -1.0) * (sign < 0)
        second.attn.c_attn.weight[ASKS, 0] = 60.0
        second.attn.c_attn.weight[UNDER, width] = 1.0
        second.attn.c_attn.weight[UNDER, 2 * width] = 1.0
        second.attn.c_proj.weight[0, MOVED] = 1.0
        network.lm_head.weight[NO, [OFF, MOVED, ASKS]] = torch.tensor([4.0, 4.0, -1.0])
        for writer in (embed, first.attn.c_proj.weight, first.mlp.c_proj.weight, second.attn.c_proj.weight):
            writer[:, REST] = -writer.sum(1)  # what is written has mean zero, so that centring changes nothing
    return network.eval()


def test_the_examination_finds_both_questions_in_weights_made_by_hand():
    found = examine(Trained(by_hand(), [1.0, 0.5]), seed=0)
    assert all(found.holds), found.to_frame()


def test_the_examination_sees_when_one_question_is_not_asked():
    network = by_hand()
    with torch.no_grad():
        network.lm_head.weight[NO, 5] = 0.0
    found = examine(Trained(network, [1.0, 0.5]), seed=0)
    failed = [claim for claim, holds in zip(found.claims, found.holds, strict=True) if not holds]
    assert "held-out words judged rightly" in failed


def test_words_are_of_the_kind_that_a_loop_says():
    drawn = words(np.random.default_rng(0), 500)
    for word, kind in zip(drawn.tolist(), kinds(drawn).tolist(), strict=True):
        count, below = 0, False
        for bracket in word:
            count += bracket
            below |= count < 0
        assert (
            kind
            == {(False, False): BALANCED, (True, False): TOTAL, (False, True): BELOW, (True, True): BOTH}[
                count != 0, below
            ]
        )
    shares = np.bincount(kinds(drawn), minlength=4) / len(drawn)
    assert np.allclose(shares, [0.35, 0.3, 0.28, 0.07], atol=0.06)
    ids = rows(drawn)
    assert ids.shape == (500, LENGTH + 2)
    assert set(ids[:, 0].tolist()) == {START} and set(ids[:, -1].tolist()) == {ASK}


def test_no_word_is_trained_on_and_held_out():
    rng = np.random.default_rng(0)
    trained_on, held_out = words(rng, 4000), words(rng, 4000, held_out=True)
    assert len(held_out) == 4000
    assert not set(map(bytes, trained_on)) & set(map(bytes, held_out))


def test_the_same_seed_gives_the_same_weights(tmp_path):
    first, again = (train(recipe(0, 3), tmp_path / name).network.state_dict() for name in ("first", "again"))
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.slow
def test_a_network_that_was_not_trained_is_refused(tmp_path):
    with pytest.raises(ContractBroken, match="held-out words judged rightly: 0"):
        TOY.make(tmp_path / "toy", steps=2)
