"""The three products of a sparse and a dense matrix that dictionaries are made of.

1. `gather` adds up the rows of a matrix that fire: what a decoder does.
2. `dots` takes scalar products of rows with the rows of a matrix that fire: the gradient of the codes' values.
3. `transposed` adds up, latent by latent, the rows in which it fires: the gradient of a matrix. Its entries are sorted
   by latent first, so that every sum is made in one order: twice the same bits, and no atomic additions.

Where more than one entry in 16 is held (a ReLU dictionary at the start of its training), a dense product of some rows
at a time is faster, and is what runs. With CUDA and Triton, `triton_kernels` does the sparse ones.
"""

from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from digsite.store import Latents

DENSE_ABOVE = 1 / 16
"""The share of all latents that fire above which dense products are faster. On a CPU, for the three together, that is
1/5 where the matrix fits its cache (4096 × 256), 1/10 at 16384 × 256, 1/15 where it does not fit (32768 × 768)."""
_BLOCK = {"cpu": 2**23, "cuda": 2**28}
"""How many numbers of [row, latent] are held at once: on a CPU 32 MB in float32, about its cache."""


def block_rows(width: int, device: torch.device) -> int:
    """How many rows of that many latents are worked on at once."""
    return max(1, _BLOCK.get(device.type, _BLOCK["cuda"]) // max(1, width))


def gather(latents: Latents, W: Float[Tensor, "latent d"]) -> Float[Tensor, "row d"]:
    """The sum of the rows of W that fire, each times its value (1)."""
    if _is_dense(latents):
        out = W.new_empty(len(latents), W.shape[1])
        for rows in _blocks(latents):
            torch.mm(_dense(latents.take(rows)).to(W.dtype), W, out=out[rows])
        return out
    if (triton := _triton(W)) is not None:
        return triton.gather(latents, W)
    values, indices = latents.flat
    return functional.embedding_bag(indices, W, latents.bounds[:-1], mode="sum", per_sample_weights=values.to(W.dtype))


def dots(g: Float[Tensor, "row d"], W: Float[Tensor, "latent d"], latents: Latents) -> Float[Tensor, "*entries"]:
    """The scalar product of a row of g and a row of W for every entry; its values do not matter (2)."""
    _, indices = latents.flat
    if _is_dense(latents):
        found = torch.cat([(g[rows] @ W.T).take(positions(latents.take(rows))) for rows in _blocks(latents)])
    elif (triton := _triton(W)) is not None:
        found = triton.dots(g, W, latents)
    else:
        found = torch.ops.aten._embedding_bag_per_sample_weights_backward(
            g.contiguous(), W, indices, latents.bounds[:-1], latents.rows, 0
        )
    return found.reshape(latents.values.shape)


def transposed(
    latents: Latents, g: Float[Tensor, "row d"]
) -> tuple[Float[Tensor, "latent d"], Float[Tensor, " latent"]]:
    """The sum of the rows of g in which a latent fires, each times its value; and the sum of its values (3)."""
    values, indices = latents.flat
    if _is_dense(latents):
        out, sums = g.new_zeros(latents.width, g.shape[1]), values.new_zeros(latents.width)
        for rows in _blocks(latents):
            full = _dense(latents.take(rows))
            out.addmm_(full.T.to(g.dtype), g[rows])
            sums += full.sum(0)
        return out, sums
    order = indices.int().argsort(stable=True)
    counts = torch.bincount(indices, minlength=latents.width)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    by_latent = Latents(values[order], latents.rows[order], len(g), offsets)
    sums = torch.segment_reduce(by_latent.values, "sum", offsets=offsets)
    return gather(by_latent, g), sums


def _is_dense(latents: Latents) -> bool:
    return latents.entries > DENSE_ABOVE * len(latents) * latents.width


def _dense(latents: Latents) -> Float[Tensor, "row latent"]:
    values, _ = latents.flat
    full = values.new_zeros(len(latents) * latents.width)
    return full.index_add_(0, positions(latents), values).view(len(latents), latents.width)


def positions(latents: Latents) -> Int[Tensor, " entry"]:
    """Where the entries lie in all numbers of all rows, one after the other."""
    _, indices = latents.flat
    return latents.rows * latents.width + indices


def _blocks(latents: Latents) -> Iterator[slice]:
    size = block_rows(latents.width, latents.values.device)
    for start in range(0, len(latents), size):
        yield slice(start, min(start + size, len(latents)))


@cache
def _triton_kernels() -> ModuleType | None:
    return import_module("digsite.dictionaries.triton_kernels") if find_spec("triton") else None


def _triton(W: Tensor) -> ModuleType | None:
    return _triton_kernels() if W.is_cuda else None
