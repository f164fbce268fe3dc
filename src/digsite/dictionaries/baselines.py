"""What a dictionary has to beat, each as a dictionary of its own, so that the same numbers stand beside.

1. `step 0`: the same dictionary before training, its biases at the mean.
2. `PCA`: as many principal components as latents fire (where a block writes what it reads).
3. `dense linear map` and `linear map of rank L0`: by ridge regression (where it writes something else).
4. `raw neurons`: as many of the largest neurons as latents fire; of a site without neurons its coordinates.
All are fitted on other text than they are judged on.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from digsite.dictionaries.activations import AbsTopK, TopK
from digsite.dictionaries.config import BlockConfig, Column, DictionaryConfig
from digsite.dictionaries.dictionary import Dictionary
from digsite.dictionaries.initial import initialise
from digsite.dictionaries.moments import Moments
from digsite.dictionaries.splice import site_of
from digsite.models import Model


def step_0(dictionary: Dictionary, moments: Moments, seed: int) -> Dictionary:
    """1. The same dictionary before training; where a batch decides which latents fire it still does."""
    new = initialise(Dictionary(dictionary.config), seed=seed).to(dictionary.b_dec[0].device)
    return _centred(new, moments).train()


def principal_components(dictionary: Dictionary, moments: Moments, active: list[float]) -> Dictionary | None:
    """2. As many components as latents fire, in each block that writes what it reads; None where one does not.

    Args:
        dictionary: What is judged.
        moments: Of the rows it reads and writes.
        active: Latents that fire in each block, on average.
    """
    if any(set(block.config.reads) != set(block.config.writes) for block in dictionary.blocks):
        return None
    plans: list[BlockConfig] = []
    found: list[Tensor] = []
    for block, mean_active in zip(dictionary.blocks, active, strict=True):
        names = block.config.reads
        width = sum(dictionary.config.columns[name].width for name in names)
        count = _count(mean_active, width)
        found.append(moments.components(names, count))
        plans.append(_block(names, block.config.writes, count, AbsTopK(k=count), centred=True))
    new = _like(dictionary, "PCA", plans)
    for block, components in zip(new.blocks, found, strict=True):
        widths = [new.config.columns[name].width for name in block.config.reads]
        parts = torch.split(components.float(), widths, dim=1)
        for W_enc, W, part in zip(block.W_enc, _decoders(block), parts, strict=True):
            W_enc.data.copy_(part)
            W.data.copy_(part)
    return _centred(new, moments)


def linear_maps(dictionary: Dictionary, moments: Moments, active: list[float]) -> dict[str, Dictionary]:
    """3. The best linear maps from what each block reads to the first column it writes; none where it writes that."""
    routes = dictionary.routes
    if {write for _, write in routes} != set(dictionary.writes):
        return {}
    maps = [moments.linear(*route) for route in routes]
    found = {"dense linear map": _dense(dictionary, routes, maps, moments)}
    ranks = [_count(each, min(A.shape)) for each, A in zip(active, maps, strict=True)]
    thin = [
        _rank(A, moments.covariance([read], [read]), r) for (read, _), A, r in zip(routes, maps, ranks, strict=True)
    ]
    plans = [_block((read,), (write,), r, AbsTopK(k=r)) for (read, write), r in zip(routes, ranks, strict=True)]
    low = _like(dictionary, "linear map", plans)
    for block, (out, into), (read, write) in zip(low.blocks, thin, routes, strict=True):
        block.W_enc[0].data.copy_(into.float())
        block.b_enc.data.copy_(-(into @ moments.mean(read)).float())
        _decoders(block)[0].data.copy_(out.float())
        low.bias(write).data.copy_(moments.mean(write).float())
    return found | {"linear map of rank L0": low.eval()}


def raw_neurons(
    model_of: Callable[[str], Model], dictionary: Dictionary, moments: Moments, active: list[float]
) -> Dictionary | None:
    """4. The largest neurons of an MLP, or the largest coordinates of what is read; None where there is neither.

    Args:
        model_of: The model of a column.
        dictionary: What is judged.
        moments: Of the rows it reads and writes.
        active: Latents that fire in each block, on average.
    """
    plans, fill, columns, biases = [], [], dict(dictionary.config.columns), {}
    for block, mean_active in zip(dictionary.blocks, active, strict=True):
        reads, write = block.config.reads, block.config.writes[0]
        if set(reads) == set(block.config.writes):
            width = sum(columns[name].width for name in reads)
            k = _count(mean_active, width)
            plans.append(_block(reads, block.config.writes, width, AbsTopK(k=k), centred=True))
            parts = torch.eye(width).split([columns[name].width for name in reads], 1)
            fill.append((parts, parts))
            biases |= {name: moments.mean(name) for name in reads}
            continue
        if len(reads) > 1 or not site_of(write).endswith(".mlp.out"):
            return None
        site = write.replace(".mlp.out", ".mlp.act")
        weights, layer = model_of(write).weights, int(site_of(write).split(".")[1])
        W_out = weights.W_out[layer]
        b_out = weights.b_out[layer] if layer in weights.b_out else torch.zeros(W_out.shape[1])
        columns[site] = Column(width=len(W_out))
        plans.append(_block((site,), (write,), len(W_out), AbsTopK(k=_count(mean_active, len(W_out)))))
        fill.append(([torch.eye(len(W_out))], [W_out]))
        biases[write] = b_out
    if set(biases) != set(dictionary.writes):
        return None
    new = _like(dictionary, "neurons", plans, columns)
    for block, (into, out) in zip(new.blocks, fill, strict=True):
        for W_enc, W, a, b in zip(block.W_enc, _decoders(block), into, out, strict=True):
            W_enc.data.copy_(a)
            W.data.copy_(b)
    for name, bias in biases.items():
        new.bias(name).data.copy_(bias.float())
    return new.eval()


def shuffled(rows: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Each coordinate in another random order over the rows: how each is distributed stays, what is together goes."""
    return {
        name: x.gather(0, torch.rand(x.shape, generator=generator).argsort(0).to(x.device)) for name, x in rows.items()
    }


