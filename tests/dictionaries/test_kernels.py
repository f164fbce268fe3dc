"""Sparse products and their gradients, held against a short dense reference."""

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from digsite._core.errors import BadInput
from digsite.dictionaries import kernels, products
from digsite.store import Latents

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2e-2}


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


class Made(NamedTuple):
    """What goes into a pass, and the gradient of its output."""

    x: torch.Tensor
    W_enc: torch.Tensor
    b_enc: torch.Tensor
    W_dec: torch.Tensor
    cotangent: torch.Tensor


def inputs(rows=13, d=6, latents=40, dtype=torch.float64, seed=0) -> Made:
    shapes = ((rows, d), (latents, d), (latents,), (latents, d), (rows, d))
    return Made(*(numbers(*shape, seed=seed + i, dtype=dtype) for i, shape in enumerate(shapes)))


def apart(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference by the largest number."""
    assert found.shape == wanted.shape
    if not wanted.numel():
        return 0.0
    found, wanted = found.detach().double(), wanted.detach().double()
    return float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-12))


def dense_reference(made: Made, where: Latents) -> list[torch.Tensor]:
    """Output and gradients by dense autograd in float64, for the same choice of places."""
    leaves = [t.detach().double().requires_grad_() for t in made[:4]]
    x, W_enc, b_enc, W_dec = leaves
    mask = torch.zeros(len(where), where.width, dtype=torch.float64)
    mask[where.rows, where.flat[1]] = 1.0
    out = (torch.relu(x @ W_enc.T + b_enc) * mask) @ W_dec
    return [out.detach(), *torch.autograd.grad(out, leaves, made.cotangent.double())]


def sparse(made: Made, encode) -> tuple[Latents, list[torch.Tensor]]:
    leaves = [t.detach().clone().requires_grad_() for t in made[:4]]
    latents = encode(*leaves[:3])
    out = kernels.decode(latents, leaves[3])
    return latents.detach(), [out.detach(), *torch.autograd.grad(out, leaves, made.cotangent)]


ENCODERS = {
    "top_k": lambda x, W, b: kernels.encode_top_k(x, W, b, 3),
    "k = width": lambda x, W, b: kernels.encode_top_k(x, W, b, len(W)),
    "top_entries": lambda x, W, b: kernels.encode_top_entries(x, W, b, 3 * len(x)),
    "above": lambda x, W, b: (found := kernels.encode(x, W, b, lambda pre: kernels.above(pre, 0.0))).with_values(
        torch.relu(found.values)
    ),
}


@pytest.fixture(params=["sparse", "dense"])
def how(request, monkeypatch) -> str:
    """Both ways to multiply, whatever the share of entries."""
    monkeypatch.setattr(products, "DENSE_ABOVE", {"sparse": 1.0, "dense": 0.0}[request.param])
    return request.param


# -- gradients -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_pass_and_its_gradients_are_those_of_a_dense_one(encoder, dtype, how):
    made = inputs(dtype=dtype)
    latents, found = sparse(made, ENCODERS[encoder])
    wanted = dense_reference(made, latents)
    assert max(apart(a, b) for a, b in zip(found, wanted, strict=True)) < TOLERANCE[dtype]
    assert all(a.dtype == dtype and a.layout == torch.strided for a in found)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 9), st.integers(1, 5), st.integers(1, 300), st.integers(1, 6), st.booleans(), st.integers(0, 2**16)
)
def test_gradients_of_any_shape(rows, d, width, k, batch, seed):
    k = min(k, width)
    made = inputs(rows, d, width, seed=seed)

    def encode(x, W, b):
        return kernels.encode_top_entries(x, W, b, k * rows) if batch else kernels.encode_top_k(x, W, b, k)

    latents, found = sparse(made, encode)
    wanted = dense_reference(made, latents)
    assert latents.entries == k * rows
    assert max(apart(a, b) for a, b in zip(found, wanted, strict=True)) < 1e-10


def test_rows_without_entries_and_entries_that_repeat_or_are_zero(how):
    offsets = torch.tensor([0, 0, 4, 5, 5])
    values = torch.tensor([1.5, 0.0, 0.0, -2.0, 3.0], dtype=torch.float64).requires_grad_()
    latents = Latents(values, torch.tensor([2, 7, 7, 2, 0]), 9, offsets)
    W = numbers(9, 3).requires_grad_()
    cotangent = numbers(4, 3, seed=1)
    out = kernels.decode(latents, W)
    assert apart(out, latents.dense() @ W) < 1e-12
    found = torch.autograd.grad(out, (values, W), cotangent)
    wanted = torch.autograd.grad(latents.dense() @ W, (values, W), cotangent)
    assert max(apart(a, b) for a, b in zip(found, wanted, strict=True)) < 1e-12


def test_no_entry_at_all():
    nothing = Latents(torch.zeros(0), torch.zeros(0, dtype=torch.long), 5, torch.zeros(4, dtype=torch.long))
    W = torch.ones(5, 2, requires_grad=True)
    out = kernels.decode(nothing, W)
    out.sum().backward()
    assert out.shape == (3, 2) and not out.any() and W.grad is not None and not W.grad.any()
    assert kernels.encode_top_k(torch.zeros(0, 2), torch.ones(5, 2), torch.zeros(5), 2).values.shape == (0, 2)


def test_several_columns_add_up_and_each_has_its_gradient(how):
    xs, Ws = [numbers(5, d, seed=d) for d in (3, 4)], [numbers(30, d, seed=9 + d) for d in (3, 4)]
    b = numbers(30, seed=5).requires_grad_()
    leaves = [t.requires_grad_() for t in (*xs, *Ws)]
    found = kernels.encode_top_k(xs, Ws, b, 2)
    joined = kernels.encode_top_k(torch.cat(xs, 1), torch.cat(Ws, 1), b, 2)
    assert apart(found.dense(), joined.dense()) < 1e-12
    both = [torch.autograd.grad(latents.values.square().sum(), [*leaves, b]) for latents in (found, joined)]
    assert all(apart(a, c) < 1e-12 for a, c in zip(*both, strict=True))


def test_entries_at_given_places(how):
    x, W, b = leaves = [t.requires_grad_() for t in inputs()[:3]]
    where = Latents(torch.zeros(13, 2).double(), torch.randint(40, (13, 2)), 40)
    found = kernels.entries_of(x, W, b, where).values
    wanted = (x @ W.T + b).gather(1, where.indices)
    assert apart(found.detach(), wanted.detach()) < 1e-12
    pairs = zip(*(torch.autograd.grad(v.square().sum(), leaves) for v in (found, wanted)), strict=True)
    assert all(apart(a, b) < 1e-12 for a, b in pairs)


@pytest.mark.parametrize("block", [1, 100, 10**6])
def test_rows_divided_into_blocks_change_nothing(block, how, monkeypatch):
    made = inputs()
    whole = [sparse(made, encode) for encode in ENCODERS.values()]
    monkeypatch.setitem(products._BLOCK, "cpu", block)
    parts = [sparse(made, encode) for encode in ENCODERS.values()]
    for (a, found), (b, wanted) in zip(parts, whole, strict=True):
        assert apart(a.dense(), b.dense()) < 1e-12
        assert max(apart(x, y) for x, y in zip(found, wanted, strict=True)) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_twice_gives_the_same_bits(dtype, how):
    made = inputs(200, 16, 256, dtype)
    for encode in ENCODERS.values():
        (_, first), (_, second) = (sparse(made, encode) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_all_pre_activations_are_never_held():
    """Nothing as large as [row, latent] is made, forward or backward."""
    rows, d, width = 64, 8, 4096
    sizes = []

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.extend(t.numel() for t in (out if isinstance(out, tuple) else [out]) if isinstance(t, torch.Tensor))
            return out

    made = inputs(rows, d, width, torch.float32)
    with pytest.MonkeyPatch.context() as patch, Seen():
        patch.setitem(products._BLOCK, "cpu", 8 * width)
        sparse(made, ENCODERS["top_k"])
    assert max(sizes) == 8 * width


# -- choosing ------------------------------------------------------------------------------------------------------
@settings(max_examples=50, deadline=None)
@given(st.integers(0, 7), st.integers(1, 2000), st.integers(1, 9), st.booleans(), st.integers(0, 2**16))
def test_top_k_finds_what_sorting_finds(rows, width, k, ties, seed):
    pre = numbers(rows, width, seed=seed)
    pre = pre.round() if ties else pre
    k = min(k, width)
    values, indices = kernels.top_k(pre, k)
    assert torch.equal(values.sort(1).values, pre.sort(1).values[:, width - k :])
    assert torch.equal(pre.gather(1, indices), values)
    assert all(len(set(row)) == k for row in indices.tolist())


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 200), st.integers(1, 300), st.booleans(), st.integers(1, 3000))
def test_top_entries_finds_what_sorting_finds(rows, width, count, ties, block):
    pre = numbers(rows, width, seed=count)
    pre = pre.round() if ties else pre
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(products._BLOCK, "cpu", block)
        found = kernels.top_entries(pre, count)
    count = min(count, pre.numel())
    assert torch.equal(found.values.sort().values, pre.flatten().sort().values[pre.numel() - count :])
    assert torch.equal(pre[found.rows, found.indices], found.values)
    assert len(set(zip(found.rows.tolist(), found.indices.tolist(), strict=True))) == count


def test_weights_decide_but_values_are_the_pre_activations():
    x, W, b, *_ = inputs()
    weights = numbers(40, seed=8).abs()
    found = kernels.encode_top_entries(x, W, b, 20, weights)
    pre = x @ W.T + b
    wanted = kernels.top_entries(pre * weights, 20)
    assert torch.equal(found.indices, wanted.indices)
    assert apart(found.dense(), torch.relu(pre) * (wanted.dense() != 0)) < 1e-12


@pytest.mark.parametrize("width", [40, 4096])
def test_nan_is_not_lost(width):
    pre = torch.zeros(3, width)
    pre[1, 17] = torch.nan
    assert kernels.top_k(pre, 2)[0].isnan().sum() == 1
    assert kernels.top_entries(pre, 2).values.isnan().sum() == 1
    assert kernels.above(pre, 0.0).values.isnan().sum() == 1


def test_more_than_there_are_is_refused():
    with pytest.raises(BadInput) as error:
        kernels.encode_top_k(torch.zeros(2, 3), torch.zeros(4, 3), torch.zeros(4), 5)
    assert str(error.value) == "The 5 largest latents of a row were asked for.\nFound: 4 latents."


def test_floors_may_differ_by_latent():
    pre = numbers(6, 11)
    floor = numbers(11, seed=3)
    assert torch.equal(kernels.above(pre, floor).dense(), pre * (pre > floor))


# -- low-rank maps -------------------------------------------------------------------------------------------------
def test_frobenius_is_the_norm_of_the_product_and_has_its_gradient():
    U, V = numbers(5, 7, 3).requires_grad_(), numbers(5, 3, 6, seed=1).requires_grad_()
    found, wanted = kernels.frobenius(U, V), (U @ V).norm(dim=(1, 2))
    assert apart(found.detach(), wanted.detach()) < 1e-12
    pairs = zip(*(torch.autograd.grad(n.square().sum() + n.sum(), (U, V)) for n in (found, wanted)), strict=True)
    assert all(apart(a, b) < 1e-12 for a, b in pairs)


def test_the_gradient_of_a_zero_map_is_zero():
    U, V = torch.zeros(2, 4, 3, requires_grad=True), torch.ones(2, 3, 4, requires_grad=True)
    kernels.frobenius(U, V).sum().backward()
    assert U.grad is not None and not U.grad.any() and V.grad is not None and not V.grad.any()
