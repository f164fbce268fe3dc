"""Classical ways to a dictionary, from scikit-learn, as a `Dictionary` like any other: what a trained one has to beat.

1. PCA and ICA give directions and what reads them. Each direction is turned to the side on which its reading is skewed,
   for a feature is zero or far on one side; a relu takes that side.
2. NMF and sparse coding give directions, and codes that are found by iteration. The encoder is the linear map and bias
   that come closest to the codes (ridge regression), with a relu: it codes new rows at once, and less sharply.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from sklearn.decomposition import NMF, PCA, FastICA, MiniBatchDictionaryLearning
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from digsite._core.errors import BadInput, explain
from digsite._core.numerics import require_finite
from digsite.dictionaries.activations import Relu
from digsite.dictionaries.dictionary import Dictionary
from digsite.dictionaries.families import sae

_RIDGE = 1e-4
"""Of the ridge regression, as a share of the variance of a coordinate."""


class Directions(NamedTuple):
    """What a classical method found in rows.

    Attributes:
        decoder: The direction of each latent.
        encoder: What reads it.
        bias: Added to each reading.
        mean: Added to what is written, and taken off what is read.
    """

    decoder: Float[Tensor, "latent d"]
    encoder: Float[Tensor, "latent d"]
    bias: Float[Tensor, " latent"]
    mean: Float[Tensor, " d"]


def classical(rows: Mapping[str, Float[Tensor, "row d"]], method: str, latents: int, *, seed: int = 0) -> Dictionary:
    """A dictionary by a classical method.

    Args:
        rows: Activations of one column, by its name.
        method: "PCA", "ICA", "NMF" or "sparse coding".
        latents: How many; PCA and ICA give at most as many as there are coordinates.
        seed: Of the method.

    Returns:
        An SAE with a relu, in eval mode, its scale one.

    Raises:
        BadInput: No such method; more columns than one; negative activations for NMF.
        NotFinite: An activation is NaN or infinite.

    Caveats:
        Methods hold all rows in memory. PCA and ICA fire half of the time: compare at equal L0.
    """
    if method not in METHODS:
        raise BadInput(explain(f"There is no classical method {method!r}", possible=list(METHODS), near=method))
    if len(rows) != 1:
        raise BadInput(explain("A classical method takes one column", found=", ".join(rows)))
    ((name, x),) = rows.items()
    x = require_finite(f"The column {name}", x.detach().float().cpu())
    found = METHODS[method](x, latents, seed)
    made = sae({name: x.shape[1]}, len(found.decoder), Relu())
    with torch.no_grad():
        made.blocks[0].W_enc[0].copy_(found.encoder)
        made.blocks[0].W_dec(name).copy_(found.decoder)
        made.blocks[0].b_enc.copy_(found.bias)
        made.bias(name).copy_(found.mean)
    made.config = replace(made.config, family=method, origin={"method": f"scikit-learn {method}", "rows": len(x)})
    return made.eval()


def principal_components(x: Float[Tensor, "row d"], latents: int, seed: int) -> Directions:
    """1. PCA: all orthogonal."""
    found: Any = PCA(min(latents, x.shape[1]), random_state=seed).fit(x.numpy())
    rows = _float(found.components_)
    return _oriented(rows, rows, x)


def independent_components(x: Float[Tensor, "row d"], latents: int, seed: int) -> Directions:
    """1. ICA: as independent of each other as can be."""
    count = min(latents, x.shape[1])
    with unfinished():
        found: Any = FastICA(count, whiten="unit-variance", random_state=seed, max_iter=300, tol=1e-3).fit(x.numpy())
    return _oriented(_float(np.asarray(found.mixing_).T), _float(found.components_), x)


def nonnegative_factors(x: Float[Tensor, "row d"], latents: int, seed: int) -> Directions:
    """2. NMF: rows without negative numbers are sums of directions without negative numbers.

    Raises:
        BadInput: A number is negative.
    """
    if (x < 0).any():
        do = "choose a site after a relu, or sparse coding"
        raise BadInput(explain("NMF takes activations without negative numbers", found=f"{float(x.min()):.3g}", do=do))
    with unfinished():
        model: Any = NMF(latents, random_state=seed, max_iter=200)  # type: ignore[arg-type]
        codes = _float(model.fit_transform(x.numpy()))
    return _read(_float(model.components_), codes, x, torch.zeros(x.shape[1]))


def sparse_codes(x: Float[Tensor, "row d"], latents: int, seed: int) -> Directions:
    """2. Sparse coding, with an encoder that comes closest to the codes."""
    model = sparse_coder(x, latents, seed)
    mean = x.mean(0)
    return _read(_float(model.components_), pursued(model, x - mean), x, mean)


def sparse_coder(x: Float[Tensor, "row d"], latents: int, seed: int) -> MiniBatchDictionaryLearning:
    """Dictionary learning of Mairal et al. 2009: directions and non-negative codes in turn, with an L1 penalty.

    Args:
        x: Rows; their mean is taken off.
        latents: How many.
        seed: Of the method.
    """
    model = MiniBatchDictionaryLearning(
        latents,
        alpha=0.15,  # type: ignore[arg-type]
        max_iter=20,
        batch_size=256,
        fit_algorithm="cd",
        transform_algorithm="lasso_cd",
        transform_alpha=0.15,
        positive_code=True,
        random_state=seed,
    )
    with unfinished():
        return model.fit((x - x.mean(0)).double().numpy())  # in float32 codes do not converge


def pursued(model: MiniBatchDictionaryLearning, centred: Float[Tensor, "row d"]) -> Float[Tensor, "row latent"]:
    """The codes of rows by iteration, each as sharp as the penalty makes it.

    Args:
        model: From `sparse_coder`.
        centred: Rows less the mean of those it was fitted on.
    """
    with unfinished():
        return _float(model.transform(centred.double().numpy()))


@contextmanager
def unfinished() -> Iterator[None]:
    """scikit-learn may stop before it has converged: what it has by then is what is judged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def _oriented(decoder: Tensor, encoder: Tensor, x: Tensor) -> Directions:
    """Each direction turned to the side on which its reading is skewed."""
    mean = x.mean(0)
    side = torch.where((((x - mean) @ encoder.T) ** 3).mean(0) < 0, -1.0, 1.0)[:, None]
    return Directions(decoder * side, encoder * side, torch.zeros(len(decoder)), mean)


def _read(decoder: Tensor, codes: Tensor, x: Tensor, mean: Tensor) -> Directions:
    """The encoder that comes closest to the codes: ridge regression on the rows."""
    centred, centre = (x - x.mean(0)).double(), codes.double().mean(0)
    gram = centred.T @ centred / len(x)
    ridge = _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    encoder = torch.linalg.solve(gram + ridge, centred.T @ (codes.double() - centre) / len(x)).T
    bias = centre - encoder @ (x.mean(0) - mean).double()
    return Directions(decoder, encoder.float(), bias.float(), mean)


def _float(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).float()


METHODS: dict[str, Callable[[Tensor, int, int], Directions]] = {
    "PCA": principal_components,
    "ICA": independent_components,
    "NMF": nonnegative_factors,
    "sparse coding": sparse_codes,
}
"""Every classical method by name."""
