"""Dictionaries whose answer is known: identities, and the transcoders of the planted network."""

from functools import cache
from typing import Any

import torch

from digsite.dictionaries import Relu, TopK, clt, crosscoder, sae, transcoder


@torch.no_grad()
def identity(widths):
    """Two latents a coordinate, one for each sign: x in, x out, bit for bit. Several columns: each its own."""
    total = sum(widths.values())
    new = sae(widths, 2 * total, Relu()) if len(widths) == 1 else crosscoder(widths, 2 * total, Relu())
    parts = torch.cat([torch.eye(total), -torch.eye(total)]).split(list(widths.values()), 1)
    block: Any = new.blocks[0]
    for W_enc, W_dec, part in zip(block.W_enc, block.decoder.W, parts, strict=True):
        W_enc.copy_(part)
        W_dec.copy_(part)
    return new.eval()


@cache
def planted():
    """A model whose MLPs are ReLU features that are known."""
    from digsite.toys.planted import planted_network

    return planted_network()


@torch.no_grad()
def planted_transcoder(layer):
    """Its MLP, as a transcoder."""
    network = planted()
    d_model, latents = network.model.d_model, network.wiring.features
    new: Any = transcoder({f"layers.{layer}.mlp.norm": d_model}, {f"layers.{layer}.mlp.out": d_model}, latents, Relu())
    new.blocks[0].W_enc[0].copy_(network.encoders[layer])
    new.blocks[0].b_enc.copy_(network.biases[layer])
    new.blocks[0].decoder.W[0].copy_(network.decoders[layer])
    return new.eval()


@torch.no_grad()
def planted_clt() -> Any:
    """All its MLPs, as one cross-layer transcoder in which no layer writes to later ones."""
    network = planted()
    d_model, layers = network.model.d_model, range(network.wiring.layers)
    reads, writes = ({f"layers.{i}.mlp.{side}": d_model for i in layers} for side in ("norm", "out"))
    new: Any = clt(reads, writes, network.wiring.features, Relu())
    for layer, block in enumerate(new.blocks):
        block.W_enc[0].copy_(network.encoders[layer])
        block.b_enc.copy_(network.biases[layer])
        block.decoder.W[0].copy_(network.decoders[layer])
    return new.eval()


def silent(widths, *, writes=None):
    """A dictionary that writes nothing."""
    new = sae(widths, 4, TopK(k=1)) if writes is None else transcoder(widths, writes, 4, TopK(k=1))
    with torch.no_grad():
        new.blocks[0].b_enc.fill_(-1)
    return new.eval()
