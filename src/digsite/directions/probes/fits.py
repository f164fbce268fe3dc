"""How a direction is found from activations with labels: one function a method, all of one shape.

A fit takes activations [example, width] and labels, and gives a `Fitted`: what reads (with 0 as the boundary) and
what is written where the two differ. Everything is computed in float64. The formulas are in `solving`, which fits many
at once; a fit here is the case of one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from digsite._core.errors import BadInput, explain
from digsite._core.numerics import require_finite
from digsite.directions.probes.solving import PENALTIES, Readers, logistics, settled, solve


@dataclass(frozen=True, eq=False, kw_only=True)
class Fitted:
    """A direction without its site.

    Attributes:
        vector: What is written: the way from examples without the label to those with it.
        reader: What reads; None where that is the vector itself.
        bias: Added to a reading, so that 0 is the boundary.
    """

    vector: Float[Tensor, " width"]
    reader: Float[Tensor, " width"] | None = None
    bias: float = 0.0

    def scores(self, x: Float[Tensor, "example width"]) -> Float[Tensor, " example"]:
        """The probe's score of each example; above 0 it has the label."""
        reader = self.vector if self.reader is None else self.reader
        return x.to(reader.dtype) @ reader + self.bias


Fit = Callable[[Tensor, Tensor], Fitted]
"""Activations [example, width] and labels [example] to a direction."""


def mean_difference(x: Float[Tensor, "example width"], labels: Bool[Tensor, " example"]) -> Fitted:
    """The mean of the examples with the label minus the mean of those without; the boundary lies halfway.

    Args:
        x: Activations.
        labels: Yes or no.

    Raises:
        BadInput: All examples have the label, or none has it, or there are not as many labels as examples.
        NotFinite: An activation is NaN or infinite.

    Source: diff-in-means; Marks and Tegmark 2023, arXiv 2310.06824, section 4.1 ("mass-mean" before whitening).
    """
    return _one("mean-difference", x, labels)


def mass_mean(x: Float[Tensor, "example width"], labels: Bool[Tensor, " example"]) -> Fitted:
    """Reads with S⁻¹ d, where S is the covariance within the classes, and writes d, the difference of means.

    Args:
        x: Activations.
        labels: Yes or no.

    Raises:
        As `mean_difference`.

    Source: Marks and Tegmark 2023, arXiv 2310.06824, section 4.1; S is shrunk by Ledoit and Wolf.

    Caveats:
        S⁻¹ d is the better reader of text like that of the fit; of other text, d alone often is.
    """
    return _one("mass-mean", x, labels)


def lda(x: Float[Tensor, "example width"], labels: Bool[Tensor, " example"]) -> Fitted:
    """Fisher's discriminant S⁻¹ d, read and written alike; arguments as for `mass_mean`.

    Source: Fisher 1936; Ledoit and Wolf 2004 for the shrinkage of S.
    """
    return _one("lda", x, labels)


def ridge(x: Float[Tensor, "example width"], labels: Bool[Tensor, " example"]) -> Fitted:
    """Least squares to +1 with the label and -1 without, penalised on standardised coordinates; arguments as for `lda`.

    The penalty is the best on thirds of the examples; with fewer than three of a label the middle one of `SHRINKS`.
    """
    return _one("ridge", x, labels)


def logistic(
    x: Float[Tensor, "example width"],
    labels: Bool[Tensor, " example"],
    *,
    penalties: tuple[float, ...] = PENALTIES,
) -> Fitted:
    """The log odds of the label, y = sigmoid(v · x + b), penalised on standardised coordinates.

    Examples of both labels weigh alike, and 0 is the boundary if both are as frequent.

    Args:
        x: Activations.
        labels: Yes or no.
        penalties: Inverse strengths of the penalty; the best on thirds of the examples is taken, with fewer than three
            of a label the middle one.

    Raises:
        As `mean_difference`.

    Caveats:
        What it reads with is not what should be written: it leans away from whatever else varies.
    """
    sides(x, labels)
    return taken(logistics(settled(x[None]), labels[None], penalties), 0)


FITS: MappingProxyType[str, Fit] = MappingProxyType(
    {
        "logistic": logistic,
        "ridge": ridge,
        "lda": lda,
        "mass-mean": mass_mean,
        "mean-difference": mean_difference,
    }
)
"""The fits of two classes by name."""


def _one(fit: str, x: Tensor, labels: Tensor) -> Fitted:
    sides(x, labels)
    return taken(solve(fit, x[None], labels[None]), 0)


def taken(readers: Readers, cell: int, draw: int = 0) -> Fitted:
    """One of many fits that were made at once."""
    vector = readers.reader if readers.vector is None else readers.vector
    reader = None if readers.vector is None else readers.reader[cell, draw]
    return Fitted(vector=vector[cell, draw], reader=reader, bias=float(readers.bias[cell, draw]))


def sides(
    x: Float[Tensor, "example width"], labels: Bool[Tensor, " example"]
) -> tuple[Float[Tensor, "chosen width"], Float[Tensor, "other width"]]:
    """The examples with the label and those without, in float64.

    Raises:
        BadInput: All examples have the label, or none has it, or there are not as many labels as examples.
        NotFinite: An activation is NaN or infinite.
    """
    if len(x) != len(labels):
        raise BadInput(explain("Every example has a label", found=f"{len(labels)} labels, {len(x)} examples"))
    if labels.dtype != torch.bool:
        do = "give True and False, such as labels == 1; directions.probes.class_probe takes classes"
        raise BadInput(explain("A label between two classes is yes or no", found=f"labels of {labels.dtype}", do=do))
    count = int(labels.sum())
    if count in (0, len(labels)):
        found = f"{count} with the label, {len(labels) - count} without"
        raise BadInput(explain("A direction between two classes needs examples of both", found=found))
    x = require_finite("an activation", x).double()
    return x[labels], x[~labels]
