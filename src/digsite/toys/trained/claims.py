"""What is known about a toy, written as claims that a training can miss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from digsite._core.cost import Cost
from digsite._core.provenance import record
from digsite.toys.trained.toy import Findings

Series = Sequence[float | int] | np.ndarray | Tensor


@dataclass(frozen=True)
class Claim:
    """Something that is known, and the number that says whether it was found.

    Attributes:
        text: What the number is, as a short sentence.
        value: The number.
        sense: Which side of the bound it must lie on.
        bound: What it is held to.
        unit: Its unit.
    """

    text: str
    value: float
    sense: Literal["at least", "at most"]
    bound: float
    unit: str


def at_least(text: str, value: float, bound: float, unit: str = "fraction") -> Claim:
    """The claim that a number is as large as its bound."""
    return Claim(text, value, "at least", bound, unit)


def at_most(text: str, value: float, bound: float, unit: str = "fraction") -> Claim:
    """The claim that a number is as small as its bound."""
    return Claim(text, value, "at most", bound, unit)


def findings(
    toy: str,
    claims: Sequence[Claim],
    curves: Mapping[str, tuple[Series, Series]],
    *,
    seed: int,
    cost: Cost,
    call: str = "",
) -> Findings:
    """The findings of a toy from its claims and its curves; shorter curves are padded with NaN.

    Args:
        toy: Its name.
        claims: What is known.
        curves: Horizontal and vertical values of series for figures, by name.
        seed: Of the training.
        cost: Of the measurements.
        call: What makes it again; the command that trains the toy where not given.
    """
    series = [[torch.as_tensor(side, dtype=torch.float32) for side in sides] for sides in curves.values()]
    padded = torch.full((2, len(series), max((len(x) for x, _ in series), default=0)), torch.nan)
    for i, sides in enumerate(series):
        for side, values in enumerate(sides):
            padded[side, i, : len(values)] = values
    return Findings(
        toy=toy,
        claims=tuple(claim.text for claim in claims),
        values=torch.tensor([float(claim.value) for claim in claims]),
        bounds=torch.tensor([float(claim.bound) for claim in claims]),
        senses=tuple(claim.sense for claim in claims),
        units=tuple(claim.unit for claim in claims),
        curves=tuple(curves),
        curve_x=padded[0],
        curve_y=padded[1],
        provenance=record(call or f"digsite toys train {toy} --seed {seed}", seed=seed, dtype="float32", device="cpu"),
        cost=cost,
    )


def thinned(losses: Sequence[float], *, points: int = 200) -> tuple[list[int], list[float]]:
    """The steps and the losses of a training as a curve of at most so many points, each the mean of its stretch."""
    edges = torch.linspace(0, len(losses), min(points, len(losses)) + 1).round().long().tolist()
    stretches = list(pairwise(edges))
    return [end for _, end in stretches], [sum(losses[a:b]) / (b - a) for a, b in stretches]
