"""How the latents of a dictionary lie to each other, and to those of another dictionary.

Every number is a cosine of decoder rows, and stands beside that of as many random directions in as many dimensions:
with enough of them some are always near each other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, ShapeMismatch, Unsupported, explain
from digsite._core.numerics import bootstrap_interval, require_finite
from digsite._core.provenance import record
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.dictionaries.decoders import Maps
from digsite.dictionaries.dictionary import Dictionary

ANTIPODAL = -0.9
"""Two latents whose cosine is below this are the two sides of one direction."""
SAME = 0.7
"""From this cosine on a latent of another dictionary counts as the same."""
MOST = 8192
"""Latents up to which each is given one of the other dictionary's own (the assignment takes the cube of time)."""
_AT_ONCE = 1024


@dataclass(frozen=True, kw_only=True)
class Geometry(Result):
    """How the latents of a dictionary lie to each other.

    Attributes:
        dictionary: What was looked at.
        column: Whose decoder.
        norms: The length of each decoder row, in normalised units.
        nearest: The largest cosine with another row; NaN for a row of zeros.
        opposite: The smallest.
        opposite_of: The latent with which that is.
        encoder: Cosine of the encoder and decoder row; NaN where the column is not read.
        null: The largest cosine with another, of as many random directions.
    """

    SCHEMA: ClassVar[str] = "dictionaries.geometry/1"

    dictionary: str
    column: str
    norms: Float[Tensor, " latent"]
    nearest: Float[Tensor, " latent"]
    opposite: Float[Tensor, " latent"]
    opposite_of: Int[Tensor, " latent"]
    encoder: Float[Tensor, " latent"]
    null: Float[Tensor, " draw"]

    @property
    def antipodal(self) -> Int[Tensor, "pair 2"]:
        """Pairs of latents that write opposite directions."""
        here = torch.arange(len(self.opposite))
        # each is the other's opposite, so that every pair is counted once
        mutual = (self.opposite < ANTIPODAL) & (self.opposite_of[self.opposite_of] == here) & (here < self.opposite_of)
        return torch.stack([here[mutual], self.opposite_of[mutual]], 1)

    def to_frame(self) -> pl.DataFrame:
        """One row a latent."""
        return pl.DataFrame(
            {
                "latent": list(range(len(self.norms))),
                "norm": self.norms.tolist(),
                "nearest": self.nearest.tolist(),
                "opposite": self.opposite.tolist(),
                "encoder": self.encoder.tolist(),
            }
        ).with_columns(pl.selectors.float().fill_nan(None))

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        there = self.nearest[self.nearest.isfinite()]
        low, high = bootstrap_interval(there)
        encoder = ""
        if self.encoder.isfinite().any():
            encoder = f"; encoder and decoder rows have a mean cosine of {float(self.encoder.nanmean()):.2f}"
        as_chance = ", no more than chance" if float(low) <= float(self.null.mean()) else ""
        return (
            f"{self.dictionary}: a latent's nearest other has a mean cosine of {float(there.mean()):.2f} (95 % "
            f"{float(low):.2f} to {float(high):.2f}; random directions {float(self.null.mean()):.2f}){as_chance}; "
            f"{len(self.antipodal)} antipodal pairs{encoder}; n = {len(there)} latents"
        )


