"""The ways to a dictionary that stand on the scoreboard, and the baselines that each of them must beat.

A learner is a function from activations, the number of latents it may have, and a seed, to the latents' directions and
to what encodes further activations. It sees activations alone, never what was planted. A ceiling is given the true
directions, and has only to say which features are active.
"""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from sklearn.cluster import KMeans
from sklearn.linear_model import orthogonal_mp
from torch import Tensor

from digsite.dictionaries import BatchTopK, Dictionary, Recipe, Relu, TopK, sae, train
from digsite.dictionaries.activations import Activation
from digsite.dictionaries.classical import classical, pursued, sparse_coder
from digsite.dictionaries.recipes import APRIL_2024, BATCHTOPK, JUMPRELU_SHORT, TOPK
from digsite.store import Held
from digsite.toys.planted import Planted

COLUMN = "activations"
ACTIVE = 3.0
"""Latents that a trained autoencoder lets fire in a row: chosen once, amid the 1.2 to 4.2 that are planted."""
EPOCHS = 50
"""How often it learns from each activation."""


class Learned(NamedTuple):
    """A dictionary.

    Attributes:
        decoder: The direction of each latent.
        encode: From activations to latents; a latent fires where it is above zero.
    """

    decoder: Float[Tensor, "latent d_model"]
    encode: Callable[[Float[Tensor, "example d_model"]], Float[Tensor, "example latent"]]


class Learner(NamedTuple):
    """One line of the dictionaries' scoreboard.

    Attributes:
        name: Its name.
        learn: From activations, the number of latents and a seed to a dictionary; it may have fewer latents.
        baseline: It does not look for sparse features.
    """

    name: str
    learn: Callable[[Float[Tensor, "example d_model"], int, int], Learned]
    baseline: bool = False


def random_directions(x: Tensor, latents: int, seed: int) -> Learned:
    """Chance: directions drawn at random, each read along itself."""
    rng = np.random.default_rng([seed, 1])
    drawn = torch.from_numpy(rng.standard_normal((latents, x.shape[1]), dtype=np.float32))
    return _read_along(drawn / drawn.norm(dim=1, keepdim=True), x.mean(0))


def by(method: str) -> Callable[[Tensor, int, int], Learned]:
    """A classical method of `digsite.dictionaries`: at most as many latents as there are coordinates."""
    return lambda x, latents, seed: _learned(classical({COLUMN: x}, method, latents, seed=seed))


def trained(activation: Activation, recipe: Recipe) -> Callable[[Tensor, int, int], Learned]:
    """A sparse autoencoder by this recipe; its L0 is set here, for nobody tells a learner what was planted."""

    def learn(x: Tensor, latents: int, seed: int) -> Learned:
        made = sae({COLUMN: x.shape[1]}, latents, activation)
        return _learned(train(Held({COLUMN: x}), made, recipe, batch=512, rows=EPOCHS * len(x), seed=seed).dictionary)

    return learn


def clusters(x: Tensor, latents: int, seed: int) -> Learned:
    """k-means of directions: one latent at a time, the one whose centre is closest in angle."""
    mean = x.mean(0)
    unit = torch.nn.functional.normalize(x - mean, dim=1)
    found = KMeans(latents, n_init=1, max_iter=50, random_state=seed).fit(unit.numpy())  # type: ignore[arg-type]
    centres = torch.nn.functional.normalize(torch.from_numpy(found.cluster_centers_).float(), dim=1)

    def encode(new: Tensor) -> Tensor:
        along = (new - mean) @ centres.T
        best = along.argmax(1, keepdim=True)
        return torch.zeros_like(along).scatter_(1, best, along.gather(1, best).clamp_min(0))

    return Learned(centres, encode)


def sparse_coding(x: Tensor, latents: int, seed: int) -> Learned:
    """Dictionary learning of Mairal et al. 2009; codes of further activations are found by iteration too."""
    mean, model = x.mean(0), sparse_coder(x, latents, seed)
    return Learned(torch.from_numpy(model.components_).float(), lambda new: pursued(model, new - mean))


def true_by_least_squares(planted: Planted) -> Learned:
    """A ceiling: the true directions, and the smallest numbers that add up to the activation."""
    read = torch.linalg.pinv(planted.directions)
    return Learned(planted.directions, lambda x: (x - planted.constant) @ read)


def true_by_pursuit(planted: Planted) -> Learned:
    """A ceiling: the true directions, one after the other until what is left could be noise (matching pursuit)."""
    least = 0.05 + 1.5 * planted.d_model * planted.noise**2

    def encode(x: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a direction that depends on those chosen ends the search
            found = orthogonal_mp(planted.directions.T.numpy(), (x - planted.constant).T.numpy(), tol=least)
        return torch.from_numpy(np.asarray(found, dtype=np.float32).T.copy()).clamp_min(0)

    return Learned(planted.directions, encode)


def _read_along(directions: Tensor, mean: Tensor) -> Learned:
    return Learned(directions, lambda x: torch.relu((x - mean) @ directions.T))


def _learned(dictionary: Dictionary) -> Learned:
    @torch.no_grad()
    def encode(new: Tensor) -> Tensor:
        return dictionary.encode({COLUMN: new})[0].dense()

    return Learned(dictionary.directions(COLUMN).detach(), encode)


LEARNERS = {
    learner.name: learner
    for learner in (
        Learner("random directions", random_directions, baseline=True),
        Learner("PCA", by("PCA"), baseline=True),
        Learner("ICA", by("ICA"), baseline=True),
        Learner("k-means", clusters, baseline=True),
        Learner("sparse coding", sparse_coding),
        Learner("TopK SAE", trained(TopK(k=round(ACTIVE)), replace(TOPK, rate=1e-2))),
        Learner("BatchTopK SAE", trained(BatchTopK(k=round(ACTIVE)), replace(BATCHTOPK, rate=3e-2))),
        Learner("JumpReLU SAE", trained(JUMPRELU_SHORT.activation, replace(JUMPRELU_SHORT, rate=3e-2, l0=ACTIVE))),
        Learner("L1 SAE", trained(Relu(), replace(APRIL_2024, rate=1e-2, l0=ACTIVE))),
    )
}
"""Every way to a dictionary on the board, by name."""

CEILINGS: dict[str, Callable[[Planted], Learned]] = {
    "least squares on the truth": true_by_least_squares,
    "matching pursuit on the truth": true_by_pursuit,
}
"""What could be reached by one who knows the directions, by name."""
