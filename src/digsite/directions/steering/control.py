"""The control of every steering: an equally large change at the same places, in a random direction."""

import dataclasses

import torch
from torch import Tensor

from digsite.models import Edit
from digsite.models.edits import changed


def equally_large(edit: Edit, seed: int, *, sign: float = 1.0) -> Edit:
    """An edit that moves every place as far as another does, but in one random direction: x + ‖f(x) - x‖ u.

    Args:
        edit: Any edit at one site, with its value.
        seed: Of the direction u, which is the same at every place.
        sign: Which way along it.
    """
    plain = dataclasses.replace(edit, at=None, rows=None)
    axes = tuple(range(-edit.tail, 0))

    def moved(x: Tensor) -> Tensor:
        noise = torch.randn(x.shape[-edit.tail :], generator=torch.Generator().manual_seed(seed))
        unit = sign * (noise / noise.norm()).to(x)
        return x + (changed(plain, x) - x).norm(dim=axes, keepdim=True) * unit

    return dataclasses.replace(edit, op="apply", function=moved, value=None, within=None)
