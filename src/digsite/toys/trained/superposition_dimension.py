"""What makes room for many features in few dimensions: nearly orthogonal directions, or sparsity?

Johnson and Lindenstrauss say that in m dimensions there is room for a number of directions that grows exponentially
with m, all nearly orthogonal. That is often given as the reason why superposition works. It is half of it: every active
feature disturbs every read-out a little, and the disturbances add up.

1. For every dimension and density, directions drawn at random; only how they are read is trained (a gain, and a bias
   for each feature).
2. The same, with the directions trained too: the best of four trainings.
3. Beside both: keeping as many features as there are dimensions, and none of the others.
4. What one read-out hears of the other features, when directions are random, against the formula (`crosstalk`).

Source: Elhage et al., Toy Models of Superposition (2022), "The Strategic Picture of Superposition"; Johnson and
Lindenstrauss (1984). The comparison is ours.
"""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.provenance import record
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.toys.trained.autoencoders import Instances, sparse_examples, train_best
from digsite.toys.trained.claims import Claim, at_least, at_most, findings
from digsite.toys.trained.toy import Findings, require_found
from digsite.toys.training import forget

FEATURES = 64
DIMENSIONS = (4, 8, 16, 32, 48)
DENSITIES = (1.0, 0.3, 0.1, 0.03, 0.01)
_STEPS = 2000


@dataclass(frozen=True, kw_only=True)
class SuperpositionVersusDimension(Result):
    """How well 64 features are recovered from fewer dimensions, with random and with learned directions.

    Errors are shares of the variance: 0 is perfect, 1 is what saying the mean would give.

    Attributes:
        dimensions: Rows: how many dimensions there are.
        densities: Columns: with which probability a feature is active.
        error_random: With directions drawn at random, read out as well as a gain and biases can.
        error_learned: With trained directions.
        error_kept: When as many features are kept as there are dimensions, and of the others the mean is said.
        heard: Mean square of what a read-out along a random direction hears of the other features.
        heard_known: The same, by the formula (`crosstalk`).
        findings: What is known, and what was measured.
    """

    SCHEMA: ClassVar[str] = "toys.superposition_versus_dimension/1"

    dimensions: tuple[int, ...]
    densities: tuple[float, ...]
    error_random: Float[Tensor, "row column"]
    error_learned: Float[Tensor, "row column"]
    error_kept: Float[Tensor, " row"]
    heard: Float[Tensor, "row column"]
    heard_known: Float[Tensor, "row column"]
    findings: Findings

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        dense, sparse = self.error_random[2, 0], self.error_random[2, -1]
        return (
            f"64 random directions in 16 dimensions lose {float(dense):.0%} of the variance when all features are "
            f"active and {float(sparse):.0%} when each is in 1 %; learned ones {float(self.error_learned[2, 0]):.0%} "
            f"and {float(self.error_learned[2, -1]):.0%}: sparsity makes the room"
        )

    def to_frame(self) -> pl.DataFrame:
        """One row for each dimension and density."""
        grid = [(m, p) for m in self.dimensions for p in self.densities]
        return pl.DataFrame(
            {
                "dimensions": [m for m, _ in grid],
                "density": [p for _, p in grid],
                "error, random directions": self.error_random.flatten().tolist(),
                "error, learned directions": self.error_learned.flatten().tolist(),
                "error, keeping as many": self.error_kept.repeat_interleave(len(self.densities)).tolist(),
                "heard of others": self.heard.flatten().tolist(),
                "heard, by formula": self.heard_known.flatten().tolist(),
            }
        )


def crosstalk(features: int, dimensions: int, density: float) -> float:
    """What a read-out along one of many random directions hears of the other features: its mean square.

    Two random directions in m dimensions have a squared cosine of 1/m on average; an active feature, uniform in [0, 1],
    has a mean square of 1/3. It is heard as loud as an active feature itself when features × density = dimensions: what
    counts is how many are active at a time, not how many there are.

    Args:
        features: How many there are.
        dimensions: How many dimensions they share.
        density: With which probability each is active.

    Units: squared value of a feature.
    """
    return (features - 1) * density / (3 * dimensions)


