"""The tail of a stream of readings: how often it goes above a level that was seldom or never seen.

1. Declustering: within a sequence, readings above a threshold belong to one cluster until there are `GAP` readings in a
   row that are not above it. A cluster counts once, with its largest reading, its peak: readings of neighbouring tokens
   are not independent, peaks nearly are.
2. Peaks over threshold: excesses of peaks over a high threshold u follow a generalised Pareto distribution (shape ξ,
   scale σ): ξ > 0 is a heavy tail, 0 an exponential one, ξ < 0 ends at u - σ / ξ.
3. The fit of shape and scale is that of Zhang and Stephens: the mean of the profile likelihood over a grid of 30 + √n
   values, without any search.
4. Goodness of fit: the Anderson-Darling statistic of the excesses, with a p-value from samples of the fitted
   distribution that are fitted again.
5. Threshold: the lowest of several quantiles of the readings whose fit is not refused (p ≥ 0.1), whose shape lies in
   the interval of every higher one, and above which no fit is refused for certain (p ≥ 0.1 divided by how many were
   tried). Where there is none, the tail is of no such form (a mixture, a step), and nothing is said beyond what was
   seen.
6. Clusters come at a rate λ a token, so that a level x ≥ u is reached within n tokens with probability
   1 - exp(-λ n S(x - u)), S being the share of excesses above.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import genpareto

from digsite._core.errors import BadInput, explain

QUANTILES = (0.9, 0.925, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99)
"""Of the readings: the thresholds that are tried."""
GAP = 2
BLOCK = 2**15
"""Excesses that are fitted side by side, so that memory stays bounded."""
FEWEST_PEAKS = 30
"""Peaks below which no tail is fitted."""
REFUSED = 0.1
"""A fit with a smaller p-value is refused; tests of tails are weak, so that it is not 0.05."""

Sequences = Sequence[Float[np.ndarray, "_"]]
"""One array of readings a sequence, each of its own length."""


def peaks(readings: Sequences, threshold: int | float, *, gap: int = GAP) -> list[Float[np.ndarray, "_"]]:
    """1. The largest reading of each cluster above a threshold, for each sequence.

    Args:
        readings: One array a sequence.
        threshold: What readings must exceed.
        gap: So many readings in a row at or below the threshold end a cluster.
    """
    found = []
    for one in readings:
        above = np.flatnonzero(one > threshold)
        starts = np.flatnonzero(np.diff(above, prepend=-gap - 1) > gap)
        found.append(np.maximum.reduceat(one[above], starts) if len(above) else np.zeros(0))
    return found


def pareto_fit(excess: Float[np.ndarray, "*draw peak"]) -> tuple[np.ndarray, np.ndarray]:
    """3. Shape ξ and scale σ of the generalised Pareto distribution of excesses; draws are fitted side by side.

    Source: Zhang and Stephens 2009, Technometrics 51 (their k is -ξ).
    """
    x = np.sort(excess, axis=-1)
    n = x.shape[-1]
    m = 30 + int(math.sqrt(n))
    quartile = x[..., [max(0, int(n / 4 + 0.5) - 1)]]
    theta = 1 / x[..., [-1]] + (1 - np.sqrt(m / (np.arange(1, m + 1) - 0.5))) / (3 * quartile)

    def shape(at: np.ndarray) -> np.ndarray:
        return np.log1p(-at[..., None] * x[..., None, :]).mean(-1)

    xi = shape(theta)
    likelihood = n * (np.log(-theta / xi) - xi - 1)
    weight = np.exp(likelihood - likelihood.max(-1, keepdims=True))
    best = (theta * weight).sum(-1, keepdims=True) / weight.sum(-1, keepdims=True)
    xi = shape(best)[..., 0]
    return np.asarray(xi), np.asarray(-xi / best[..., 0])


def anderson_darling(excess: Float[np.ndarray, "*draw peak"], xi: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """4. How far excesses are from a generalised Pareto distribution, tails weighing most.

    Source: Choulakian and Stephens 2001, Technometrics 43.
    """
    x = np.sort(excess, axis=-1)
    n = x.shape[-1]
    below = np.clip(genpareto.cdf(x, xi[..., None], scale=sigma[..., None]), 1e-12, 1 - 1e-12)
    weights = 2 * np.arange(1, n + 1) - 1
    return np.asarray(-n - (weights * (np.log(below) + np.log1p(-below[..., ::-1]))).mean(-1))


def goodness(excess: Float[np.ndarray, " peak"], *, draws: int, seed: int) -> tuple[float, Float[np.ndarray, " draw"]]:
    """4. The p-value of a fit, and the shapes that samples of the fitted distribution give."""
    xi, sigma = pareto_fit(excess)
    found, uniform = anderson_darling(excess, xi, sigma), np.random.default_rng(seed).random((draws, len(excess)))
    null, shapes = [], []
    for some in np.array_split(uniform, max(1, uniform.size // BLOCK)):
        samples = np.asarray(genpareto.isf(some, xi, scale=sigma))
        again = pareto_fit(samples)
        null.append(anderson_darling(samples, *again))
        shapes.append(again[0])
    return float((1 + (np.concatenate(null) >= found).sum()) / (draws + 1)), np.concatenate(shapes)


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """What a tail above one threshold would look like.

    Attributes:
        level: The threshold.
        quantile: Of the readings.
        peaks: Clusters above it.
        mean_excess: How far peaks lie above it on average: over the thresholds a straight line, where the tail holds.
        shape: ξ.
        shape_low: Lower end of its 95 % interval.
        shape_high: Upper end.
        scale: σ.
        p: Of the goodness of fit.
    """

    level: float
    quantile: float
    peaks: int
    mean_excess: float
    shape: float
    shape_low: float
    shape_high: float
    scale: float
    p: float


def thresholds(readings: Sequences, *, draws: int, seed: int) -> tuple[Threshold, ...]:
    """5. Every threshold that leaves enough peaks, from the lowest to the highest.

    Raises:
        BadInput: None leaves enough.
    """
    everything = np.concatenate(readings)
    found, most = [], 0
    for at, quantile in enumerate(QUANTILES):
        level = float(np.quantile(everything, quantile))
        excess: np.ndarray = np.concatenate(peaks(readings, level)) - level
        most = max(most, len(excess))
        if len(excess) < FEWEST_PEAKS:
            continue
        xi, sigma = pareto_fit(excess)
        p, shapes = goodness(excess, draws=draws, seed=seed + at)
        low, high = np.quantile(shapes, [0.025, 0.975]).tolist()
        found.append(
            Threshold(
                level=level,
                quantile=quantile,
                peaks=len(excess),
                mean_excess=float(excess.mean()),
                shape=float(xi),
                shape_low=low,
                shape_high=high,
                scale=float(sigma),
                p=p,
            )
        )
    if not found:
        asked = f"A tail needs {FEWEST_PEAKS} clusters of readings above a threshold"
        seen = f"{most} at most, in {len(everything):,} readings of {len(readings)} sequences"
        raise BadInput(explain(asked, found=seen, do="read more or longer sequences"))
    return tuple(found)


def chosen(several: Sequence[Threshold]) -> int | None:
    """5. Which threshold is taken; None where no tail fits."""
    for at, one in enumerate(several):
        higher = several[at + 1 :]
        stable = all(other.shape_low <= one.shape <= other.shape_high for other in higher)
        if one.p >= REFUSED and stable and all(other.p >= REFUSED / len(several) for other in higher):
            return at
    return None


def reached(
    level: int | float, tokens: Int[np.ndarray, "*n"] | int, *, threshold: float, rate: np.ndarray | float, tail: tuple
) -> np.ndarray:
    """6. The probability that a level at or above the threshold is exceeded within so many tokens.

    Args:
        level: The level.
        tokens: How many tokens.
        threshold: Above which the tail holds.
        rate: Clusters a token.
        tail: Shape and scale.
    """
    above = genpareto.sf(level - threshold, tail[0], scale=tail[1])
    return np.asarray(-np.expm1(-rate * np.asarray(tokens) * above))


@dataclass(frozen=True, eq=False)
class Tail:
    """A tail, or that there is none.

    Attributes:
        tried: The tails above several thresholds.
        choice: Which of them was taken; None where none fits.
        shapes: Of the tail, for sequences drawn again.
        scales: Of the tail.
        rates: Clusters a token.
    """

    tried: tuple[Threshold, ...]
    choice: int | None
    shapes: Float[np.ndarray, " draw"]
    scales: Float[np.ndarray, " draw"]
    rates: Float[np.ndarray, " draw"]


def tail_of(
    rows: Sequences,
    groups: Int[np.ndarray, " sequence"],
    fitted: Bool[np.ndarray, " sequence"],
    *,
    draws: int,
    seed: int,
) -> Tail:
    """The tail of the sequences it is fitted on, with what drawing their groups again makes of it."""
    inside = [row for row, use in zip(rows, fitted, strict=True) if use]
    tried = thresholds(inside, draws=draws, seed=seed)
    choice = chosen(tried)
    if choice is None:
        return Tail(tried, None, *(np.zeros(0) for _ in range(3)))
    level = tried[choice].level
    excess = [one - level for one in peaks(inside, level)]
    names, member = np.unique(groups[fitted], return_inverse=True)
    parts = [np.concatenate([excess[i] for i in np.flatnonzero(member == at)]) for at in range(len(names))]
    tokens = np.bincount(member, weights=[len(row) for row in inside])
    generator, found = np.random.default_rng([seed, 3]), []
    for _ in range(draws):
        again = generator.integers(0, len(names), len(names))
        drawn = np.concatenate([parts[at] for at in again])
        if len(drawn) > 1:
            found.append((*pareto_fit(drawn), len(drawn) / tokens[again].sum()))
    return Tail(tried, choice, *np.array(found, dtype=float).T)


def level_of_one_cluster_in(rows: Sequences, every: int | float) -> float:
    """The lowest level that is exceeded by at most one cluster in so many tokens of these sequences."""
    allowed = int(sum(map(len, rows)) / every)
    levels = np.unique(np.concatenate(rows))
    low, high = 0, len(levels) - 1
    while low < high:
        middle = (low + high) // 2
        if sum(map(len, peaks(rows, float(levels[middle])))) <= allowed:
            high = middle
        else:
            low = middle + 1
    return float(levels[low])
