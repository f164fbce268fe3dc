"""Probes that read few coordinates: neurons of an MLP, or latents of a dictionary.

The coordinates are chosen on the examples that the probe is fitted on, by how far the class means lie apart, and
nowhere else: what was chosen is judged on other examples.

Source: Gurnee et al. 2023, "Finding Neurons in a Haystack", arXiv 2305.01610, section 3 (mean difference).
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from digsite._core.errors import BadInput, explain
from digsite.directions.probes.fits import Fit, Fitted, logistic, sides
from digsite.store import Latents

PENALTY = 1.0
"""Inverse strength of the penalty: few coordinates need little."""


def sparse(k: int) -> Fit:
    """A fit that reads k coordinates alone: the logistic probe on those whose class means lie furthest apart.

    Args:
        k: How many coordinates may be read.

    Returns:
        A fit for `probe`; the `Fitted` has zeros everywhere else, so its direction says which coordinates it reads.
    """

    def fit(x: Float[Tensor, "example width"], labels: Bool[Tensor, " example"]) -> Fitted:
        sides(x, labels)
        if not 1 <= k <= x.shape[1]:
            raise BadInput(explain(f"A probe cannot read {k} coordinates", possible=f"1 to {x.shape[1]}"))
        which = furthest_apart(x, labels, k)
        few = logistic(x[:, which], labels, penalties=(PENALTY,))
        vector = torch.zeros(x.shape[1], dtype=torch.float64)
        vector[which] = few.vector
        return Fitted(vector=vector, bias=few.bias)

    fit.__name__ = f"sparse({k})"
    return fit


def furthest_apart(x: Latents | Tensor, labels: Bool[Tensor, " example"], k: int) -> Int[Tensor, " chosen"]:
    """The columns whose class means differ most, the furthest first; latents are not made dense for it.

    Units: those of the column. A column of another size than the rest is chosen for its size.
    """
    weights = torch.where(labels, 1 / labels.sum(), -1 / (~labels).sum())
    if isinstance(x, Latents):
        values, indices = x.flat
        gap = torch.zeros(x.width).index_add_(0, indices.cpu(), (values.cpu() * weights[x.rows.cpu()]).float())
    else:
        gap = weights.to(x.dtype) @ x
    return gap.abs().topk(min(k, len(gap))).indices


def columns_of(x: Latents | Tensor, which: Int[Tensor, " chosen"]) -> Float[Tensor, "example chosen"]:
    """Some columns as a matrix, in float64."""
    if isinstance(x, Tensor):
        return x[:, which].double()
    place = torch.full((x.width,), -1)
    place[which] = torch.arange(len(which))
    values, indices = x.flat
    at = place[indices.cpu()]
    found = torch.zeros(len(x), len(which), dtype=torch.float64)
    found[x.rows.cpu()[at >= 0], at[at >= 0]] = values.cpu().double()[at >= 0]
    return found