@method
def geometry(dictionary: Dictionary, column: str | None = None, *, block: int = 0, seed: int = 0) -> Geometry:
    """How the latents of a block lie to each other.

    Args:
        dictionary: The dictionary.
        column: Whose decoder; None for the first that the block writes.
        block: Which block.
        seed: Of the random directions.

    Raises:
        Unsupported: Latents that are linear maps have no direction.
        BadInput: Fewer than two latents write anything, or a column that the block does not write.
        NotFinite: A number of the decoder is NaN or infinite.

    Units: cosines.

    Caveats:
        Cosines do not see how large a latent's values are, nor how often two fire together.
    """
    with measure() as cost:
        name, W = _rows(dictionary, column, block)
        one = dictionary.blocks[block]
        nearest, _ = _extreme(W, W, torch.max, own=True)
        opposite, opposite_of = _extreme(W, W, torch.min, own=True)
        encoder = torch.full((len(W),), torch.nan)
        if name in one.config.reads:
            into = one.W_enc[one.config.reads.index(name)].detach().float().cpu()
            encoder = torch.where(_alive(W), (_unit(into) * _unit(W)).sum(1), torch.nan)
        random = _random(W, seed)
        null, _ = _extreme(random, random, torch.max, own=True)
    return Geometry(
        dictionary=repr(dictionary).removeprefix("Dictionary "),
        column=name,
        norms=W.norm(dim=1),
        nearest=nearest,
        opposite=opposite,
        opposite_of=opposite_of,
        encoder=encoder,
        null=null,
        provenance=record(f"digsite.dictionaries.geometry(dictionary, {name!r}, block={block})", seed=seed),
        cost=cost,
    )


@dataclass(frozen=True, kw_only=True)
class DictionaryMatch(Result):
    """How much of one dictionary another has found too.

    Attributes:
        one: The first dictionary.
        other: The second.
        column: Whose decoder.
        nearest: For each latent of the first, the largest cosine with any of the second; NaN for rows of zeros.
        matched: For each latent of the first the one it is matched with, each being given once; -1 for none.
        cosine: Its cosine; NaN without a match.
        null: The largest cosine of each latent of the first with as many random directions as the second has latents.
    """

    SCHEMA: ClassVar[str] = "dictionaries.match/1"

    one: str
    other: str
    column: str
    nearest: Float[Tensor, " latent"]
    matched: Int[Tensor, " latent"]
    cosine: Float[Tensor, " latent"]
    null: Float[Tensor, " latent"]

    def to_frame(self) -> pl.DataFrame:
        """One row a latent of the first dictionary."""
        columns = {"latent": list(range(len(self.nearest))), "matched": self.matched.tolist()}
        numbers = {"cosine": self.cosine.tolist(), "nearest": self.nearest.tolist(), "null": self.null.tolist()}
        return pl.DataFrame(columns | numbers).with_columns(pl.selectors.float().fill_nan(None))

    @property
    def found_again(self) -> float:
        """Fraction of the first's latents whose match has a cosine of at least 0.7."""
        return float((self.cosine[self.nearest.isfinite()] >= SAME).double().mean())

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        there = self.nearest[self.nearest.isfinite()]
        low, high = bootstrap_interval(there)
        chance = self.null[self.nearest.isfinite()]
        as_chance = ", no more than chance" if float(low) <= float(chance.mean()) else ""
        return (
            f"{self.found_again:.0%} of the latents of {self.one} have a match of their own in {self.other} (cosine of "
            f"at least {SAME}); mean largest cosine {float(there.mean()):.2f} (95 % {float(low):.2f} to "
            f"{float(high):.2f}; random directions {float(chance.mean()):.2f}){as_chance}; n = {len(there)} latents"
        )


