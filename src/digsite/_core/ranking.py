"""How well scores tell examples with a label from those without."""

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import rankdata


def auroc(scores: Float[np.ndarray, "*draw example"], labels: Bool[np.ndarray, "*#draw example"]) -> np.ndarray:
    """The probability that an example with the label scores higher than one without; ties count half."""
    yes = labels.sum(-1)
    ranks = (rankdata(scores, axis=-1) * labels).sum(-1)
    return np.asarray((ranks - yes * (yes + 1) / 2) / (yes * (labels.shape[-1] - yes)))


def auroc_interval(
    scores: Float[np.ndarray, " example"], labels: Bool[np.ndarray, " example"], *, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """The 95 % bootstrap interval of an AUROC: examples of each label are drawn again."""
    generator, sides = np.random.default_rng(seed), (np.flatnonzero(labels), np.flatnonzero(~labels))
    drawn = np.concatenate([side[generator.integers(0, len(side), (resamples, len(side)))] for side in sides], 1)
    low, high = np.quantile(auroc(scores[drawn], labels[drawn]), [0.025, 0.975])
    return float(low), float(high)
