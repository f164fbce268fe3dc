"""What a direction is trained for: that a model writes a concept when it is added.

An example is a prompt with two continuations: one that has the concept (the right answer of a task) and one without
(the wrong answer). With h an activation at the site, v the vector, and log p the log-probability of a continuation:

- `ReftR1`. The vector has length 1. a = mean of the k largest relu(h·v) among a row's tokens; every h becomes h + a v;
  the loss is -log p(with) per token, plus an L1 penalty on the readings that are not among the k largest. The same v
  thus detects and steers.
- `RePS`. With a factor f drawn for each example:
  Δ+ = β+ log p(with)/|with| - log p(without)/|without| where every h becomes h + f v;
  Δ- = β- log p(without)/|without| - log p(with)/|with| where every h becomes h - relu(h·v)/|v|² v.
  The loss is -log σ(Δ+) - log σ(Δ-). β+ = max(log p(without) - log p(with), 1) under the model as it is, β- the other
  way round.

Padding and the BOS (the first token of a row that has none) are neither read nor moved.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

import digsite.models as models
from digsite._core.errors import BadInput, explain
from digsite.models import Model
from digsite.sites import Site
from digsite.tasks import Task
from digsite.tasks.metrics import answer_scores

Change = Callable[[Tensor], Tensor]
"""Activations [batch, pos, width] to what they become."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """Examples that run together.

    Attributes:
        model: The model.
        task: Each example has one right answer, which has the concept, and one wrong answer.
        site: Where the vector is added.
        keep: The cells that hold a real token that is no BOS.
        plain: Log-probabilities of the right and of the wrong answers in the model as it is, in nats.
    """

    model: Model
    task: Task
    site: Site
    keep: Bool[Tensor, "batch pos"]
    plain: tuple[Float[Tensor, " example"], Float[Tensor, " example"]]

    def scores(self, change: Change) -> tuple[Float[Tensor, " example"], Float[Tensor, " example"]]:
        """Log-probabilities per token of the right and of the wrong answers under a change, in nats."""
        task = self.task
        edits = [models.apply(self.site, change)]
        run = self.model.run(task.clean, edits=edits, logits=task.keep, grad=torch.is_grad_enabled())
        right, wrong = (answer_scores(run.logits, side, per_token=True)[:, 0] for side in (task.right, task.wrong))
        return right, wrong

    def shifted(self, shift: Float[Tensor, "*#axes width"]) -> Change:
        """The change that adds something to every kept cell."""
        return lambda x: x + self.keep[..., None].to(x) * shift.to(x)


@dataclass(frozen=True, kw_only=True)
class ReftR1:
    """Rank-1 representation fine-tuning: one unit vector that detects and steers.

    Attributes:
        epochs: How often every example is seen.
        batch: Examples in one step.
        rate: Learning rate at the start; it falls linearly to zero.
        top: How many readings of a row make up the amount that is added.
        sparsity: Weight of the L1 penalty at the end; it grows linearly from zero.

    Source: Wu et al. 2025 (AxBench), arXiv 2501.17148, section 4 and the defaults of its runs. Two differences: padding
    is never among the largest readings, and a row with fewer than k tokens is divided by what it has.

    Caveats:
        Where answers have several tokens, the amount is taken from the whole row, so the first tokens of an answer are
        moved by what later ones read, as in the original.
    """

    epochs: int = 12
    batch: int = 32
    rate: float = 0.01
    top: int = 8
    sparsity: float = 0.005

    def length(self, norm: float) -> float:
        """1."""
        return 1.0

    def loss(self, batch: Batch, vector: Tensor, done: float, draw: torch.Generator | None) -> Tensor:
        """-log p(with) per token, and the penalty."""
        left: list[Tensor] = []

        def change(x: Tensor) -> Tensor:
            amount, rest = top_readings(x, vector, batch.keep, self.top)
            left.append(rest)
            return batch.shifted(amount[:, None, None] * vector)(x)

        right, _ = batch.scores(change)
        return -right.mean() + done * self.sparsity * left[0][batch.task.right.rows[:, 0]].mean()

    def settled(self, unit: Tensor) -> Tensor:
        """At length 1."""
        return unit / unit.norm()


@dataclass(frozen=True, kw_only=True)
class RePS:
    """Reference-free preference steering: the concept is preferred with the vector, and not without it.

    Attributes:
        epochs: How often every example is seen.
        batch: Examples in one step.
        rate: Learning rate at the start, in units of the starting length; it falls linearly to zero.
        factors: One is drawn for each example in each step.

    Source: Wu et al. 2025, arXiv 2505.20809, the objective of section 3 with rank-1 steering vectors, and the authors'
    published intervention for the null term, h - relu(h·v)/|v|² v. Dropout is left out.
    """

    epochs: int = 12
    batch: int = 32
    rate: float = 0.02
    factors: tuple[float, ...] = (2, 4, 6, 8, 10, 12, 14, 16, 18, 20)

    def __post_init__(self):
        if not self.factors or min(self.factors) <= 0:
            raise BadInput(explain("Factors are positive numbers", found=f"{self.factors}"))

    def length(self, norm: float) -> float:
        """So that the mean factor moves an activation by its own length."""
        return norm / self.mean_factor

    @property
    def mean_factor(self) -> float:
        """Of the factors."""
        return sum(self.factors) / len(self.factors)

    def loss(self, batch: Batch, vector: Tensor, done: float, draw: torch.Generator | None) -> Tensor:
        """-log σ(Δ+) - log σ(Δ-), the mean over the examples."""
        factor = torch.full((len(batch.task),), self.mean_factor)
        if draw is not None:
            factor = torch.tensor(self.factors)[torch.randint(len(self.factors), (len(batch.task),), generator=draw)]
        rows = factor[batch.task.example_rows].to(vector)
        steered = batch.scores(batch.shifted(rows[:, None, None] * vector))
        nulled = batch.scores(lambda x: batch.shifted(-reading(x, vector)[..., None] / (vector @ vector) * vector)(x))
        return reps_loss(steered, nulled, batch.plain).mean()

    def settled(self, unit: Tensor) -> Tensor:
        """As it is."""
        return unit


Objective = ReftR1 | RePS
"""What a vector can be trained for: a start length, a loss, and what is done to the vector after a step."""


def reading(x: Float[Tensor, "batch pos width"], vector: Float[Tensor, " width"]) -> Float[Tensor, "batch pos"]:
    """relu(x·v)."""
    return torch.relu(x.to(vector.dtype) @ vector)


def top_readings(
    x: Float[Tensor, "batch pos width"], vector: Float[Tensor, " width"], keep: Bool[Tensor, "batch pos"], top: int
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """The mean of the largest relu(x·v) of each row, and the mean over the row of what is not among them."""
    latent = reading(x, vector) * keep
    best = latent.topk(min(top, latent.shape[1]), dim=1)
    count = keep.sum(1)
    rest = latent.scatter(1, best.indices, 0.0).sum(1) / count
    return best.values.sum(1) / count.clamp(max=top), rest


Scores = tuple[Float[Tensor, " example"], Float[Tensor, " example"]]
"""Log-probabilities of the continuation with the concept, and of that without."""


def reps_loss(steered: Scores, nulled: Scores, plain: Scores) -> Float[Tensor, " example"]:
    """-log σ(Δ+) - log σ(Δ-) of each example.

    Args:
        steered: Per token, with the vector added.
        nulled: Per token, with what lies along the vector taken out.
        plain: In total, in the model as it is; no gradient flows through them.
    """
    gap = (plain[1] - plain[0]).detach()
    up = gap.clamp(min=1) * steered[0] - steered[1]
    down = (-gap).clamp(min=1) * nulled[1] - nulled[0]
    return -logsigmoid(up) - logsigmoid(down)
