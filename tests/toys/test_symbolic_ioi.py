"""Names that are said twice: the circuit is found in weights made by hand, and a network without it is refused."""

from typing import Any

import numpy as np
import pytest
import torch

import digsite
from digsite._core.errors import ContractBroken
from digsite.toys.trained.networks import small_gpt2
from digsite.toys.trained.symbolic_ioi import (
    LENGTH,
    NAMES,
    S2,
    START,
    THEN,
    TO,
    TOY,
    examine,
    exclusion,
    prompts,
    recipe,
)
from digsite.toys.training import Trained, train


def by_hand() -> Any:
    """Fetches the name at S2, then attends to the name of the first two that was not fetched."""
    name, fetched = slice(0, NAMES), slice(NAMES, 2 * NAMES)
    asks, early, late, rest = range(2 * NAMES, 2 * NAMES + 4)
    width = 2 * NAMES + 4
    network: Any = small_gpt2(vocab=NAMES + 3, length=LENGTH, layers=2, heads=1, width=width, norm="still")
    with torch.no_grad():
        for label, parameter in network.named_parameters():
            if "ln_" not in label and "mlp" not in label:
                parameter.zero_()
        embed, places = network.transformer.wte.weight, network.transformer.wpe.weight
        embed[:NAMES, name], embed[TO, asks] = torch.eye(NAMES), 1.0
        places[1:3, early], places[S2, late] = 1.0, 1.0
        first, second = (block.attn for block in network.transformer.h)
        first.c_attn.weight[asks, 0], first.c_attn.weight[late, width] = 200.0, 1.0
        second.c_attn.weight[asks, 0], second.c_attn.weight[early, width] = 200.0, 1.0
        second.c_attn.weight[fetched, 1 : NAMES + 1] = -100.0 * torch.eye(NAMES)
        second.c_attn.weight[name, width + 1 : width + 1 + NAMES] = torch.eye(NAMES)
        for attention, to in ((first, fetched), (second, name)):
            attention.c_attn.weight[name, 2 * width : 2 * width + NAMES] = torch.eye(NAMES)
            attention.c_proj.weight[:NAMES, to] = torch.eye(NAMES)
        network.lm_head.weight[:NAMES, name] = torch.eye(NAMES)
        for writer in (embed, places, first.c_proj.weight, second.c_proj.weight):
            writer[:, rest] = -writer.sum(1)  # what is written has mean zero, so that centring changes nothing
    return network.eval()


def test_the_examination_finds_the_circuit_in_weights_made_by_hand():
    found = examine(Trained(by_hand(), [1.0, 0.5]), seed=0)
    assert all(found.holds), found.to_frame()


def test_a_head_that_does_not_compare_is_found_out():
    network = by_hand()
    with torch.no_grad():
        network.transformer.h[1].attn.c_attn.weight[NAMES : 2 * NAMES, 1 : NAMES + 1] = 0.0
    found = examine(Trained(network, [1.0, 0.5]), seed=0)
    failed = {claim for claim, holds in zip(found.claims, found.holds, strict=True) if not holds}
    assert failed >= {"held-out pairs answered", "pairs of names in which the fetched one gets the lower score"}


def test_the_score_table_is_what_the_network_computes():
    network = by_hand()
    model = digsite.load(network, verify=False)
    run = model.run(model.tokens([[START, 3, 8, THEN, 3, TO]]), read=["layers.1.attn.scores[0]"])
    scores, table = run["layers.1.attn.scores[0]"][0, -1, 1:3], exclusion(model)[3, [3, 8]]
    torch.testing.assert_close(scores[0] - scores[1], table[0] - table[1], rtol=1e-3, atol=1e-3)


def test_prompts_say_one_name_twice_and_no_pair_is_trained_on_and_held_out():
    rng = np.random.default_rng(0)
    both = prompts(rng, 4000), prompts(rng, 2000, held_out=True)
    for made in both:
        row = torch.arange(len(made.ids))
        assert torch.equal(made.ids[row, made.s1], made.s) and torch.equal(made.ids[:, S2], made.s)
        assert torch.equal(made.ids[row, 3 - made.s1], made.io) and not (made.s == made.io).any()
    pairs = [{frozenset(pair) for pair in zip(m.s.tolist(), m.io.tolist(), strict=True)} for m in both]
    assert not pairs[0] & pairs[1]
    assert 0.1 < len(pairs[1]) / (NAMES * (NAMES - 1) / 2) < 0.3


def test_the_same_seed_gives_the_same_weights(tmp_path):
    first, again = (train(recipe(0, 3), tmp_path / name).network.state_dict() for name in ("first", "again"))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_network_that_was_not_trained_is_refused(tmp_path):
    with pytest.raises(ContractBroken, match="held-out pairs answered: 0"):
        TOY.make(tmp_path / "toy", steps=2)
