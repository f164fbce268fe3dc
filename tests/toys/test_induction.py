"""Induction: rows that repeat, scores of attention made by hand, knock-outs that do what they say, and refusal."""

import math

import numpy as np
import pytest
import torch

from digsite._core.errors import ContractBroken
from digsite.models import load
from digsite.toys.trained import induction as module
from digsite.toys.trained.induction import HEADS, LAYERS, LENGTH, LONGEST, SHORTEST, TOY, VOCAB, repeats
from digsite.toys.training import train


@pytest.fixture(scope="module")
def rows():
    return repeats(np.random.default_rng(0), 20)


def test_rows_repeat_a_segment_without_a_token_twice(rows):
    for ids, period in zip(rows.ids.tolist(), rows.period.tolist(), strict=True):
        assert SHORTEST <= period <= LONGEST and len(set(ids[:period])) == period
        assert ids[period:] == ids[:-period]
    assert len(set(rows.period.tolist())) > 5
    again, other = (repeats(np.random.default_rng(seed), 20) for seed in (0, 1))
    assert torch.equal(again.ids, rows.ids) and not torch.equal(other.ids, rows.ids)


def test_what_is_known_is_what_followed_this_token_before(rows):
    for ids, known in zip(rows.ids.tolist(), rows.known.tolist(), strict=True):
        by_hand = [at + 1 < LENGTH and token in ids[:at] for at, token in enumerate(ids)]
        assert known == by_hand
    perfect = torch.nn.functional.one_hot(rows.ids.roll(-1, 1), VOCAB) * 100.0
    assert float(module.known_losses(perfect, rows).max()) < 1e-6
    assert module.known_losses(0 * perfect, rows).mean().item() == pytest.approx(math.log(VOCAB))


def test_scores_of_attention_made_by_hand(rows):
    patterns = torch.zeros(LAYERS, len(rows.ids), HEADS, LENGTH, LENGTH)
    patterns[:, :, :, range(LENGTH), range(LENGTH)] = 1.0  # to itself
    patterns[0, :, 1] = torch.diag(torch.ones(LENGTH - 1), -1) * 0.7
    for row, (ids, period) in enumerate(zip(rows.ids.tolist(), rows.period.tolist(), strict=True)):
        for at in range(period, LENGTH):
            patterns[1, row, 0, at] = 0.0
            patterns[1, row, 0, at, ids.index(ids[at]) + 1] = 0.8
    previous = module.previous_token_scores(patterns)
    assert previous[0].tolist() == pytest.approx([0.0, 0.7])
    assert module.induction_scores(patterns, rows)[1].tolist() == pytest.approx([0.8, 0.0])
    assert module.induction_scores(patterns, rows)[0].tolist() == pytest.approx([0.0, 0.0])


def test_a_head_that_is_knocked_out_writes_its_mean(rows):
    torch.manual_seed(0)
    network = module.network().eval()
    model = load(network)
    tokens = model.tokens(rows.ids)
    knocked, _ = module.without(model, rows, 0, 1)
    z = model.run(tokens, read=["layers.0.attn.z"])["layers.0.attn.z"]
    width = z.shape[-1]
    mean = z[:, :, 1].mean((0, 1))
    projection = network.transformer.h[0].attn.c_proj
    with torch.no_grad():
        projection.bias += mean @ projection.weight[width : 2 * width]
        projection.weight[width : 2 * width] = 0
        by_hand = module.known_losses(network(input_ids=rows.ids).logits, rows).mean()
    assert knocked == pytest.approx(float(by_hand), rel=1e-4)


def test_no_mlp_is_trained():
    trained = {name for name, weight in module.network().named_parameters() if weight.requires_grad}
    assert trained and not any(".mlp." in name or ".ln_" in name for name in trained)


def test_the_same_seed_gives_the_same_weights(tmp_path):
    def weights(seed, folder):
        return train(TOY.recipe(seed, 3), tmp_path / folder).network.state_dict()

    one, same, other = weights(0, "one"), weights(0, "same"), weights(1, "other")
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["transformer.wte.weight"], other["transformer.wte.weight"])


def test_a_network_that_knows_nothing_is_refused(tmp_path):
    with pytest.raises(
        ContractBroken, match=r"(?s)induction is not what it should be.*tokens foretold that came before"
    ):
        TOY.make(tmp_path / "toy", steps=2)
    assert not (tmp_path / "toy").exists()
