"""How well scores tell examples apart, with intervals over groups of examples, and whether they are probabilities.

1. Groups of examples are drawn again, with as many groups as there are: each draw is a weight for every example. Where
   each example is a group by itself, examples of each label are drawn again.
2. Every number below is one of weighted examples, so one set of draws gives the interval of all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from digsite._core.ranking import auroc

BINS = 10


class Interval(NamedTuple):
    """A number with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Judged:
    """The scores that one probe, or something beside it, gives the examples of one set.

    Attributes:
        of: The set.
        by: What gave the scores.
        scores: One for each example; above 0 it has the label.
        labels: Yes or no.
        groups: Examples of one number are drawn again together.
    """

    of: str
    by: str
    scores: Float[Tensor, " example"]
    labels: Bool[Tensor, " example"]
    groups: Int[Tensor, " example"]

    @property
    def value(self) -> float:
        """The AUROC."""
        return float(auroc(self.scores.numpy(), self.labels.numpy()))

    def auroc(self, *, resamples: int = 1000, seed: int = 0) -> Interval:
        """AUROC with its interval."""
        scores, labels = self.scores.numpy(), self.labels.numpy()
        return self._interval(lambda weights: weighted_auroc(scores, labels, weights), resamples, seed)

    def accuracy(self, *, resamples: int = 1000, seed: int = 0) -> Interval:
        """The share of examples on the right side of 0, with its interval."""
        right = ((self.scores > 0) == self.labels).double().numpy()
        return self._interval(lambda weights: (weights * right).sum(1) / weights.sum(1), resamples, seed)

    def recall(self, threshold: float, *, resamples: int = 1000, seed: int = 0) -> Interval:
        """The share of examples with the label whose score lies above a threshold, with its interval."""
        yes = self.labels.double().numpy()
        found = (self.scores > threshold).double().numpy()
        return self._interval(lambda weights: (weights * yes * found).sum(1) / (weights * yes).sum(1), resamples, seed)

    def _interval(self, number: Callable[[np.ndarray], np.ndarray], resamples: int, seed: int) -> Interval:
        drawn = weights_of_draws(self.labels, self.groups, resamples=resamples, seed=seed)
        with np.errstate(invalid="ignore"):
            low, high = np.nanquantile(number(drawn), [0.025, 0.975])
        return Interval(float(number(np.ones((1, len(self.labels))))[0]), float(low), float(high))


def weights_of_draws(
    labels: Bool[Tensor, " example"], groups: Int[Tensor, " example"], *, resamples: int, seed: int
) -> Float[np.ndarray, "draw example"]:
    """1. How often each example is in each draw of the bootstrap."""
    generator = np.random.default_rng(seed)
    names, member = groups.unique(return_inverse=True)
    if len(names) < len(labels):
        counts = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), resamples)
        return counts[:, member.numpy()].astype(float)
    weights = np.zeros((resamples, len(labels)))
    for side in (labels.numpy(), ~labels.numpy()):
        count = int(side.sum())
        weights[:, side] = generator.multinomial(count, np.full(count, 1 / count), resamples)
    return weights


def weighted_auroc(
    scores: Float[np.ndarray, " example"],
    labels: Bool[np.ndarray, " example"],
    weights: Float[np.ndarray, "draw example"],
) -> Float[np.ndarray, " draw"]:
    """The AUROC of examples that count several times or not at all; NaN where a draw has one label only."""
    order = scores.argsort()
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))  # where each value begins; ties count half
    yes, no = (np.add.reduceat(weights[:, order] * side[order], starts, axis=1) for side in (labels, ~labels))
    beaten = no.cumsum(1) - no / 2
    return (yes * beaten).sum(1) / (yes.sum(1) * no.sum(1))


# -- probabilities -----------------------------------------------------------------------------------------------------
def log_odds(scores: Float[Tensor, " example"], labels: Bool[Tensor, " example"]) -> tuple[float, float]:
    """Slope and offset that turn scores into log odds.

    Args:
        scores: Of examples that the probe was not fitted on.
        labels: Yes or no.

    Source: Platt 1999, "Probabilistic outputs for support vector machines": a logistic fit on the score, with targets
    (n + 1) / (n + 2) and 1 / (n + 2), so that separable scores do not give an infinite slope.
    """
    from sklearn.linear_model import LogisticRegression

    mean, spread = float(scores.mean()), float(scores.std(correction=0)) or 1.0
    x = ((scores - mean) / spread).double().numpy()[:, None]
    yes, no = int(labels.sum()), int((~labels).sum())
    target = np.where(labels.numpy(), (yes + 1) / (yes + 2), 1 / (no + 2))
    fitted = LogisticRegression(C=1e6, max_iter=1000).fit(
        np.concatenate([x, x]), np.repeat([1, 0], len(x)), sample_weight=np.concatenate([target, 1 - target])
    )
    slope = float(fitted.coef_[0, 0]) / spread
    return slope, float(fitted.intercept_[0]) - slope * mean


def brier(odds: Float[Tensor, " example"], labels: Bool[Tensor, " example"]) -> float:
    """Mean squared difference between probability and label: 0 is perfect, 0.25 is what one half for all would get."""
    return float((odds.sigmoid() - labels.double()).square().mean())


def calibration_error(odds: Float[Tensor, " example"], labels: Bool[Tensor, " example"]) -> float:
    """How far probabilities are from frequencies: |mean probability - share with the label|, averaged over ten parts of
    the examples, from the lowest probability to the highest (expected calibration error, bins of equal size)."""
    order = odds.argsort()
    parts = zip(odds.sigmoid()[order].tensor_split(BINS), labels[order].double().tensor_split(BINS), strict=True)
    gaps = [abs(float(p.mean() - y.mean())) * len(p) for p, y in parts if len(p)]
    return sum(gaps) / len(odds)


def calibration_null(odds: Float[Tensor, " example"], *, draws: int, seed: int) -> Float[Tensor, " draw"]:
    """The calibration error of probabilities that are exactly right, by chance alone: labels are drawn from them."""
    generator = torch.Generator().manual_seed(seed)
    drawn = (torch.bernoulli(odds.sigmoid(), generator=generator).bool() for _ in range(draws))
    return torch.tensor([calibration_error(odds, labels) for labels in drawn], dtype=torch.float64)
