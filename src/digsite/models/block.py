"""One layer of a model, taken apart."""

from dataclasses import dataclass, field

from torch import nn

from digsite.models._adapters.layouts import Heads
from digsite.models.norms import Norm


@dataclass
class Block:
    """One layer's parts; None for what it lacks."""

    index: int
    module: nn.Module
    attn: nn.Module | None = None
    norm1: Norm | None = None
    norm2: Norm | None = None
    heads: Heads | None = None
    parts: dict[str, nn.Module] = field(default_factory=dict)
    """Projections by name: q, k, v, qkv, o, gate, up, gate_up, down, attn_out, mlp, mlp_out, norm1, norm2."""
