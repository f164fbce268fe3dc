"""Superposition: how a network keeps more features than it has dimensions, and when.

1. Five features, two dimensions, each feature a little less important than the one before: directions at several
   densities. Dense: two features on two axes. Sparse: all five, as a pentagon.
2. One feature of importance one and another of any importance share a single dimension: the phase diagram. Which of
   three codes is the cheapest follows from integrals (`phase_losses`); training must find it.
3. Eighty equal features in ten dimensions: how much of a dimension each gets, from dense to sparse.
4. What is known is checked. A claim that does not hold is an error.

Of every setting several networks are trained from different weights, and the one with the smallest error on held-out
examples is kept: many stay in a worse arrangement.

Source: Elhage et al., Toy Models of Superposition (2022): "Demonstrating Superposition", "Superposition as a Phase
Change", "The Geometry of Superposition". We train fewer features, and the closed form of 2. is our own.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.provenance import record
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.toys.trained.autoencoders import Instances, sparse_examples, train_best
from digsite.toys.trained.claims import Claim, at_least, at_most, findings
from digsite.toys.trained.toy import Findings, require_found
from digsite.toys.training import forget

PHASES = ("left out", "shares a dimension", "has a dimension")
KEPT = 0.5
"""Length of a direction from which on its feature counts as kept."""

PENTAGON_DENSITY = (1.0, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05)
_STEPS = 3000


@dataclass(frozen=True, kw_only=True)
class SuperpositionResult(Result):
    """How networks keep more features than they have dimensions.

    Attributes:
        pentagon_density: With which probability a feature was active, for each arrangement of five in two dimensions.
        pentagon: The directions of the five features, most important first.
        together: How often two given features were active in the same example.
        phase_density: Rows of the phase diagram: with which probability a feature was active.
        phase_importance: Its columns: importance of the second feature, where the first has one.
        phase: What became of the second feature, by its place in `PHASES`.
        phase_known: What the integrals say is the cheapest.
        share_density: With which probability each of eighty features in ten dimensions was active.
        share: How much of a dimension each of them has (`feature_dimensionality`).
        per_feature: Dimensions for each feature that is kept: ten over the summed squares of all weights.
        findings: What is known, and what was measured.
    """

    SCHEMA: ClassVar[str] = "toys.superposition/1"

    pentagon_density: Float[Tensor, " density"]
    pentagon: Float[Tensor, "density 5 2"]
    together: Float[Tensor, " density"]
    phase_density: Float[Tensor, " row"]
    phase_importance: Float[Tensor, " column"]
    phase: Int[Tensor, "row column"]
    phase_known: Int[Tensor, "row column"]
    share_density: Float[Tensor, " setting"]
    share: Float[Tensor, "setting feature"]
    per_feature: Float[Tensor, " setting"]
    findings: Findings

    @property
    def kept(self) -> Int[Tensor, " density"]:
        """How many of five features are kept in two dimensions, at each density."""
        return (self.pentagon.norm(dim=-1) > KEPT).sum(-1)

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        return (
            f"Two dimensions keep {int(self.kept[0])} of five features when all are active, "
            f"and {int(self.kept[-1])} when each is active in {float(self.pentagon_density[-1]):.0%} of the examples"
        )

    def to_frame(self) -> pl.DataFrame:
        """One row for each density of five features in two dimensions."""
        columns = {"density": self.pentagon_density, "active together": self.together, "features kept": self.kept}
        return pl.DataFrame({name: column.tolist() for name, column in columns.items()}).with_columns(
            pl.Series("angles between neighbours (degrees)", [neighbour_angles(W).tolist() for W in self.pentagon])
        )


def feature_dimensionality(W: Float[Tensor, "*cells feature d_model"]) -> Float[Tensor, "*cells feature"]:
    """How much of a dimension each feature has to itself.

    One: nobody else is on its axis. A half: it shares an axis with an opposite. Zero: it is not kept. All together
    never have more than the network's dimensions.

    Args:
        W: The direction of each feature.

    Units: dimensions.

    Source: Elhage et al. (2022), "The Geometry of Superposition": D_i = |W_i|² / Σ_j (Ŵ_i · W_j)².
    """
    length = W.norm(dim=-1)
    unit = W / length.clamp_min(1e-12)[..., None]
    overlap = (unit @ W.transpose(-1, -2)).square().sum(-1)
    return length.square() / overlap.clamp_min(1e-12)


def neighbour_angles(W: Float[Tensor, "feature 2"]) -> Float[Tensor, " _"]:
    """Angles from each kept direction to the next, all the way round.

    Args:
        W: Directions in a plane; those shorter than `KEPT` are left out.

    Units: degrees; they sum to 360.
    """
    kept = W[W.norm(dim=-1) > KEPT]
    angles = torch.atan2(kept[:, 1], kept[:, 0]).sort().values
    return torch.cat([angles[1:], angles[:1] + 2 * math.pi]).sub(angles).rad2deg()


def phase_losses(importance: Float[Tensor, "*#cells"], density: Float[Tensor, "*#cells"]) -> Float[Tensor, "*cells 3"]:
    """What each of three codes for two features in one dimension costs, in the order of `PHASES`.

    1. Left out: the bias says its mean; what is lost is its variance, density / 3 - density² / 4, times importance.
    2. Shares: opposite directions. What is lost on each is the smaller of both numbers, where both are active: its mean
       square is 1/6.
    3. Has the dimension: the first feature, of importance one, is left out.

    Args:
        importance: Of the second feature; the first has one.
        density: With which probability each is active.

    Units: squared error times importance.
    """
    importance, density = torch.broadcast_tensors(importance, density)
    variance = density / 3 - density**2 / 4
    return torch.stack([importance * variance, (1 + importance) * density**2 / 6, variance], dim=-1)


@method
def superposition(*, steps: int | None = None, seed: int = 0, state: str | Path | None = None) -> SuperpositionResult:
    """Trains small networks that must keep more features than they have dimensions, and shows how they do it.

    Args:
        steps: Optimiser steps of each of the three trainings; their own if None.
        seed: Of weights and data.
        state: Folder where a run that was killed goes on; removed at the end. None starts anew every time.

    Raises:
        ContractBroken: What is known was not found; the state stays.
        BadInput: Fewer than one step, or the state is of another run.
    """
    if state is None:
        with TemporaryDirectory() as folder:
            return superposition(steps=steps, seed=seed, state=folder)
    state, steps = Path(state), _STEPS if steps is None else steps
    with measure() as cost:
        pentagon, together = _pentagon(steps, seed, state)
        density, importance, phase = _phases(steps, seed, state)
        sparse, directions = _shares(steps, seed, state)
    call = f"digsite.toys.trained.superposition.superposition(steps={steps}, seed={seed})"
    known = phase_losses(importance, density[:, None]).argmin(-1)
    shares, per_feature = feature_dimensionality(directions), _per_feature(directions)
    result = SuperpositionResult(
        pentagon_density=torch.tensor(PENTAGON_DENSITY),
        pentagon=pentagon,
        together=together,
        phase_density=density,
        phase_importance=importance,
        phase=phase,
        phase_known=known,
        share_density=sparse,
        share=shares,
        per_feature=per_feature,
        findings=findings(
            "superposition",
            _claims(pentagon, together, float((phase == known).float().mean()), shares, per_feature),
            {"dimensions per feature, by density": (sparse, per_feature)},
            seed=seed,
            cost=cost,
            call=call,
        ),
        provenance=record(call, seed=seed, dtype="float32", device="cpu"),
        cost=cost,
    )
    require_found(result.findings, state)
    for part in ("pentagon", "phases", "shares"):
        forget(state / part)
    return result


def _claims(
    pentagon: Float[Tensor, "density 5 2"],
    together: Float[Tensor, " density"],
    agreement: float,
    shares: Float[Tensor, "setting feature"],
    per_feature: Float[Tensor, " setting"],
) -> list[Claim]:
    kept = (pentagon.norm(dim=-1) > KEPT).sum(-1).float()
    sparse = PENTAGON_DENSITY.index(0.1)
    angles = neighbour_angles(pentagon[-1])
    # Fewer than five directions have larger angles: the distance from 72 degrees says so too.
    return [
        at_most("features kept of five in two dimensions, all active", float(kept[0]), 2.0, "features"),
        at_least(
            "shortest of the two most important directions, all active", _shortest(pentagon[0, :2]), 0.9, "length"
        ),
        at_least("features kept of five in two dimensions, each active in 10 %", float(kept[sparse]), 5.0, "features"),
        at_most(
            "angle of the pentagon that is farthest from 72°", float((angles - 72).abs().max()), 5.0, "degrees off"
        ),
        at_most("two features of 10 % active together: off from 1 % by", abs(float(together[sparse]) - 0.01), 0.001),
        at_least("cells of the phase diagram as the integrals say", agreement, 0.9),
        at_most("dimensions per feature, all active: off from 1 by", abs(float(per_feature[0]) - 1), 0.1, "dimensions"),
        at_most(
            "dimensions per feature, each active in 27 %: off from 1/2 by",
            abs(float(per_feature[4]) - 0.5),
            0.05,
            "dimensions",
        ),
        at_most(
            "dimensions per feature of eighty in ten, each active in 1 %", float(per_feature[-1]), 0.15, "dimensions"
        ),
        at_least("dimensions used of ten, each active in 1 %", float(shares[-1].sum()), 9.9, "dimensions"),
    ]


def _pentagon(steps: int, seed: int, state: Path) -> tuple[Float[Tensor, "density 5 2"], Float[Tensor, " density"]]:
    density = torch.tensor(PENTAGON_DENSITY)
    importance = (0.9 ** torch.arange(5.0)).expand(len(density), 5)
    instances = Instances(dimensions=[2] * len(density), density=density, importance=importance)
    active = (sparse_examples(seed, 0, 200_000, 5, density) > 0).float()
    pairs = active.transpose(1, 2) @ active / active.shape[1]
    together = pairs[:, ~torch.eye(5, dtype=torch.bool)].mean(-1)
    directions, _ = train_best(instances, name="pentagon", restarts=16, steps=steps, seed=seed, state=state)
    return directions, together


def _phases(
    steps: int, seed: int, state: Path
) -> tuple[Float[Tensor, " row"], Float[Tensor, " column"], Int[Tensor, "row column"]]:
    density, importance = torch.logspace(0, -2, 11), torch.logspace(-1, 1, 11)
    pairs = torch.cartesian_prod(density, importance)
    instances = Instances(
        dimensions=[1] * len(pairs),
        density=pairs[:, 0],
        importance=torch.stack([torch.ones(len(pairs)), pairs[:, 1]], dim=1),
    )
    directions, _ = train_best(instances, name="phases", restarts=8, steps=steps, seed=seed, state=state)
    first, second = directions[..., 0].abs().T
    phase = torch.where(second < KEPT, 0, torch.where(first < KEPT, 2, 1))
    return density, importance, phase.reshape(len(density), len(importance))


def _shares(
    steps: int, seed: int, state: Path
) -> tuple[Float[Tensor, " setting"], Float[Tensor, "setting feature d_model"]]:
    density = torch.logspace(0, -2, 15)
    instances = Instances(dimensions=[10] * len(density), density=density, importance=torch.ones(len(density), 80))
    directions, _ = train_best(instances, name="shares", restarts=1, steps=steps, seed=seed, state=state)
    return density, directions


def _per_feature(W: Float[Tensor, "setting feature d_model"]) -> Float[Tensor, " setting"]:
    return W.shape[-1] / W.square().sum((-1, -2))


def _shortest(W: Float[Tensor, "feature d_model"]) -> float:
    return float(W.norm(dim=-1).min())
