"""Fits on pairs: two examples that differ in one thing, one with the label and one without.

With d_i = x_i⁺ - x_i⁻ the differences of the pairs, the direction of a pair is the first principal direction of the d_i
*about zero*: the eigenvector of Σ d dᵀ. To subtract the mean of the differences first, as a library's PCA does unasked,
takes away the very thing that is looked for: what all pairs have in common is their mean. (To centre each pair on its
own middle is another matter: it gives the same direction.) A principal direction has no sign; the labels give it one.
"""

from types import MappingProxyType

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from digsite._core.errors import BadInput, explain
from digsite.directions.labelled import Labelled
from digsite.directions.probes.fits import Fit, Fitted, sides


def pca_of_pairs(x: Float[Tensor, "example width"], labels: Bool[Tensor, " example"]) -> Fitted:
    """The direction along which the two of a pair differ most, pointing to the one with the label.

    Args:
        x: Activations; the i-th example with the label and the i-th without are a pair.
        labels: Yes or no, as often.

    Raises:
        BadInput: As `mean_difference`; or there are not as many examples with the label as without.

    Source: Zou et al. 2023, "Representation Engineering", arXiv 2310.01405, appendix C.1 (LAT), for differences of
    pairs; theirs are of random sign, which leaves the second moment about zero as it is.

    Caveats:
        The boundary lies halfway between the means.
        Where pairs differ more in something else than in the label, that is what is found: the mean difference is
        not misled by it.
    """
    yes, no = pairs(x, labels)
    return _towards(yes, no, torch.linalg.svd(yes - no, full_matrices=False)[2][0])


PAIRED: MappingProxyType[str, Fit] = MappingProxyType({"pca-of-pairs": pca_of_pairs})
"""The fits that need pairs, by name."""


def pairs(
    x: Float[Tensor, "example width"], labels: Bool[Tensor, " example"]
) -> tuple[Float[Tensor, "pair width"], Float[Tensor, "pair width"]]:
    """The one with the label and the one without of every pair.

    Raises:
        BadInput: As `pca_of_pairs`.
    """
    yes, no = sides(x, labels)
    if len(yes) != len(no):
        found = f"{len(yes)} with the label, {len(no)} without"
        raise BadInput(explain("In pairs one example has the label and one has not", found=found))
    return yes, no


def in_pairs(labelled: Labelled) -> Labelled:
    """The same examples in such an order that the i-th with the label and the i-th without are a pair.

    Raises:
        BadInput: A group is no pair of one example with the label and one without.
    """
    if labelled.groups is None:
        raise BadInput(explain("This fit needs pairs, and the examples have no groups", do="say which are a pair"))
    names, place = labelled.groups.unique(return_inverse=True)
    counts = torch.zeros(2, len(names), dtype=torch.long)
    counts.index_put_((labelled.labels.long(), place), torch.ones(len(place), dtype=torch.long), accumulate=True)
    if bool((counts != 1).any()):
        first = int((counts != 1).any(0).nonzero()[0])
        found = f"group {int(names[first])} with {int(counts[1, first])} examples with the label and "
        found += f"{int(counts[0, first])} without"
        raise BadInput(explain("This fit needs pairs of one example with the label and one without", found=found))
    return labelled.take(place.argsort(stable=True))


def _towards(yes: Tensor, no: Tensor, vector: Tensor) -> Fitted:
    """A vector of length 1, turned to the examples with the label; the boundary halfway between the means."""
    apart = (yes - no).mean(0) @ vector
    vector = -vector if apart < 0 else vector
    return Fitted(vector=vector, bias=-float((yes.mean(0) + no.mean(0)) @ vector) / 2)
