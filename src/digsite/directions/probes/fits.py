"""How a direction is found from activations with labels: one function a method, all of one shape.

A fit takes activations [example, width] and labels, and gives a `Fitted`: what reads (with 0 as the boundary) and
what is written where the two differ. Everything is computed in float64.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

from jaxtyping import Bool, Float
from torch import Tensor

from digsite._core.errors import BadInput, explain
from digsite._core.numerics import require_finite


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
    yes, no = sides(x, labels)
    vector = yes.mean(0) - no.mean(0)
    return Fitted(vector=vector, bias=-float((yes.mean(0) + no.mean(0)) @ vector) / 2)


FITS = MappingProxyType({"mean-difference": mean_difference})
"""The fits of two classes by name."""


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
    count = int(labels.sum())
    if count in (0, len(labels)):
        found = f"{count} with the label, {len(labels) - count} without"
        raise BadInput(explain("A direction between two classes needs examples of both", found=found))
    x = require_finite("an activation", x).double()
    return x[labels], x[~labels]
