"""One file of another library, and what that library computes from it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

D, LATENTS, ROWS = 6, 12, 7


@dataclass(frozen=True)
class Case:
    """What a library makes of rows.

    Attributes:
        rows: Activations by digsite's columns.
        latents: Dense, block by block.
        outputs: By column.
        given: What the file does not say.
        inside: Where in the folder the dictionary is.
    """

    rows: Mapping[str, Tensor]
    latents: list[Tensor]
    outputs: Mapping[str, Tensor]
    given: Mapping[str, str] = field(default_factory=dict)
    inside: str = "."


Maker = Callable[[Path], Case]
"""Writes files of a library to a folder, and says what that library computes."""


def drawn(module: Any, seed: int = 0) -> Any:
    """The module with all its numbers drawn; thresholds are positive, counters stay."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, x in [*module.named_parameters(), *module.named_buffers()]:
            if x.is_floating_point():
                new = torch.randn(x.shape, generator=generator)
                x.copy_(new.abs() * 0.3 if "threshold" in name else new)
    return module


def rows(*shape: int, seed: int = 1) -> Tensor:
    """Random activations."""
    return torch.randn(ROWS, *(shape or (D,)), generator=torch.Generator().manual_seed(seed))


def apart(a: Tensor, b: Tensor) -> float:
    """The largest difference, beside the largest number (or 1)."""
    assert a.shape == b.shape, (a.shape, b.shape)
    return float((a - b).abs().max() / b.abs().max().clamp_min(1))
