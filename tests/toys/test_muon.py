"""The optimiser of two parts: its steps are those of its parts, and what it remembers is resumed bit for bit."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from digsite.toys.trained.muon import Muon, orthogonal
from digsite.toys.trained.networks import small_gpt2
from digsite.toys.training import Recipe, train


def recipe(*, stop: int | None = None) -> Recipe:
    def loss(network: torch.nn.Module, step: int) -> Tensor:
        if step == stop:
            raise KeyboardInterrupt
        ids = torch.randint(7, (4, 5), generator=torch.Generator().manual_seed(step))
        return network(input_ids=ids, labels=ids).loss

    return Recipe(
        name="muon",
        settings={},
        steps=6,
        seed=0,
        network=lambda: small_gpt2(vocab=7, length=5, layers=1, heads=2, width=16, neurons=32),
        optimiser=lambda network: Muon(network, weight_decay=0.1),
        loss=loss,
        rate=lambda step: 0.01 / (step + 1),
        save_every=2,
    )


def test_a_training_that_was_killed_ends_in_the_same_weights(tmp_path: Path):
    whole = train(recipe(), tmp_path / "whole").network.state_dict()
    with pytest.raises(KeyboardInterrupt):
        train(recipe(stop=5), tmp_path / "killed")
    resumed = train(recipe(), tmp_path / "killed").network.state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_matrices_of_the_blocks_take_orthogonal_steps_and_the_rest_those_of_adam():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = small_gpt2(vocab=7, length=5, layers=1, heads=2, width=16, neurons=32)
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    optimiser = Muon(network, weight_decay=0.0)
    for group in optimiser.param_groups:
        group["lr"] = 0.01
    ids = torch.randint(7, (4, 5), generator=torch.Generator().manual_seed(0))
    network(input_ids=ids, labels=ids).loss.backward()
    optimiser.step()
    moved = {name: weight.detach() - before[name] for name, weight in network.named_parameters()}
    square = torch.linalg.svdvals(moved["transformer.h.0.attn.c_proj.weight"])
    # Five rounds of Newton and Schulz bring singular values near to one: between about 0.7 and 1.2.
    assert square.max() / square[: len(square) // 2].min() < 2.5
    assert float(square.max()) < 1.3 * 0.01 * 0.2 * 4
    rest = moved["lm_head.weight"]
    used = network.lm_head.weight.grad
    assert used is not None
    torch.testing.assert_close(rest, -0.01 * used.sign() * (used.abs() > 0), atol=1e-4, rtol=0.02)


@pytest.mark.parametrize("shape", [(8, 20), (20, 8), (12, 12)])
def test_a_step_keeps_the_directions_of_a_matrix_and_levels_their_sizes(shape):
    given = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(given, full_matrices=False)
    levelled = u.T @ orthogonal(given) @ v.T
    assert float((levelled - levelled.diagonal().diag()).abs().max()) < 1e-5
    assert float(levelled.diagonal().min()) > 0.6 and float(levelled.diagonal().max()) < 1.3


def test_steps_are_those_of_pytorchs_muon_but_for_its_rounding():
    generator = torch.Generator().manual_seed(0)
    given, towards = torch.randn(24, 40, generator=generator), torch.randn(3, 24, 40, generator=generator)
    network = torch.nn.Module()
    network.h = torch.nn.ParameterDict({"0": torch.nn.Parameter(given.clone())})
    network.b = torch.nn.Parameter(torch.zeros(3))
    holder = torch.nn.ModuleDict({"transformer": network})
    theirs = torch.nn.Parameter(given.clone())
    ours = network.h["0"]
    optimisers = (
        Muon(holder, weight_decay=0.1),
        torch.optim.Muon([theirs], lr=1e-3, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    )
    for gradient in towards:
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        for optimiser in optimisers:
            optimiser.step()
    moved, known = ours.detach() - given, theirs.detach() - given
    assert float((moved - known).norm() / known.norm()) < 0.02
