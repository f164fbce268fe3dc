"""Layouts of fused projections: one pair of functions on the last axis.

The same layout splits activations, transposed weights [d_model, out] and biases, always as views. `merge` undoes
`split`; it exists because a view of a split cannot be edited under autograd.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Split = Callable[[Tensor, "Heads"], tuple[Tensor, ...]]
Merge = Callable[[tuple[Tensor, ...], "Heads"], Tensor]


@dataclass(frozen=True)
class Heads:
    """Head counts and head width of one attention block."""

    n_heads: int
    n_kv_heads: int
    d_head: int


@dataclass(frozen=True)
class Layout:
    """How q, k and v share the last axis of a fused projection; parts have axes [..., head, d_head]."""

    name: str
    split: Split
    merge: Merge


def _split_thirds(x: Tensor, heads: Heads) -> tuple[Tensor, ...]:
    return x.unflatten(-1, (3, heads.n_heads, heads.d_head)).unbind(-3)


def _merge_thirds(parts: tuple[Tensor, ...], heads: Heads) -> Tensor:
    return torch.stack(parts, -3).flatten(-3)


def _split_per_head(x: Tensor, heads: Heads) -> tuple[Tensor, ...]:
    return x.unflatten(-1, (heads.n_heads, 3, heads.d_head)).unbind(-2)


def _merge_per_head(parts: tuple[Tensor, ...], heads: Heads) -> Tensor:
    return torch.stack(parts, -2).flatten(-3)


def _split_concat(x: Tensor, heads: Heads) -> tuple[Tensor, ...]:
    return x.unflatten(-1, (-1, heads.d_head)).split((heads.n_heads, heads.n_kv_heads, heads.n_kv_heads), -2)


def _merge_concat(parts: tuple[Tensor, ...], heads: Heads) -> Tensor:
    return torch.cat(parts, -2).flatten(-2)


def _split_groups(x: Tensor, heads: Heads) -> tuple[Tensor, ...]:
    group = heads.n_heads // heads.n_kv_heads
    grouped = x.unflatten(-1, (heads.n_kv_heads, group + 2, heads.d_head))
    return grouped[..., :-2, :].flatten(-3, -2), grouped[..., -2, :], grouped[..., -1, :]


def _merge_groups(parts: tuple[Tensor, ...], heads: Heads) -> Tensor:
    q, k, v = parts
    grouped = q.unflatten(-2, (heads.n_kv_heads, -1))
    return torch.cat((grouped, k.unsqueeze(-2), v.unsqueeze(-2)), -2).flatten(-3)


def _split_quarters(x: Tensor, heads: Heads) -> tuple[Tensor, ...]:
    # CodeGen was trained on four cores, each with its own share of the heads, and keeps their order: q, v, k.
    q, v, k = x.unflatten(-1, (4, 3, heads.n_heads // 4, heads.d_head)).unbind(-3)
    return q.flatten(-3, -2), k.flatten(-3, -2), v.flatten(-3, -2)


def _merge_quarters(parts: tuple[Tensor, ...], heads: Heads) -> Tensor:
    q, k, v = (part.unflatten(-2, (4, -1)) for part in parts)
    return torch.stack((q, v, k), -3).flatten(-4)


THIRDS = Layout("[q | k | v], each head × d_head", _split_thirds, _merge_thirds)
PER_HEAD = Layout("[head, (q, k, v), d_head]", _split_per_head, _merge_per_head)
CONCAT = Layout("[q heads | kv heads | kv heads]", _split_concat, _merge_concat)
QUARTERS = Layout("[quarter, (q, v, k), its heads × d_head]", _split_quarters, _merge_quarters)
GROUPS = Layout("[kv head, (its q heads, k, v), d_head]", _split_groups, _merge_groups)
