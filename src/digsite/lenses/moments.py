"""Means and products of the stream and of what it becomes, summed up over a text: from them a best linear map follows.

1. Sums of h, y, h hᵀ and y hᵀ over the tokens of a text, in float64, without keeping one of them.
2. The linear map that leaves the least of y unexplained (ridge regression).
3. The directions in which h varies, each divided by how much it does: coordinates in which all directions are alike.
"""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

RIDGE = 1e-4
"""Of the mean variance of a coordinate, added to all: what a direction that hardly varies cannot outweigh."""
_LEAST = 1e-3
"""Of the mean variance: a direction with less is not blown up any further."""


class Moments:
    """Sums over tokens; see the module.

    Attributes:
        count: How many tokens.
    """

    def __init__(self, width: int, device: torch.device):
        zeros = partial(torch.zeros, dtype=torch.float64, device=device)
        self.count, self.h, self.y, self.square = 0, zeros(width), zeros(width), zeros(())
        self.hh, self.yh = zeros(width, width), zeros(width, width)

    def add(self, h: Float[Tensor, "row d"], y: Float[Tensor, "row d"]) -> None:
        """1. Some tokens more.

        Args:
            h: What is read.
            y: What it should become.
        """
        h, y = h.to(self.h), y.to(self.h)
        self.count += len(h)
        self.h += h.sum(0)
        self.y += y.sum(0)
        self.square += y.square().sum()
        self.hh += h.T @ h
        self.yh += y.T @ h

    def centre(self, *, bias: bool) -> Float[Tensor, " d"]:
        """The mean of h, or zero where a map without a bias is wanted."""
        return self.h / self.count * bias

    @property
    def rms(self) -> float:
        """The usual size of a coordinate of y."""
        return float((self.square / self.count / len(self.h)).sqrt())

    def linear(self, *, bias: bool) -> tuple[Float[Tensor, "d d"], Float[Tensor, " d"]]:
        """2. The map M and the bias m of the best y = M h + m; m is zero without a bias."""
        h, y = self.centre(bias=bias), self.y / self.count * bias
        spread = self.hh / self.count - h.outer(h)
        spread.diagonal().add_(RIDGE * spread.diagonal().mean())
        both = self.yh / self.count - y.outer(h)
        M = torch.linalg.solve(spread, both.T).T
        return M, y - M @ h

    def whitener(self, *, bias: bool) -> Float[Tensor, "d d"]:
        """3. W, so that W (h - centre) varies alike in all directions."""
        h = self.centre(bias=bias)
        values, vectors = torch.linalg.eigh(self.hh / self.count - h.outer(h))
        return vectors * (values.clamp(min=0) + _LEAST * values.mean()).rsqrt() @ vectors.T

    def principal(self, count: int) -> tuple[Float[Tensor, " d"], Float[Tensor, "probe d"], Float[Tensor, " probe"]]:
        """The mean of h, the directions in which it varies most, and the variance along each."""
        h = self.centre(bias=True)
        values, vectors = torch.linalg.eigh(self.hh / self.count - h.outer(h))
        top = slice(-count, None)
        return h.float(), vectors[:, top].T.flip(0).float().contiguous(), values[top].flip(0).float()
