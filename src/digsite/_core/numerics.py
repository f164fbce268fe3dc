"""Intervals, and the guard against numbers that are none."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from digsite._core.errors import BadInput, NotFinite, explain

_BATCH_NUMBERS = 2**22
"""How many resampled numbers scipy holds at once; 32 MB, and faster than all in one piece."""


def bootstrap_interval(
    values: Float[Tensor, "example *cells"],
    *,
    statistic: Callable[..., np.ndarray] = np.mean,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[Float[Tensor, "*cells"], Float[Tensor, "*cells"]]:
    """Between which values the mean would likely fall if the examples were drawn again.

    Args:
        values: One number per example; every further axis is a cell with an interval of its own.
        statistic: Called as `statistic(x, axis=...)` on NumPy arrays.
        level: How much of the resampled statistics lies inside.
        resamples: How many times the examples are drawn with replacement; the same draws in every cell.
        seed: Makes the draws.

    Returns:
        The low and the high end of each cell, in the dtype and on the device of `values`.

    Raises:
        BadInput: There is no example, or `level` is not between 0 and 1.

    Units: those of `values`.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapter 13: the percentile interval.

    Caveats:
        The examples are the only thing that is redrawn: the interval says nothing about other prompts, seeds or models.
        With fewer than about ten examples it is too narrow. One example gives NaN, for it has no spread; a cell that
        holds a NaN or an infinity gives NaN.
    """
    count = values.shape[0]
    if count == 0 or not 0 < level < 1:
        found = f"{count} examples, level {level}"
        raise BadInput(explain("An interval needs an example and a level", found=found, possible="0 < level < 1"))
    cells = values.detach().to("cpu", torch.float64).reshape(count, -1).numpy()
    ends = np.full((2, cells.shape[1]), np.nan)
    usable = np.isfinite(cells).all(axis=0) & (count > 1)
    if usable.any():
        sample = cells[:, usable]
        interval = stats.bootstrap(
            (sample,),
            statistic,
            axis=0,
            vectorized=True,
            n_resamples=resamples,
            batch=max(1, _BATCH_NUMBERS // sample.size),
            confidence_level=level,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
        ends[:, usable] = np.stack([interval.low, interval.high])
    low, high = torch.from_numpy(ends).to(values.dtype).to(values.device).reshape(2, *values.shape[1:]).unbind()
    return low, high


def ratio_interval(
    above: Float[Tensor, "*cells example"],
    below: Float[Tensor, "*#cells example"],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[Float[Tensor, "*cells"], Float[Tensor, "*cells"]]:
    """Between which values a ratio of two sums would likely fall if the examples were drawn again, both sums together.

    Args:
        above: What each example adds above the line.
        below: What it adds below the line; broadcasts against `above`.
        resamples: How many times the examples are drawn with replacement; the same draws in every cell.
        seed: Makes the draws.

    Returns:
        The low and the high end of each cell (95 %); NaN for one example, which has no spread.

    Source: as `bootstrap_interval`; the mean of each example's own ratio is another number.
    """
    n = above.shape[-1]
    if n < 2:
        nothing = torch.full(above.shape[:-1], torch.nan)
        return nothing, nothing
    draws = torch.from_numpy(np.random.default_rng(seed).integers(0, n, (resamples, n))).to(above.device)
    # One cell at a time, so that the resamples of one are in memory.
    cells = zip(above.reshape(-1, n), below.expand_as(above).reshape(-1, n), strict=True)
    ratios = torch.stack([a[draws].sum(1) / b[draws].sum(1) for a, b in cells])
    ends = torch.quantile(ratios, torch.tensor([0.025, 0.975], dtype=ratios.dtype, device=ratios.device), dim=-1)
    low, high = ends.reshape(2, *above.shape[:-1]).unbind()
    return low, high


def wilson_interval(successes: int, count: int, *, level: float = 0.95) -> tuple[float, float]:
    """Between which values a proportion likely lies, such as an accuracy of 18 right out of 20.

    Args:
        successes: How many.
        count: Out of how many.
        level: How often such an interval holds the true proportion.

    Raises:
        BadInput: `count` is zero, or `successes` is not between 0 and `count`.

    Units: fraction.

    Source: Wilson (1927), JASA 22; it stays inside 0 to 1 and is right for 0 and for all successes, where the bootstrap
    would give an interval of width zero.
    """
    if not 0 <= successes <= count or count == 0:
        raise BadInput(explain("A proportion needs 0 <= successes <= count", found=f"{successes} of {count}"))
    interval = stats.binomtest(successes, count).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def require_finite(name: str, tensor: Tensor) -> Tensor:
    """The tensor itself, or an error if it holds a NaN or an infinity.

    Args:
        name: What the tensor is, for the error.
        tensor: Any dtype.

    Raises:
        NotFinite: With how many there are and where the first one is.
    """
    finite = torch.isfinite(tensor)
    if finite.all():
        return tensor
    where = (~finite).nonzero()[0].tolist()
    count, first = int((~finite).sum()), tensor[tuple(where)].item()
    raise NotFinite(
        explain(
            f"{name} must be finite",
            found=f"{count} of {tensor.numel()} are not, the first is {first} at {where} of {list(tensor.shape)}",
            do="Look where it arises: an overflow in half precision, a division by zero, or broken weights",
        )
    )
