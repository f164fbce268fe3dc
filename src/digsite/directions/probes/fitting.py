"""From prompts with labels to a direction, and to the baselines that it has to beat."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from digsite._core.errors import BadInput, explain
from digsite._core.ranking import auroc
from digsite.directions.direction import Direction, concrete
from digsite.directions.measuring import scale_along
from digsite.directions.probes.fits import FITS, Fit
from digsite.directions.probes.prompts import LabelledPrompts
from digsite.models import Model, made_by
from digsite.sites import Site

BAG = "bag of words"
Scorer = Callable[[Tensor], Tensor]


def fit_of(fit: str | Fit) -> tuple[str, Fit]:
    """A fit and its name.

    Raises:
        BadInput: There is no fit of this name.
    """
    if isinstance(fit, str):
        if fit not in FITS:
            raise BadInput(explain(f"There is no fit {fit!r}", possible=list(FITS), near=fit))
        return fit, FITS[fit]
    return getattr(fit, "__name__", "own fit").replace("_", "-"), fit


def direction_from(
    model: Model,
    train: LabelledPrompts,
    x: Float[Tensor, "example width"],
    site: str | Site,
    fit: str | Fit,
    *,
    seed: int,
) -> Direction:
    """A direction fitted on what training prompts have at a site, with its scale there."""
    name, method = fit_of(fit)
    fitted = method(x, train.labels)
    call = f"{name} on {train.name} ({len(train)} prompts)"
    return Direction(
        site=concrete(site),
        vector=fitted.vector,
        reader=fitted.reader,
        bias=fitted.bias,
        scale=scale_along(fitted.vector, x),
        name=train.name,
        how=name,
        provenance=made_by(call, model, train.tokens.fingerprint, seed=seed),
    )


def scorer(fit: Fit, x: Float[Tensor, "example width"], labels: Bool[Tensor, " example"]) -> Scorer:
    """What a fit gives: a function of activations to scores."""
    return fit(x, labels).scores


def bag_of_words(train: Sequence[tuple[int, ...]], labels: Bool[Tensor, " example"]) -> Callable[..., Tensor]:
    """A logistic probe on how often each token occurs in the prompt, whatever the order.

    Args:
        train: Ids of each training prompt, up to where it is read; other ids are not known to the probe.
        labels: Yes or no.

    Returns:
        A function of prompts to log odds.

    Source: a baseline of AxBench (Wu et al. 2025, arXiv 2501.17148, section 4).
    """
    from sklearn.linear_model import LogisticRegression

    known = {token: at for at, token in enumerate(sorted({token for row in train for token in row}))}

    def counts(rows: Sequence[tuple[int, ...]]) -> np.ndarray:
        found = np.zeros((len(rows), len(known)))
        for at, row in enumerate(rows):
            for token in row:
                if token in known:
                    found[at, known[token]] += 1
        return found

    probe = LogisticRegression(class_weight="balanced", max_iter=1000).fit(counts(train), labels.numpy())
    return lambda rows: torch.from_numpy(probe.decision_function(counts(rows)))


def random_directions(width: int, draws: int, *, seed: int) -> Float[Tensor, "draw width"]:
    """Unit vectors in random directions, in float64."""
    drawn = torch.randn(draws, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn / drawn.norm(dim=1, keepdim=True)


def random_aurocs(
    vectors: Float[Tensor, "draw width"],
    x: Float[Tensor, "example width"],
    labels: Bool[Tensor, " example"],
    tests: Sequence[tuple[Tensor, Tensor]],
) -> Float[Tensor, "draw set"]:
    """The AUROC of directions that know no label but for their sign, which the training examples say.

    Args:
        vectors: The directions.
        x: Activations of training examples.
        labels: Of training examples.
        tests: Activations and labels of each set that is judged.
    """
    several = np.broadcast_to(labels.numpy(), (len(vectors), len(labels)))
    sign = torch.from_numpy(np.sign(auroc((vectors @ x.T).numpy(), several) - 0.5 + 1e-12))
    found = []
    for other, truth in tests:
        several = np.broadcast_to(truth.numpy(), (len(vectors), len(truth)))
        found.append(torch.from_numpy(auroc((sign[:, None] * (vectors @ other.T)).numpy(), several)))
    return torch.stack(found, 1)
