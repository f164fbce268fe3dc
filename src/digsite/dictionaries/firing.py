"""On which tokens latents fire: how often, and whether it is one token alone.

A latent that fires on one token is a row of the embedding in disguise. Dictionaries of models with random weights
consist of little else, so such latents are counted apart.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from digsite.store import Latents

SINGLE = 0.9
"""A latent is a single-token latent if one token has this share of its firing mass."""
FEW = 10
"""Below so many firings nothing can be said about a latent's tokens."""


class Firing:
    """How often each latent fires, and the mass of its values on each token, batch by batch; sparse.

    Attributes:
        width: Latents of all blocks, one block after the other.
        rows: How many rows were added.
        fired: In how many of them each latent fires.
    """

    def __init__(self, width: int):
        self.width, self.rows = width, 0
        self.fired = torch.zeros(width, dtype=torch.long)
        self._keys = torch.zeros(0, dtype=torch.long)  # token × width + latent
        self._mass = torch.zeros(0, dtype=torch.float64)

    def add(self, latents: list[Latents], ids: Int[Tensor, " row"]) -> None:
        """Adds the latents of every block, and the tokens of their rows."""
        first, keys, mass = 0, [self._keys], [self._mass]
        for block in latents:
            values, indices = (x.cpu() for x in block.flat)
            on = values != 0
            which = indices[on] + first
            self.fired += torch.bincount(which, minlength=self.width)
            keys.append(ids.cpu()[block.rows.cpu()[on]] * self.width + which)
            mass.append(values[on].abs().double())
            first += block.width
        self.rows += len(ids)
        self._keys, where = torch.cat(keys).unique(return_inverse=True)
        self._mass = torch.zeros(len(self._keys), dtype=torch.float64).index_add_(0, where, torch.cat(mass))

    @property
    def density(self) -> Float[Tensor, " latent"]:
        """In which fraction of the rows each latent fires."""
        return self.fired / max(1, self.rows)

    @property
    def share(self) -> Float[Tensor, " latent"]:
        """The largest share of a latent's firing mass that one token has; NaN where it fires less than ten times."""
        latent = self._keys % self.width
        largest = torch.zeros(self.width, dtype=torch.float64).scatter_reduce_(0, latent, self._mass, "amax")
        return self._known(largest / self._total)

    @property
    def entropy(self) -> Float[Tensor, " latent"]:
        """The entropy of a latent's firing mass over tokens, in nats; NaN where it fires less than ten times."""
        latent = self._keys % self.width
        p = self._mass / self._total[latent]
        return self._known(torch.zeros(self.width, dtype=torch.float64).index_add_(0, latent, -p * p.log()))

    @property
    def single(self) -> Bool[Tensor, " latent"]:
        """Which latents fire on one token alone (90 % of their mass)."""
        return self.share >= SINGLE

    @property
    def _total(self) -> Float[Tensor, " latent"]:
        return torch.zeros(self.width, dtype=torch.float64).index_add_(0, self._keys % self.width, self._mass)

    def _known(self, each: Float[Tensor, " latent"]) -> Float[Tensor, " latent"]:
        return torch.where(self.fired >= FEW, each, torch.nan)
