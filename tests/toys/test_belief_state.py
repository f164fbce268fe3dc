"""Beliefs about a hidden process: Bayes' rule as a sum over all paths, the linear map, a random network refused."""

from itertools import product

import numpy as np
import pytest
import torch

from digsite._core.errors import ContractBroken
from digsite.toys.trained.belief_state import (
    LENGTH,
    STATES,
    TOY,
    A,
    X,
    beliefs,
    examine,
    explained,
    fit,
    history,
    process,
    read,
    recipe,
    rows,
)
from digsite.toys.training import train


def test_the_belief_is_a_sum_over_all_paths_of_the_hidden_state():
    seen = [0, 2, 1, 1]
    weight = np.zeros(STATES)
    for path in product(range(STATES), repeat=5):
        chance = 1 / STATES
        for before, after, token in zip(path, path[1:], seen, strict=False):
            chance *= (1 - 2 * X if before == after else X) * (A if after == token else (1 - A) / 2)
        weight[path[-1]] += chance
    np.testing.assert_allclose(beliefs(np.array([seen]))[0, -1], weight / weight.sum())


def test_the_rows_are_what_the_process_gives():
    np.testing.assert_allclose(process().sum((0, 2)), 1)
    made = rows(np.random.default_rng(0), 20000)
    after = process().sum(2) @ process().sum(0)  # [token, state two steps before]
    first = made[:, 0] == 0
    expected = after @ beliefs(made[first][:1])[0, 0]
    found = np.bincount(made[first, 2], minlength=STATES) / first.sum()
    np.testing.assert_allclose(found, expected, atol=0.03)


def test_a_linear_map_is_found_and_judged():
    rng = np.random.default_rng(0)
    seen = rng.standard_normal((500, 4))
    known = seen @ rng.standard_normal((4, STATES)) + 2.0
    by = fit(seen[:250], known[:250])
    assert explained(read(seen[250:], by), known[250:]) > 0.999
    wrong = fit(seen[:250], rng.permuted(known[:250], axis=0))
    assert explained(read(seen[250:], wrong), known[250:]) < 0.1


def test_the_history_holds_every_token_so_far_and_none_to_come():
    tokens = rows(np.random.default_rng(0), 2)
    seen = history(tokens).reshape(2, LENGTH, LENGTH, STATES)
    for place, back in ((0, 0), (5, 2), (15, 15)):
        assert seen[1, place, back].argmax() == tokens[1, place - back] and seen[1, place, back].sum() == 1
    assert seen[1, 3, 4:].sum() == 0


def test_the_same_seed_gives_the_same_weights(tmp_path):
    first, again = (train(recipe(0, 3), tmp_path / name).network.state_dict() for name in ("first", "again"))
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.slow
def test_a_short_training_brings_it_nearer_to_the_ideal_observer(tmp_path):
    short, none = (examine(train(recipe(0, steps), tmp_path / str(steps)), seed=0) for steps in (150, 1))
    value, before = (dict(zip(found.claims, found.values.tolist(), strict=True)) for found in (short, none))
    excess = "held-out rows: prediction against the ideal observer's"
    assert 0 < value[excess] < 0.1 * before[excess]
    assert value["what is left unread, against a network that was not trained"] < 0.8
    assert 0.8 < before["what is left unread, against a network that was not trained"] < 1.2


def test_a_network_that_was_not_trained_is_refused(tmp_path):
    with pytest.raises(ContractBroken, match=r"against a network that was not trained: [01]"):
        TOY.make(tmp_path / "toy", steps=2)
