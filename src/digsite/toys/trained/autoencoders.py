"""The toy model of superposition, many at once: x → ReLU(gain · W Wᵀ x + b).

1. An example has `feature` numbers. Each is zero, except with probability `density`, when it is uniform in [0, 1].
2. A network squeezes them through fewer dimensions: feature i is written along the row W_i and read along it again.
3. The loss is the squared error, each feature times its importance.

Instances differ in width, density, importance and first weights; no number of one reaches another, so that training
them side by side is the same as training each alone.

Source: Elhage et al., Toy Models of Superposition (2022), "Demonstrating Superposition". There `gain` is one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from digsite.toys.training import Recipe, train

_HELD_OUT = 2**31
"""The step of the data that no training draws."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Instances:
    """What the instances of one training are.

    Attributes:
        dimensions: How many dimensions each may use.
        density: With which probability a feature of it is active.
        importance: What the error on each feature counts.
        learned: Whether directions are trained; if not, only their read-out is: the gain and the bias.
    """

    dimensions: Sequence[int]
    density: Float[Tensor, " instance"]
    importance: Float[Tensor, "instance feature"]
    learned: bool = True


class Autoencoders(nn.Module):
    """Networks of the instances, side by side."""

    def __init__(self, instances: Instances):
        super().__init__()
        count, features = instances.importance.shape
        widths = torch.tensor(instances.dimensions)
        inside = (torch.arange(max(instances.dimensions)) < widths[:, None])[:, None]
        directions = torch.randn(count, features, max(instances.dimensions)) * inside
        if instances.learned:  # Xavier's size: larger first weights end in worse arrangements
            directions *= (2 / (features + widths))[:, None, None].sqrt()
        else:
            directions /= directions.norm(dim=-1, keepdim=True)
        self.W = nn.Parameter(directions, requires_grad=instances.learned)
        self.b = nn.Parameter(torch.zeros(count, features))
        self.gain = nn.Parameter(torch.ones(count, 1, 1), requires_grad=not instances.learned)
        self.register_buffer("inside", inside)

    @property
    def directions(self) -> Float[Tensor, "instance feature d_model"]:
        """The direction of each feature; zero outside of what the instance may use."""
        return self.W * self.get_buffer("inside")

    def forward(self, x: Float[Tensor, "instance example feature"]) -> Float[Tensor, "instance example feature"]:
        """What the networks make of the examples."""
        W = self.directions
        return torch.relu(self.gain * (x @ W) @ W.transpose(1, 2) + self.b[:, None])


def sparse_examples(
    seed: int, step: int, examples: int, features: int, density: Float[Tensor, " instance"]
) -> Float[Tensor, "instance example feature"]:
    """Examples of one step: a feature is active with probability `density`, and then uniform in [0, 1].

    Args:
        seed: Of the training.
        step: Of the training; nothing else decides what is drawn.
        examples: How many.
        features: How many numbers each has.
        density: Of each instance. All share the draw, so that where a sparse one has a feature the denser ones have it.
    """
    drawn = torch.from_numpy(np.random.default_rng([seed, step]).random((examples, features), dtype=np.float32))
    shares = density[:, None, None].float()
    return torch.where(drawn < shares, drawn / shares, 0.0)


def errors(
    network: Autoencoders, instances: Instances, x: Float[Tensor, "instance example feature"]
) -> Float[Tensor, " instance"]:
    """Mean squared error of each instance, features weighted by importance and summed."""
    return ((network(x) - x) ** 2 * instances.importance[:, None]).sum(-1).mean(-1)


@torch.no_grad()
def held_out_errors(
    network: Autoencoders, instances: Instances, seed: int, *, examples: int = 8192
) -> Float[Tensor, " instance"]:
    """The errors on examples that no step of the training draws."""
    features = instances.importance.shape[1]
    total = torch.zeros(len(instances.density))
    for part in range(examples // 1024):
        x = sparse_examples(seed, _HELD_OUT + part, 1024, features, instances.density)
        total += errors(network, instances, x) / (examples // 1024)
    return total


def recipe_of(instances: Instances, *, name: str, steps: int, seed: int, examples: int = 512) -> Recipe:
    """How the instances are trained: Adam, with a rate that falls from 0.01 to zero in a half cosine."""
    features = instances.importance.shape[1]

    def loss(network: Autoencoders, step: int) -> Tensor:
        return errors(network, instances, sparse_examples(seed, step, examples, features, instances.density)).sum()

    return Recipe(
        name=name,
        settings={"name": name, "steps": steps, "seed": seed, "examples": examples},
        steps=steps,
        seed=seed,
        network=lambda: Autoencoders(instances),
        optimiser=lambda network: torch.optim.Adam(p for p in network.parameters() if p.requires_grad),
        loss=loss,
        rate=lambda step: 0.01 * 0.5 * (1 + math.cos(math.pi * step / steps)),
    )


def train_best(
    instances: Instances, *, name: str, restarts: int, steps: int, seed: int, state: Path, examples: int = 512
) -> tuple[Float[Tensor, "instance feature d_model"], Float[Tensor, " instance"]]:
    """Trains each instance from several first weights and keeps the one with the smallest held-out error.

    Many first weights end in a worse arrangement and stay there.

    Args:
        instances: What is trained.
        name: Of the training, and of the folder inside `state` where it goes on after a kill.
        restarts: How many first weights each instance gets.
        steps: Optimiser steps.
        seed: Of weights and data.
        state: The folder for unfinished trainings.
        examples: In one step.

    Returns:
        The directions and the held-out errors of the best.
    """
    repeated = replace(
        instances,
        dimensions=[width for width in instances.dimensions for _ in range(restarts)],
        density=instances.density.repeat_interleave(restarts),
        importance=instances.importance.repeat_interleave(restarts, dim=0),
    )
    recipe = recipe_of(repeated, name=name, steps=steps, seed=seed, examples=examples)
    network = train(recipe, state / name).network
    best = held_out_errors(network, repeated, seed).unflatten(0, (-1, restarts)).min(-1)
    directions = network.directions.detach().unflatten(0, (-1, restarts))
    return directions[torch.arange(len(best.indices)), best.indices], best.values
