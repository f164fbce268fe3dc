"""Mask training: its gradient is that of edge attribution, its size is exact, and it finds a known circuit."""

import pytest
import torch

import digsite
from architectures import tiny
from digsite._core.errors import BadInput
from digsite.circuits import EdgeMux, eap, mask_training
from digsite.circuits.masks import levelled
from digsite.toys.compiled import compile_program
from paired import paired_task


@pytest.fixture(scope="module", params=["llama", "gpt_neox"])
def mux(request):
    model, task = digsite.load(tiny(request.param, torch.float64), verify=False), paired_task(3)
    return model, task, EdgeMux(model, task.clean, task.require_corrupt())


def slopes_of(mux, task, mask):
    mask = mask.clone().requires_grad_()
    return torch.autograd.grad(task.metric(mux.graded(mask)).mean(), mask)[0]


def test_at_a_mask_of_zeros_the_gradient_is_edge_attribution(mux):
    model, task, mux = mux
    slopes = slopes_of(mux, task, torch.zeros(mux.space.real.shape, dtype=torch.float64))
    assert torch.allclose(-slopes.float(), eap(model, task).mean(), rtol=1e-4, atol=1e-6)


def test_between_the_ends_the_gradient_is_a_finite_difference(mux):
    _, task, mux = mux
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(mux.space.real.shape, generator=generator, dtype=torch.float64)
    way = torch.randn(mask.shape, generator=generator, dtype=torch.float64) * mux.space.real
    slope = (slopes_of(mux, task, mask) * way).sum()
    step = 1e-2
    ends = [task.metric(mux.graded(mask + share * way)).mean() for share in (step, -step)]
    assert torch.allclose((ends[0] - ends[1]) / (2 * step), slope, rtol=2e-2)


def test_a_mask_of_zeros_and_ones_is_what_the_mux_says(mux):
    _, _, mux = mux
    mask = torch.rand(mux.space.real.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    ((_, wanted),) = mux(mask.unsqueeze(0))
    assert torch.allclose(mux.graded(mask.double()), wanted[0], rtol=1e-4, atol=1e-5)


def test_open_gates_sum_to_the_wanted_size_and_the_gradient_knows():
    x = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    for total in (0.5, 10.0, 49.5):
        opened = torch.sigmoid(levelled(x, total))
        assert float(opened.detach().sum()) == pytest.approx(total, abs=1e-6)
        (slopes,) = torch.autograd.grad(opened.sum(), x)
        assert slopes.abs().max() < 1e-9  # a sum that is held moves with nothing
    assert torch.autograd.gradcheck(lambda x: torch.sigmoid(levelled(x, 10.0)), x)


def test_a_circuit_that_is_known_is_found():
    made = compile_program("induction")
    found = mask_training(made.model, made.task(32), len(made.edges), how="zero", steps=60)
    assert set(found.circuit.edges) == set(made.edges)
    assert float(found.share(found.kept).mean()) > 0.99 and float(found.share(found.random).max()) < 0.9
    assert len(found.kept) == 16 and found.trained_on == 16 and "fails" not in found.verdict


@pytest.mark.parametrize("gates", ["hard-concrete", pytest.param("top-k", marks=pytest.mark.slow)])
def test_a_map_is_one_mlp_and_two_edges(gates):
    made = compile_program("successor")
    task = made.task(16)
    nodes = mask_training(made.model, task, 1, over="nodes", gates=gates, how="zero", steps=40)
    assert set(nodes.circuit.nodes) == {name for name in made.nodes if name.startswith("layers")}
    scores = nodes.circuit.scores
    assert all(len(row[~row.isnan()].unique()) <= 1 for row in scores)  # a node is open for all its readers
    edges = mask_training(made.model, task, len(made.edges), gates=gates, how="zero", steps=40)
    assert set(edges.circuit.edges) == set(made.edges)


def test_the_same_seed_trains_the_same_mask(tmp_path):
    model, task = digsite.load(tiny("llama"), verify=False), paired_task(4)
    one, two = (mask_training(model, task, 0.1, objective="logit_diff", steps=3, random_circuits=2) for _ in range(2))
    assert torch.equal(one.circuit.kept, two.circuit.kept) and torch.equal(one.loss, two.loss)
    assert one.wanted[-1] == round(0.1 * len(one.circuit.space)) and len(one.to_frame()) == 3
    back = type(one).load(one.save(tmp_path / "mask"))
    assert back.verdict == one.verdict


@pytest.mark.parametrize(
    "wrong", [{"size": 0}, {"size": 1.0}, {"over": "heads"}, {"gates": "step"}, {"train": 1.0}, {"steps": 0}]
)
def test_what_cannot_be_trained_is_refused(wrong):
    model, task = digsite.load(tiny("llama"), verify=False), paired_task(4)
    with pytest.raises(BadInput, match=r"mask|Masks"):
        mask_training(model, task, **{"size": 5, **wrong})
