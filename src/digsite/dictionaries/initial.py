"""The first numbers of a dictionary: decoder rows at random, and encoders along them."""

import math

import torch

from digsite.dictionaries.config import Transforms
from digsite.dictionaries.dictionary import Block, Dictionary


def initialise(dictionary: Dictionary, *, seed: int, length: float = 1.0, gain: float = 1.0) -> Dictionary:
    """Draw the first numbers of a dictionary in place.

    Decoder rows have random directions and one length. The encoder is the decoder of the same column times `gain`
    (divided by `length`) where a block reads what it writes, else random directions. Biases and skips are zero.

    Args:
        dictionary: What is filled.
        seed: Of the draw.
        length: Of every decoder row, in each written column.
        gain: Length of every encoder row.

    Returns:
        The same dictionary.
    """
    drawn = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for x in dictionary.parameters():
            if x.ndim > 1:
                x.zero_()
        for block in dictionary.blocks:
            _decoder(block, length, drawn)
            for name, W in zip(block.config.reads, block.W_enc, strict=True):
                same = name in block.config.writes and not isinstance(block.config.decoder, Transforms)
                W.copy_(_unit(block.W_dec(name)) if same else _directions(W.shape, drawn)).mul_(gain)
    return dictionary


def _decoder(block: Block, length: float, drawn: torch.Generator) -> None:
    """Random rows; maps of low rank get a Frobenius norm of about `length`, thin additions begin at zero."""
    for name, x in block.decoder.named_parameters():
        if isinstance(block.config.decoder, Transforms):
            x.copy_(torch.randn(x.shape, generator=drawn) * math.sqrt(length / math.sqrt(x[0].numel())))
        elif "down" not in name and not x.any():
            x.copy_(_directions(x.shape, drawn) * length)


def _directions(shape: torch.Size, drawn: torch.Generator) -> torch.Tensor:
    return _unit(torch.randn(shape, generator=drawn))


def _unit(x: torch.Tensor) -> torch.Tensor:
    return x / x.norm(dim=1, keepdim=True).clamp_min(1e-30)
