"""The CUDA kernels: on the card where there is one, else by Triton's interpreter.

pip install triton && TRITON_INTERPRET=1 pytest tests/dictionaries/test_triton_kernels.py
"""

import importlib
import os

import pytest
import torch

from digsite.dictionaries import kernels, products
from digsite.store import Latents

pytest.importorskip("triton", reason="Triton is not installed; it comes with torch for CUDA")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = pytest.mark.skipif(
    DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1", reason="needs a CUDA device, or TRITON_INTERPRET=1"
)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}


@pytest.fixture(scope="module")
def triton_kernels():
    return importlib.import_module("digsite.dictionaries.triton_kernels")


def made(layout: str, width: int, dtype: torch.dtype) -> Latents:
    drawn = torch.Generator().manual_seed(width)
    if layout == "rectangle":
        indices = torch.rand(5, width, generator=drawn).argsort(1)[:, :3]
        return Latents(torch.randn(5, 3, generator=drawn).to(dtype), indices, width).to(DEVICE)
    offsets = torch.tensor([0, 0, 20, 21, 21, 40])
    indices = torch.randint(width, (40,), generator=drawn)
    return Latents(torch.randn(40, generator=drawn).to(dtype), indices, width, offsets).to(DEVICE)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("layout", ["rectangle", "rows"])
@pytest.mark.parametrize("d", [1, 7, 300])
def test_each_product_is_the_dense_one(triton_kernels, layout, d, dtype):
    latents = made(layout, 30, dtype)
    W, g = torch.randn(30, d).to(DEVICE, dtype), torch.randn(5, d).to(DEVICE, dtype)
    gathered = latents.dense().double() @ W.double()
    dots = (g.double() @ W.double().T)[latents.rows, latents.flat[1]]
    for found, wanted in ((triton_kernels.gather(latents, W), gathered), (triton_kernels.dots(g, W, latents), dots)):
        assert found.dtype == dtype
        assert float((found.double() - wanted).abs().max() / wanted.abs().max()) < TOLERANCE[dtype]


def test_a_pass_with_gradients_by_these_products(triton_kernels, monkeypatch):
    x, W, b = (torch.randn(*shape, dtype=torch.float64, device=DEVICE) for shape in ((6, 5), (200, 5), (200,)))
    leaves = [t.requires_grad_() for t in (x, W, b)]

    def gradients():
        latents = kernels.encode_top_k(x, W, b, 4)
        return torch.autograd.grad(kernels.decode(latents, W).square().sum(), leaves)

    monkeypatch.setattr(products, "_triton", lambda W: None)
    wanted = gradients()
    used = []
    monkeypatch.setattr(products, "_triton", lambda W: used.append(W) or triton_kernels)
    for found in (gradients(), gradients()):
        assert all(torch.allclose(a, c, rtol=1e-10, atol=1e-10) for a, c in zip(found, wanted, strict=True))
    assert len(used) == 2 * 5  # forward, two matrices, the values, the rows


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
def test_a_card_uses_these_products(triton_kernels):
    assert products._triton(torch.zeros(1, device="cuda")) is triton_kernels
