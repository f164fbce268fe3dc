"""What the stream holds of a token by itself: the embedding that the tables of weights are made with.

1. Layer 0 reads the embedding as it enters the stream, with any constant that the architecture multiplies it by.
2. Later layers read the effective embedding: what the stream holds after the first MLP when attention and learned
   positions add nothing. In many models the first MLP is part of the embedding: without it, a table of a later layer
   shows what a head does with a vector that it never meets.

Source: Gould et al. 2023, "Successor Heads" (effective embedding); McDougall et al. 2023, "Copy Suppression".
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from digsite.models.edits import ablate
from digsite.models.model import Model

BATCH = 4096
"""Tokens in one pass, each a row of its own."""


@torch.no_grad()
def token_streams(
    model: Model, ids: Int[Tensor, " place"], *, layer: int, effective: bool = True
) -> Float[Tensor, "place d_model"]:
    """What a layer reads of each token, if there is nothing else.

    Args:
        model: The model.
        ids: The tokens.
        layer: Who reads.
        effective: Layers after the first read the embedding with the first MLP; False gives all the embedding alone.

    Units: those of the stream.
    """
    site, edits = "embed", []
    if effective and layer > 0:
        site = "layers.0.resid_post"
        edits = [ablate("layers.0.attn.out")]
        edits += [ablate("pos_embed")] if model.anatomy.has((None, "pos_embed")) else []
    run = model.run(ids[:, None], read=[site], edits=edits, at=0, logits=None, batch_size=BATCH)
    return run[site].float()