def _dense(dictionary: Dictionary, routes: list[tuple[str, str]], maps: list[Tensor], moments: Moments) -> Dictionary:
    """A dictionary whose one latent is silent, and whose skip does all."""
    plans = [_block((read,), (write,), 1, TopK(k=1), skip=True) for read, write in routes]
    new = _like(dictionary, "linear map", plans)
    for block, A, (read, write) in zip(new.blocks, maps, routes, strict=True):
        block.b_enc.data.fill_(-1)
        assert block.W_skip is not None
        block.W_skip[0].data.copy_(A.float())
        new.bias(write).data.copy_((moments.mean(write) - A @ moments.mean(read)).float())
    return new.eval()


def _rank(A: Tensor, spread: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best map of a rank: A on the principal components of what it gives (reduced rank regression)."""
    values, vectors = torch.linalg.eigh(A @ spread @ A.T)
    out = vectors[:, values.argsort(descending=True)[:rank]].T
    return out, out @ A


def _count(active: float, most: int) -> int:
    return min(max(1, math.ceil(active)), most)


def _block(reads: tuple[str, ...], writes: tuple[str, ...], latents: int, activation: Any, **more: Any) -> BlockConfig:
    return BlockConfig(reads=reads, writes=writes, latents=latents, activation=activation, **more)


def _like(
    dictionary: Dictionary, family: str, blocks: list[BlockConfig], columns: Mapping[str, Column] | None = None
) -> Dictionary:
    """A new dictionary on the device of another, in the units of the model."""
    named = {name for block in blocks for name in (*block.reads, *block.writes)}
    widths = dictionary.config.columns if columns is None else columns
    plain = {name: Column(width=widths[name].width) for name in widths if name in named}
    new = Dictionary(DictionaryConfig(family=family, columns=plain, blocks=tuple(blocks)))
    return new.to(dictionary.b_dec[0].device)


def _centred(dictionary: Dictionary, moments: Moments) -> Dictionary:
    for name in dictionary.writes:
        column = dictionary.config.columns[name]
        if column.each_row == "as it is":  # else each row is brought to its own mean or length, and this is not it
            dictionary.bias(name).data.copy_((moments.mean(name) / column.scale).float())
    return dictionary.to(dictionary.b_dec[0].device).eval()


def _decoders(block: Any) -> list[Tensor]:
    return list(block.decoder.W)
