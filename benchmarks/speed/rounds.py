"""Interleaved rounds: every variant once a round, in an order drawn anew, by the processor time of this process."""

import gc
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from digsite._core.numerics import bootstrap_interval
from digsite._core.progress import track


class Timing(NamedTuple):
    """One variant over all rounds."""

    ms: float
    """Median processor time of one call."""
    ratio: float
    """Median over rounds of this call's time by the reference's time in the same round."""
    low: float
    high: float
    """95 % bootstrap interval of the ratio."""


def interleaved(variants: Sequence[Callable[[], Any]], *, rounds: int, warm: int = 3, seed: int = 0) -> list[Timing]:
    """Times variants side by side; the first is the reference.

    Args:
        variants: Each does its whole work when called; what it returns is dropped inside its own time.
        rounds: How often each is called.
        warm: Calls of each before the first round.
        seed: Of the orders.
    """
    for variant in variants:
        for _ in range(warm):
            variant()
    seconds = np.zeros((rounds, len(variants)))
    order, rng = list(range(len(variants))), random.Random(seed)
    gc.disable()
    try:
        for row in track(range(rounds), "rounds", rounds):
            gc.collect()
            rng.shuffle(order)
            for i in order:
                start = time.process_time()
                variants[i]()
                seconds[row, i] = time.process_time() - start
    finally:
        gc.enable()
    ratios = torch.from_numpy(seconds / seconds[:, :1])
    low, high = bootstrap_interval(ratios, statistic=np.median)
    return [
        Timing(float(np.median(seconds[:, i])) * 1e3, float(ratios[:, i].quantile(0.5)), float(low[i]), float(high[i]))
        for i in range(len(variants))
    ]


def apart(found: Tensor, wanted: Tensor) -> float:
    """The largest difference between two tensors of one shape."""
    assert found.shape == wanted.shape, f"{tuple(found.shape)} is not {tuple(wanted.shape)}"
    return float((found - wanted).abs().max())