@method
def superposition_versus_dimension(
    *, steps: int | None = None, seed: int = 0, state: str | Path | None = None
) -> SuperpositionVersusDimension:
    """Recovers 64 sparse features from fewer dimensions, with random and with learned directions.

    Args:
        steps: Optimiser steps of each of the two trainings; their own if None.
        seed: Of weights and data.
        state: Folder where a run that was killed goes on; removed at the end. None starts anew every time.

    Raises:
        ContractBroken: What is known was not found; the state stays.
        BadInput: Fewer than one step, or the state is of another run.
    """
    if state is None:
        with TemporaryDirectory() as folder:
            return superposition_versus_dimension(steps=steps, seed=seed, state=folder)
    state, steps = Path(state), _STEPS if steps is None else steps
    with measure() as cost:
        random, learned = (_errors(steps, seed, state, learned=learned) for learned in (False, True))
        heard = _heard(seed)
    kept = 1 - torch.tensor(DIMENSIONS) / FEATURES
    known = torch.tensor([[crosstalk(FEATURES, m, p) for p in DENSITIES] for m in DIMENSIONS])
    call = f"digsite.toys.trained.superposition_dimension.superposition_versus_dimension(steps={steps}, seed={seed})"
    result = SuperpositionVersusDimension(
        dimensions=DIMENSIONS,
        densities=DENSITIES,
        error_random=random,
        error_learned=learned,
        error_kept=kept,
        heard=heard,
        heard_known=known,
        findings=findings(
            "superposition-versus-dimension",
            _claims(random, learned, kept, heard / known),
            {
                f"{name} directions, each feature active in {density:.0%}": (DIMENSIONS, errors[:, column])
                for name, errors in (("random", random), ("learned", learned))
                for column, density in enumerate(DENSITIES)
            },
            seed=seed,
            cost=cost,
            call=call,
        ),
        provenance=record(call, seed=seed, dtype="float32", device="cpu"),
        cost=cost,
    )
    require_found(result.findings, state)
    for part in ("random", "learned"):
        forget(state / part)
    return result


def _claims(
    random: Float[Tensor, "row column"],
    learned: Float[Tensor, "row column"],
    kept: Float[Tensor, " row"],
    heard: Float[Tensor, "row column"],
) -> list[Claim]:
    quarter = DIMENSIONS.index(FEATURES // 4)
    return [
        at_most("learned directions lose more than random ones by, at most", float((learned - random).max()), 0.01),
        at_most("all active: learned directions win over keeping as many", float((kept - learned[:, 0]).max()), 0.05),
        at_least("all active, 16 dimensions: lost with random directions", float(random[quarter, 0]), 0.7),
        at_most("each active in 1 %, 16 dimensions: lost with random directions", float(random[quarter, -1]), 0.4),
        at_most("each active in 1 %, 16 dimensions: lost with learned directions", float(learned[quarter, -1]), 0.1),
        at_most("heard of others, by formula: off by", float((heard - 1).abs().max()), 0.1),
    ]


def _instances(*, learned: bool) -> Instances:
    count = len(DIMENSIONS) * len(DENSITIES)
    return Instances(
        dimensions=[m for m in DIMENSIONS for _ in DENSITIES],
        density=torch.tensor(DENSITIES).repeat(len(DIMENSIONS)),
        importance=torch.ones(count, FEATURES),
        learned=learned,
    )


def _errors(steps: int, seed: int, state: Path, *, learned: bool) -> Float[Tensor, "row column"]:
    instances, name = _instances(learned=learned), "learned" if learned else "random"
    restarts = 4 if learned else 1
    _, errors = train_best(instances, name=name, restarts=restarts, steps=steps, seed=seed, state=state, examples=256)
    variance = FEATURES * (instances.density / 3 - instances.density**2 / 4)
    return (errors / variance).unflatten(0, (len(DIMENSIONS), -1))


def _heard(seed: int) -> Float[Tensor, "row column"]:
    """What read-outs hear of other features, over many draws of the directions."""
    draws, generator = 256, torch.Generator().manual_seed(seed)
    x = sparse_examples(seed, 0, 1024, FEATURES, torch.tensor(DENSITIES))
    heard = torch.zeros(len(DIMENSIONS), len(DENSITIES))
    for row, m in enumerate(DIMENSIONS):
        for _ in range(draws):
            W = torch.nn.functional.normalize(torch.randn(FEATURES, m, generator=generator), dim=-1)
            heard[row] += (x @ (W @ W.T - torch.eye(FEATURES))).square().mean((1, 2)) / draws
    return heard
