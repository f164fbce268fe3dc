"""Superposition: formulas against brute force, networks that do not touch, claims that a bad run misses."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from digsite._core.errors import BadInput, ContractBroken
from digsite.artifacts import load_result
from digsite.toys import training
from digsite.toys.trained import superposition as module
from digsite.toys.trained import superposition_dimension as versus
from digsite.toys.trained.autoencoders import Autoencoders, Instances, errors, recipe_of, sparse_examples
from digsite.toys.trained.claims import at_least
from digsite.toys.trained.superposition import PHASES, feature_dimensionality, neighbour_angles, phase_losses
from digsite.toys.trained.superposition_folder import make_superposition

PENTAGON = torch.tensor([[math.cos(a), math.sin(a)] for a in torch.arange(5) * 2 * math.pi / 5])


def three(*, learned=True):
    return Instances(
        dimensions=[1, 2, 2],
        density=torch.tensor([1.0, 0.5, 0.1]),
        importance=torch.tensor([[1.0, 0.5, 0.25]]).repeat(3, 1),
        learned=learned,
    )


def test_dimensionality_of_known_arrangements():
    assert feature_dimensionality(torch.eye(3)).tolist() == [1, 1, 1]
    assert feature_dimensionality(torch.tensor([[2.0], [-2.0], [0.0]])).tolist() == [0.5, 0.5, 0.0]
    assert torch.allclose(feature_dimensionality(3 * PENTAGON), torch.full((5,), 2 / 5))
    W = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    by_hand = [
        float(W[i] @ W[i]) / sum(float((W[i] / W[i].norm()) @ W[j]) ** 2 for j in range(len(W))) for i in range(len(W))
    ]
    assert feature_dimensionality(W).tolist() == pytest.approx(by_hand, rel=1e-5)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), features=st.integers(1, 12), dimensions=st.integers(1, 5))
def test_features_never_have_more_dimensions_than_there_are(seed, features, dimensions):
    W = torch.randn(features, dimensions, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert float(feature_dimensionality(W).sum()) <= min(features, dimensions) + 1e-6


def test_angles_of_a_pentagon_are_72_degrees_and_short_directions_do_not_count():
    W = torch.cat([PENTAGON[[3, 0, 4, 1, 2]], torch.tensor([[0.1, 0.1]])])
    assert neighbour_angles(W).tolist() == pytest.approx([72] * 5, abs=1e-3)
    assert neighbour_angles(torch.tensor([[1.0, 0.0], [0.0, 1.0]])).tolist() == pytest.approx([90, 270], abs=1e-3)


@pytest.mark.parametrize(("importance", "density"), [(0.5, 1.0), (2.0, 0.4), (1.0, 0.05)])
def test_the_integrals_say_what_the_codes_cost(importance, density):
    x = sparse_examples(0, 0, 1_000_000, 2, torch.tensor([density]))[0]
    cost = torch.tensor([1.0, importance])
    codes = {  # directions of both features, biases
        "left out": ([1.0, 0.0], [0.0, density / 2]),
        "shares a dimension": ([1.0, -1.0], [0.0, 0.0]),
        "has a dimension": ([0.0, 1.0], [density / 2, 0.0]),
    }
    known = phase_losses(torch.tensor(importance), torch.tensor(density)).tolist()
    for name, value in zip(PHASES, known, strict=True):
        W, b = (torch.tensor(part) for part in codes[name])
        said = torch.relu((x @ W)[:, None] * W + b)
        assert value == pytest.approx(float(((said - x) ** 2 * cost).sum(1).mean()), rel=0.06), name


def test_examples_are_of_the_step_alone_and_as_sparse_as_asked():
    density = torch.tensor([1.0, 0.1])
    x = sparse_examples(0, 5, 20_000, 5, density)
    assert torch.equal(x, sparse_examples(0, 5, 20_000, 5, density))
    assert not torch.equal(x, sparse_examples(0, 6, 20_000, 5, density))
    assert not torch.equal(x, sparse_examples(1, 5, 20_000, 5, density))
    active = x > 0
    assert active.float().mean((1, 2)).tolist() == pytest.approx([1.0, 0.1], abs=0.003)
    assert float((active[1, :, 0] & active[1, :, 1]).float().mean()) == pytest.approx(0.01, abs=0.003)
    assert float(x[1][active[1]].mean()) == pytest.approx(0.5, abs=0.01)


def test_the_networks_are_as_the_formula_says_and_use_no_more_dimensions_than_they_may():
    torch.manual_seed(0)
    network, x = Autoencoders(three(learned=False)), sparse_examples(0, 0, 7, 3, three().density)
    assert torch.equal(network.directions[0, :, 1], torch.zeros(3))
    assert torch.allclose(network.directions.norm(dim=-1), torch.ones(3, 3))
    torch.nn.init.constant_(network.gain, 0.5)
    torch.nn.init.constant_(network.b, 0.2)
    W = network.directions[2]
    said = torch.stack([torch.relu(0.5 * W @ W.T @ row + 0.2) for row in x[2]])
    assert torch.allclose(network(x)[2], said, atol=1e-6)
    assert {name for name, weight in network.named_parameters() if weight.requires_grad} == {"b", "gain"}


def test_instances_side_by_side_do_not_touch(tmp_path):
    def weights(instances, folder):
        return training.train(recipe_of(instances, name="x", steps=3, seed=0), tmp_path / folder).network.directions

    changed = replace(three(), importance=torch.tensor([[1.0, 0.5, 0.25]] * 2 + [[9.0, 0.0, 9.0]]))
    one, other = weights(three(), "one"), weights(changed, "other")
    assert torch.equal(one[:2], other[:2])
    assert not torch.equal(one[2], other[2])


def test_a_killed_training_goes_on_bit_for_bit(tmp_path):
    recipe = replace(recipe_of(three(), name="x", steps=6, seed=3), save_every=2)
    straight = training.train(recipe, tmp_path / "straight")

    def killed(network, step):
        if step == 5:
            raise KeyboardInterrupt
        return recipe.loss(network, step)

    with pytest.raises(KeyboardInterrupt):
        training.train(replace(recipe, loss=killed), tmp_path / "killed")
    resumed = training.train(recipe, tmp_path / "killed")
    assert resumed.losses == straight.losses
    assert all(
        torch.equal(a, b) for a, b in zip(resumed.network.parameters(), straight.network.parameters(), strict=True)
    )


def test_the_loss_is_a_weighted_sum_and_falls(tmp_path):
    instances = three()
    torch.manual_seed(0)
    network, x = (
        Autoencoders(instances).requires_grad_(requires_grad=False),
        sparse_examples(0, 0, 50, 3, instances.density),
    )
    by_hand = [
        sum(
            float(instances.importance[i, f]) * float((network(x)[i, :, f] - x[i, :, f]).square().mean())
            for f in range(3)
        )
        for i in range(3)
    ]
    assert errors(network, instances, x).tolist() == pytest.approx(by_hand, rel=1e-5)
    losses = training.train(recipe_of(instances, name="x", steps=60, seed=0), tmp_path).losses
    assert losses[-1] < 0.7 * losses[0]


def test_what_was_hardly_trained_is_refused_and_its_state_stays(tmp_path, monkeypatch):
    with pytest.raises(ContractBroken, match=r"(?s)superposition is not what it should be.*angle of the pentagon"):
        module.superposition(steps=2, state=tmp_path)
    assert (tmp_path / "pentagon" / "state.safetensors").exists()
    with pytest.raises(BadInput, match="unfinished training with other settings"):
        module.superposition(steps=3, state=tmp_path)
    monkeypatch.setattr(module, "_claims", lambda *_: [])
    result = module.superposition(steps=2, state=tmp_path)
    assert list(tmp_path.iterdir()) == []
    loaded = load_result(result.save(tmp_path / "saved"))
    assert isinstance(loaded, module.SuperpositionResult)
    assert torch.equal(loaded.pentagon, result.pentagon) and loaded.verdict == result.verdict
    assert loaded.to_frame()["density"].to_list() == pytest.approx(module.PENTAGON_DENSITY)


def test_directions_that_were_hardly_trained_are_refused(monkeypatch):
    monkeypatch.setattr(versus, "FEATURES", 16)
    monkeypatch.setattr(versus, "DIMENSIONS", (2, 4))
    with pytest.raises(ContractBroken, match="1 %, 16 dimensions: lost with learned directions"):
        versus.superposition_versus_dimension(steps=1)


def test_random_read_outs_hear_what_the_formula_says(monkeypatch):
    monkeypatch.setattr(versus, "DIMENSIONS", (8,))
    known = [versus.crosstalk(versus.FEATURES, 8, density) for density in versus.DENSITIES]
    assert versus._heard(1)[0].tolist() == pytest.approx(known, rel=0.1)


def test_the_folder_has_both_results_and_a_card(tmp_path, monkeypatch):
    for part in (module, versus):
        monkeypatch.setattr(part, "_claims", lambda *_: [at_least("something is known", 1.0, 0.5)])
    monkeypatch.setattr(versus, "FEATURES", 16)
    monkeypatch.setattr(versus, "DIMENSIONS", (2, 4, 8))
    out = make_superposition(tmp_path / "toy", steps=2)
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]
    sweep = module.SuperpositionResult.load(out / "sweep")
    assert sweep.findings.holds == (True,) and sweep.phase.shape == sweep.phase_known.shape == (11, 11)
    grid = versus.SuperpositionVersusDimension.load(out / "versus_dimension")
    assert grid.error_learned.shape == (len(versus.DIMENSIONS), len(versus.DENSITIES))
    assert grid.to_frame().height == grid.error_learned.numel()
    assert (out / "README.md").read_text().count("| something is known | 1 fraction | at least 0.5 |") == 2
