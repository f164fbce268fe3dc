"""What probes for more than yes and no share: several directions at one site that read together.

1. Split: whole groups are held out; all tokens of a text are a group.
2. Fit; the penalty is the best on thirds of the groups that are fitted on.
3. Judge what is held out.
4. Null: the same with the answers of other groups.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from digsite._core.errors import BadInput, explain
from digsite._core.numerics import require_finite
from digsite._core.progress import track
from digsite.artifacts import Result
from digsite.directions.direction import Direction, concrete
from digsite.directions.labelled import read_at, split
from digsite.directions.measuring import content
from digsite.directions.subspace import Subspace
from digsite.models import Model, Run, Tokens
from digsite.models.tokens import Positions
from digsite.sites import Site

Weights = tuple[Float[Tensor, "target width"], Float[Tensor, " target"]]
"""What reads each class or number, and what is added to its reading."""


@dataclass(frozen=True, kw_only=True)
class Stack(Result):
    """Several directions at one site that read together.

    Attributes:
        label: What is read.
        site: Where.
        names: Of the classes, or of the numbers.
        vectors: What is written for each: how activations move with it (`patterns`).
        readers: What reads each.
        biases: Added to the readings.
        trained: How many examples were fitted on.
    """

    label: str
    site: str
    names: tuple[str, ...]
    vectors: Float[Tensor, "target width"]
    readers: Float[Tensor, "target width"]
    biases: Float[Tensor, " target"]
    trained: int

    @property
    def directions(self) -> tuple[Direction, ...]:
        """One for each class or number."""
        made = zip(self.names, self.vectors, self.readers, self.biases.tolist(), strict=True)
        how, site = f"{type(self).__name__} of {self.label}", Site.parse(self.site)
        return tuple(
            Direction(site=site, vector=v, reader=r, bias=b, name=name, how=how, provenance=self.provenance)
            for name, v, r, b in made
        )

    @property
    def subspace(self) -> Subspace:
        """What is written for all of them together."""
        _, sizes, basis = torch.linalg.svd(self.vectors, full_matrices=False)
        how, site = f"{type(self).__name__} of {self.label}", Site.parse(self.site)
        kept = basis[sizes > 1e-6 * sizes[0]]
        return Subspace(site=site, basis=kept, name=self.label, how=how, provenance=self.provenance)

    def read(self, source: Run | Float[Tensor, "*axes width"]) -> Float[Tensor, "*axes target"]:
        """The reading of every class or number at every place."""
        return torch.stack([one.read(source) for one in self.directions], -1)


def patterns(x: Float[Tensor, "example width"], y: Float[Tensor, "example target"]) -> Float[Tensor, "target width"]:
    """How activations move with each number: the least-squares map from the numbers to the activations.

    Of classes as one-hot rows these are the class means, less a mean of them all. Numbers that say the same (three
    probabilities say what two do) share it: the smallest vectors, by the spread of each number, that do it.

    Source: Haufe et al. 2014, "On the interpretation of weight vectors of linear models in multivariate neuroimaging":
    what reads a signal leans away from noise, and is not how the signal is written.
    """
    spread = y.std(0, correction=0).clamp_min(1e-30)
    # What is left by rounding where numbers add up to one must not be taken for a number of its own.
    found = torch.linalg.lstsq((y - y.mean(0)) / spread, x - x.mean(0), rcond=1e-5, driver="gelsd").solution
    return found / spread[:, None]


# -- steps -----------------------------------------------------------------------------------------------------------
class Data(NamedTuple):
    """Activations and answers, and how they are split."""

    x: Float[Tensor, "example width"]
    y: Tensor
    groups: Int[Tensor, " example"]
    positions: Int[Tensor, " example"]
    train: Int[Tensor, " chosen"]
    test: Int[Tensor, " other"]


def gathered(
    model: Model,
    tokens: Tokens,
    answers: Tensor,
    site: str | Site,
    at: Positions,
    groups: Any,
    held_out: float,
    seed: int,
) -> Data:
    """1. What is read, and the split."""
    if len(answers) != len(tokens):
        raise BadInput(explain("Every text has its answer", found=f"{len(answers)} answers, {len(tokens)} texts"))
    column = str(concrete(site))
    if at is None:
        rows, places = content(tokens, model.tokenizer).nonzero().unbind(1)
    else:
        rows, places, _ = tokens.places(at)
    x = require_finite(f"an activation at {column}", read_at(model, tokens, [column], rows, places)[column]).double()
    each = answers.shape[:2] == tokens.ids.shape and answers.ndim > 1
    y = answers[rows, places] if each else answers[rows]
    group = (torch.arange(len(tokens)) if groups is None else torch.as_tensor(groups))[rows]
    train, test = split(torch.ones(len(x), dtype=torch.bool), group, held_out, seed)
    return Data(x, y, group, tokens.positions[rows, places], train, test)


def fitted(
    data: Data,
    fit: Callable[[Tensor, Tensor, Tensor, float | None], tuple[Weights, float]],
    draws: int,
    seed: int,
    judge: Callable[[Tensor, Tensor], float],
) -> tuple[Weights, Float[Tensor, " draw"]]:
    """2. to 4. The fit, and the same with the answers of other groups, at the penalty that was chosen."""
    x, y, train, test = data.x, data.y, data.train, data.test
    parts = data.groups[train].unique(return_inverse=True)[1] % 3
    own, penalty = fit(x[train], y[train], parts, None)
    generator, null = np.random.default_rng([seed, 1]), []
    for _ in track(range(draws), "fitting shuffled answers"):
        mixed = y[_others(data, generator)]
        (vectors, biases), _ = fit(x[train], mixed[train], parts, penalty)
        null.append(judge(x[test] @ vectors.T + biases, mixed[test]))
    return own, torch.tensor(null, dtype=torch.float64)


def _others(data: Data, generator: np.random.Generator) -> Int[Tensor, " example"]:
    """4. For each example another at the same position; any, where the position alone says the answer."""
    found = torch.arange(len(data.x))
    places = data.positions
    at = [data.y[places == position] for position in places.unique()]
    if len(at) > 1 and all(bool((some == some[0]).all()) for some in at):
        places = torch.zeros_like(places)
    for side in (data.train, data.test):
        for position in places[side].unique():
            here = side[places[side] == position]
            found[here] = here[torch.from_numpy(generator.permutation(len(here)))]
    return found


def thrifty(x: Tensor, y: Tensor, parts: Tensor, penalties: Any, fit: Any, loss: Any) -> float:
    """The penalty with the smallest loss on thirds."""
    if len(parts.unique()) < 3:
        return penalties[len(penalties) // 2]
    losses = []
    for penalty in penalties:
        total = 0.0
        for third in range(3):
            vectors, biases = fit(x[parts != third], y[parts != third], penalty)
            total += float(loss(x[parts == third] @ vectors.T + biases, y[parts == third]))
        losses.append(total)
    return penalties[int(np.argmin(losses))]
