"""Which heads a latent of an attention-output dictionary reads and writes.

A row of `attn.z` holds the heads side by side, so encoder and decoder rows fall apart into one piece for each head.

1. Share of a head: the squared length of its piece over that of the whole row.
2. Direct contribution of a head to a latent at a token: its piece of what is read, times its piece of the encoder row.
   The contributions of all heads and the constant add up to the pre-activation.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, explain
from digsite._core.provenance import record
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.dictionaries.dictionary import Dictionary
from digsite.dictionaries.splice import site_of
from digsite.store import Rows


@dataclass(frozen=True, kw_only=True)
class HeadShares(Result):
    """Which heads each latent reads and writes.

    Attributes:
        dictionary: What was looked at.
        column: The site.
        reads: Share of each head in each encoder row.
        writes: Share of each head in each decoder row; NaN where it is zero.
        null: Share of the strongest head of random directions.
    """

    SCHEMA: ClassVar[str] = "dictionaries.head_shares/1"

    dictionary: str
    column: str
    reads: Float[Tensor, "latent head"]
    writes: Float[Tensor, "latent head"]
    null: Float[Tensor, " draw"]

    def to_frame(self) -> pl.DataFrame:
        """One row a latent: the head it reads most, with its share, and the same of what it writes."""
        (read, reads), (write, writes) = self.reads.max(1), self.writes.nan_to_num().max(1)
        return pl.DataFrame(
            {
                "latent": list(range(len(read))),
                "reads_head": reads.tolist(),
                "read_share": read.tolist(),
                "writes_head": writes.tolist(),
                "write_share": write.tolist(),
                "null_95": [float(self.null.quantile(0.95))] * len(read),
            }
        )

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        strongest, chance = self.writes.nan_to_num().amax(1), float(self.null.quantile(0.95))
        one = float((strongest > 0.5).double().mean())
        failed = ", no more than chance" if float(strongest.mean()) <= chance else ""
        return (
            f"{self.dictionary}: {one:.0%} of the latents write mostly through one head; the strongest head has a mean "
            f"share of {float(strongest.mean()):.2f} (95 % of random directions at most {chance:.2f}){failed}; "
            f"n = {len(strongest)} latents, {self.writes.shape[1]} heads"
        )


@method
def head_shares(dictionary: Dictionary, heads: int, *, seed: int = 0) -> HeadShares:
    """Which heads each latent of an `attn.z` dictionary reads and writes.

    Args:
        dictionary: It reads and writes one `attn.z`.
        heads: How many heads there are (`model.n_heads`).
        seed: Of the random directions.

    Raises:
        BadInput: A dictionary of another site, or a width that does not fall into so many heads.

    Units: fractions; those of one latent add up to 1.

    Source: Kissane et al. 2024, "Interpreting attention layer outputs with sparse autoencoders", arXiv 2406.17759.
    """
    column = _z(dictionary, heads)
    with measure() as cost:
        block = dictionary.blocks[0]
        reads, writes = (_shares(W.detach().float().cpu(), heads) for W in (block.W_enc[0], block.W_dec(column)))
        # by another generator than the one that dictionaries are initialised with
        random = np.random.default_rng(seed).standard_normal(tuple(block.W_enc[0].shape), dtype=np.float32)
        null = _shares(torch.from_numpy(random), heads).amax(1)
    return HeadShares(
        dictionary=repr(dictionary).removeprefix("Dictionary "),
        column=column,
        reads=reads,
        writes=writes,
        null=null,
        provenance=record(f"digsite.dictionaries.head_shares(dictionary, {heads})", seed=seed),
        cost=cost,
    )


def head_contributions(
    dictionary: Dictionary, rows: Rows, latents: list[int], heads: int
) -> tuple[Float[Tensor, "row latent head"], Float[Tensor, " latent"]]:
    """What each head adds to the pre-activation of some latents, token by token.

    Args:
        dictionary: It reads and writes one `attn.z`.
        rows: What it reads.
        latents: Which latents.
        heads: How many heads there are.

    Returns:
        The contributions, and each latent's constant; contributions summed over heads, plus the constant, are the
        pre-activation.

    Raises:
        BadInput: A dictionary of another site, or a latent that is not there.

    Units: of the pre-activation.
    """
    _z(dictionary, heads)
    if wrong := [latent for latent in latents if not 0 <= latent < dictionary.width]:
        raise BadInput(explain(f"There is no latent {wrong[0]}", possible=f"0 to {dictionary.width - 1}"))
    block = dictionary.blocks[0]
    (x,) = dictionary.inputs(block, rows)
    W = block.W_enc[0][torch.tensor(latents, device=x.device)]
    z, into = x.unflatten(1, (heads, -1)), W.unflatten(1, (heads, -1))
    return torch.einsum("rhd,lhd->rlh", z, into).detach(), block.b_enc[torch.tensor(latents, device=x.device)].detach()


def _shares(W: Float[Tensor, "latent d"], heads: int) -> Float[Tensor, "latent head"]:
    squares = W.square().unflatten(1, (heads, -1)).sum(2)
    return squares / squares.sum(1, keepdim=True)


def _z(dictionary: Dictionary, heads: int) -> str:
    names = {*dictionary.reads, *dictionary.writes}
    (name, *more) = names
    if more or len(dictionary.blocks) != 1 or not site_of(name).endswith("attn.z"):
        asked = "Heads are told apart in a dictionary that reads and writes one attn.z"
        raise BadInput(explain(asked, found=", ".join(sorted(names))))
    width = dictionary.config.columns[name].width
    if heads < 1 or width % heads:
        raise BadInput(explain(f"{width} numbers do not fall into {heads} heads", do="give model.n_heads"))
    return name
