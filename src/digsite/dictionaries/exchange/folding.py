"""The same dictionary without scales: what other libraries can hold.

A column with scale s is read as x / s and written as s × what the decoders make. So with scales s of what is read and
t of what is written, ::

    W_enc ← W_enc / s      W_dec, b_dec, tokens ← t × …      W_skip ← W_skip × t / s

leave every pre-activation, every latent and every output as it was. (A centred block reads x / s - b_dec, which is
(x - s b_dec) / s.) Gates that choose by the decoder's length keep their choice: a threshold on them is multiplied by t.
"""

import copy
from dataclasses import replace
from typing import Any

import torch

from digsite._core.errors import Unsupported, explain
from digsite.dictionaries.config import LowRank, PerSource, Transforms
from digsite.dictionaries.dictionary import Block, Dictionary


def folded(dictionary: Dictionary) -> Dictionary:
    """An equal dictionary whose columns all have scale 1.

    Args:
        dictionary: It stays as it is.

    Raises:
        Unsupported: Latents write one row to columns of several scales, or are chosen by the length of what they write
            to such columns.

    Caveats:
        A norm of each row (`Column.each_row`) is no scale and stays.
    """
    columns, done = dictionary.config.columns, set()
    new = copy.deepcopy(dictionary)
    new.config = replace(new.config, columns={name: replace(column, scale=1.0) for name, column in columns.items()})
    with torch.no_grad():
        for block in new.blocks:
            _fold_reading(block, [columns[name].scale for name in block.config.reads])
            _fold_writing(block, [columns[name].scale for name in block.config.writes], done)
        for i, name in enumerate(new.writes):
            for x in [new.b_dec[i], *([] if new.tokens is None else [new.tokens[i]])]:
                x.mul_(columns[name].scale)
    return new


def thresholds(block: Block) -> torch.Tensor:
    """The threshold of every latent of a jumprelu or batchtopk block, in units of the pre-activation.

    A batchtopk gate by length compares π × |d| with its one threshold, which is π with threshold / |d|.
    """
    threshold = block.own("threshold").detach()
    if block.config.activation.kind == "jumprelu":
        return threshold
    each = threshold.expand(block.config.latents)
    by_norm = getattr(block.config.activation, "by_norm", False)
    return (each / block.norms().detach().clamp_min(1e-30) if by_norm else each).clone()


def _fold_reading(block: Block, scales: list[float]) -> None:
    for W, scale in zip(block.W_enc, scales, strict=True):
        W.div_(scale)
    for W in block.W_skip or ():
        W.div_(scales[0])
    if isinstance(block.config.decoder, Transforms):
        decoder: Any = block.decoder
        for V in decoder.V:
            V.div_(scales[0])


def _fold_writing(block: Block, scales: list[float], done: set[int]) -> None:
    decoder: Any = block.decoder
    one_row = isinstance(block.config.decoder, PerSource | LowRank) or getattr(decoder, "common", None) is not None
    by_norm = getattr(block.config.activation, "by_norm", False)
    if len(set(scales)) > 1 and (one_row or by_norm):
        why = "are chosen by the length of what they write" if by_norm else "write one row"
        asked = f"Latents of this dictionary {why} to columns of several scales"
        raise Unsupported(explain(asked, found=f"scales {scales}", do="Train it with one scale for all columns"))
    if by_norm and block.config.activation.kind == "batchtopk":
        block.own("threshold").mul_(scales[0])
    for W, scale in zip(block.W_skip or (), scales, strict=bool(block.W_skip)):
        W.mul_(scale)
    if isinstance(block.config.decoder, Transforms):
        pieces = [(U, scale) for group, scale in zip(decoder.U, scales, strict=True) for U in group]
    elif isinstance(block.config.decoder, LowRank):
        pieces = [(x, scales[0]) for x in (decoder.W, *decoder.up)]
    else:
        pieces = list(zip(decoder.W, scales, strict=True))
        if decoder.common is not None:
            pieces.append((decoder.common, scales[0]))
    for x, scale in pieces:
        if id(x) not in done:  # tied matrices stand in several places
            done.add(id(x))
            x.mul_(scale)
