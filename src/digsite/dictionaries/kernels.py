"""The sparse arithmetic of dictionaries: what costs k numbers a row where a dense product would cost one a latent."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from digsite.store import Latents


def top_k(pre: Float[Tensor, "row latent"], k: int) -> tuple[Float[Tensor, "row k"], Int[Tensor, "row k"]]:
    """The k largest entries of every row."""
    values, indices = pre.topk(k, dim=1)
    return values, indices


def top_entries(pre: Float[Tensor, "row latent"], count: int) -> Latents:
    """The `count` largest entries of all rows together."""
    _, where = pre.detach().flatten().topk(min(count, pre.numel()))
    where = where.sort().values
    rows, indices = where // pre.shape[1], where % pre.shape[1]
    counts = torch.bincount(rows, minlength=len(pre))
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return Latents(pre[rows, indices], indices, pre.shape[1], offsets)


def encode_top_k(
    x: Float[Tensor, "row d"], W_enc: Float[Tensor, "latent d"], b_enc: Float[Tensor, " latent"], k: int
) -> Latents:
    """The k largest pre-activations of every row, through a relu."""
    values, indices = top_k(torch.addmm(b_enc, x, W_enc.T), k)
    return Latents(torch.relu(values), indices, len(W_enc))


def decode(latents: Latents, W_dec: Float[Tensor, "latent d"]) -> Float[Tensor, "row d"]:
    """The sum of the rows of W_dec that fire, each times its value."""
    values, indices = latents.flat
    return torch.nn.functional.embedding_bag(
        indices, W_dec, latents.bounds[:-1], mode="sum", per_sample_weights=values.to(W_dec.dtype)
    )


def frobenius(U: Float[Tensor, "latent out rank"], V: Float[Tensor, "latent rank in"]) -> Float[Tensor, " latent"]:
    """The Frobenius norm of every U V, without forming it: |U V|² = <Uᵀ U, V Vᵀ>."""
    return ((U.mT @ U) * (V @ V.mT)).sum((1, 2)).clamp_min(0).sqrt()
