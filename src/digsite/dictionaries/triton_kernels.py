"""The sparse products of `products` where there is CUDA: one program a row, entries in tiles, no atomic additions.

Sums are made in float32 (float64 for float64), in one order: twice the same bits.
"""

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from jaxtyping import Float
from torch import Tensor

from digsite.store import Latents

_ENTRIES, _COLUMNS = 16, 256


def gather(latents: Latents, W: Float[Tensor, "latent d"]) -> Float[Tensor, "row d"]:
    """The sum of the rows of W that fire, each times its value."""
    values, indices = latents.flat
    W, d = W.contiguous(), W.shape[1]
    out = W.new_empty(len(latents), d)
    columns = min(_COLUMNS, triton.next_power_of_2(d))
    if out.numel():
        programs = _gather[(len(latents), triton.cdiv(d, columns))]  # pyright: ignore[reportIndexIssue]
        programs(values.contiguous(), indices.contiguous(), latents.bounds, W, out, d, _sum(W), _ENTRIES, columns)
    return out


def dots(g: Float[Tensor, "row d"], W: Float[Tensor, "latent d"], latents: Latents) -> Float[Tensor, " entry"]:
    """The scalar product of a row of g and a row of W for every entry."""
    _, indices = latents.flat
    W, g, d = W.contiguous(), g.contiguous(), W.shape[1]
    found = g.new_empty(latents.entries)
    columns = min(_COLUMNS, triton.next_power_of_2(d))
    if found.numel():
        programs = _dots[(len(latents),)]  # pyright: ignore[reportIndexIssue]
        programs(indices.contiguous(), latents.bounds, g, W, found, d, _sum(W), _ENTRIES, columns)
    return found


def _sum(W: Tensor) -> tl.dtype:
    return tl.float64 if W.dtype == torch.float64 else tl.float32


@triton.jit
def _gather(values, indices, bounds, W, out, d, SUM: tl.constexpr, ENTRIES: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    end = tl.load(bounds + row + 1)
    total = tl.zeros([COLUMNS], SUM)
    for start in range(tl.load(bounds + row), end, ENTRIES):
        entries = start + tl.arange(0, ENTRIES)
        value = tl.load(values + entries, mask=entries < end, other=0.0).to(SUM)
        latent = tl.load(indices + entries, mask=entries < end, other=0).to(tl.int64)
        held = (entries < end)[:, None] & (columns < d)[None, :]
        tile = tl.load(W + latent[:, None] * d + columns[None, :], mask=held, other=0.0).to(SUM)
        total += tl.sum(value[:, None] * tile, axis=0)
    tl.store(out + row * d + columns, total.to(out.dtype.element_ty), mask=columns < d)


@triton.jit
def _dots(indices, bounds, g, W, found, d, SUM: tl.constexpr, ENTRIES: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    end = tl.load(bounds + row + 1)
    for start in range(tl.load(bounds + row), end, ENTRIES):
        entries = start + tl.arange(0, ENTRIES)
        latent = tl.load(indices + entries, mask=entries < end, other=0).to(tl.int64)
        total = tl.zeros([ENTRIES], SUM)
        for first in range(0, d, COLUMNS):
            columns = first + tl.arange(0, COLUMNS)
            held = (entries < end)[:, None] & (columns < d)[None, :]
            tile = tl.load(W + latent[:, None] * d + columns[None, :], mask=held, other=0.0).to(SUM)
            part = tl.load(g + row * d + columns, mask=columns < d, other=0.0).to(SUM)
            total += tl.sum(tile * part[None, :], axis=1)
        tl.store(found + entries, total.to(found.dtype.element_ty), mask=entries < end)