@method
def match(
    one: Dictionary, other: Dictionary, column: str | None = None, *, block: int = 0, seed: int = 0
) -> DictionaryMatch:
    """How much of a dictionary another one (another seed, width, recipe) has found too.

    Args:
        one: Whose latents are looked for.
        other: Where they are looked for.
        column: Whose decoder, in both; None for the first that the block writes.
        block: Which block, in both.
        seed: Of the random directions.

    Raises:
        ShapeMismatch: The two write vectors of different widths.
        Unsupported: Latents that are linear maps, or more than 8192 of them.
        BadInput: Fewer than two latents write anything, or a column that a block does not write.

    Units: cosines; a latent that points the other way has not found the same.

    Source: mean max cosine similarity is from Sharkey, Braun and Millidge 2022; that each latent is given once
    (Hungarian assignment) is from Paulo and Belrose 2025, arXiv 2501.16615.
    """
    with measure() as cost:
        name, A = _rows(one, column, block)
        _, B = _rows(other, column or name, block)
        if A.shape[1] != B.shape[1]:
            found = f"{A.shape[1]} and {B.shape[1]} numbers"
            raise ShapeMismatch(explain("Two dictionaries are matched at one site", found=found))
        if max(len(A), len(B)) > MOST:
            found = f"{len(A)} and {len(B)} latents"
            raise Unsupported(explain(f"Matching is for up to {MOST} latents", found=found, do="match a part of them"))
        nearest, _ = _extreme(A, B, torch.max)
        null, _ = _extreme(A, _random(B, seed), torch.max)
        alive, living = _alive(A).nonzero().flatten(), _alive(B).nonzero().flatten()
        cosines = _unit(A[alive]) @ _unit(B[living]).T
        rows, columns = (torch.from_numpy(x) for x in linear_sum_assignment(cosines.double().numpy(), maximize=True))
        matched, cosine = torch.full((len(A),), -1), torch.full((len(A),), torch.nan)
        matched[alive[rows]], cosine[alive[rows]] = living[columns], cosines[rows, columns]
    return DictionaryMatch(
        one=repr(one).removeprefix("Dictionary "),
        other=repr(other).removeprefix("Dictionary "),
        column=name,
        nearest=nearest,
        matched=matched,
        cosine=cosine,
        null=null,
        provenance=record(f"digsite.dictionaries.match(one, other, {name!r}, block={block})", seed=seed),
        cost=cost,
    )


def _rows(dictionary: Dictionary, column: str | None, block: int) -> tuple[str, Float[Tensor, "latent d"]]:
    """The decoder rows of a block, in normalised units."""
    one = dictionary.blocks[block]
    name = column or one.config.writes[0]
    if name not in one.config.writes:
        raise BadInput(explain(f"Block {block} does not write {name}", possible=one.config.writes, near=name))
    if isinstance(one.decoder, Maps):
        raise Unsupported(explain("A latent that is a linear map has no direction", found=f"block {block}"))
    W = require_finite(f"The decoder of {name}", one.W_dec(name).detach().float().cpu())
    if int(_alive(W).sum()) < 2:
        raise BadInput(explain(f"Geometry needs two latents that write to {name}", found=f"{int(_alive(W).sum())}"))
    return name, W


def _alive(W: Float[Tensor, "latent d"]) -> Tensor:
    return W.norm(dim=1) > 0


def _unit(W: Float[Tensor, "latent d"]) -> Float[Tensor, "latent d"]:
    return W / W.norm(dim=1, keepdim=True).clamp_min(1e-30)


def _random(W: Float[Tensor, "latent d"], seed: int) -> Float[Tensor, "latent d"]:
    """As many random directions, by another generator than the one that dictionaries are initialised with."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(tuple(W.shape), dtype=np.float32))


def _extreme(
    A: Float[Tensor, "latent d"], B: Float[Tensor, "other d"], pick: Callable, *, own: bool = False
) -> tuple[Float[Tensor, " latent"], Int[Tensor, " latent"]]:
    """The largest (or smallest) cosine of every row of A with one of B, and which; rows of zeros are left out.

    Never more than a thousand rows of cosines are held at once.
    """
    values, which = torch.full((len(A),), torch.nan), torch.full((len(A),), -1)
    worst = float("-inf") if pick is torch.max else float("inf")
    a, b, dead = _unit(A), _unit(B), ~_alive(B)
    for start in range(0, len(A), _AT_ONCE):
        rows = torch.arange(start, min(start + _AT_ONCE, len(A)))
        cosines = a[rows] @ b.T
        cosines[:, dead] = worst
        if own:
            cosines[torch.arange(len(rows)), rows] = worst
        values[rows], which[rows] = pick(cosines, dim=1)
    return torch.where(_alive(A), values, torch.nan), which
