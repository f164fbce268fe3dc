"""Dictionaries of the known families, new and empty: what is read, what is written, how many latents.

Each takes columns as `{name: width}`; `initialise` gives them their first numbers, `train` their last.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from digsite.dictionaries.activations import Activation, TopK
from digsite.dictionaries.config import BlockConfig, Column, Decoder, DictionaryConfig, Free, Transforms
from digsite.dictionaries.dictionary import Dictionary

Widths = Mapping[str, int]
TOPK, FREE = TopK(k=32), Free()


def sae(
    column: Widths, latents: int, activation: Activation = TOPK, *, prefixes: Sequence[int] = (), tokens: int = 0
) -> Dictionary:
    """A sparse autoencoder: it writes what it reads.

    Args:
        column: The one column, with its width.
        latents: How many.
        activation: What selects them.
        prefixes: Matryoshka: sizes of the nested dictionaries, the last being `latents`.
        tokens: Tokenized: rows of a table that adds one vector for each token; 0 for none.
    """
    (name,) = column
    return _one("sae", (name,), (name,), column, latents, activation, centred=True, prefixes=prefixes, tokens=tokens)


def transcoder(
    reads: Widths, writes: Widths, latents: int, activation: Activation = TOPK, *, skip: bool = False
) -> Dictionary:
    """A transcoder: it reads what goes into a part of the model and writes what comes out.

    Args:
        reads: One column, such as `layers.3.mlp.norm`.
        writes: One column, such as `layers.3.mlp.out`.
        latents: How many.
        activation: What selects them.
        skip: Whether a dense linear map stands beside the latents.

    Source: Dunefsky et al. 2024, arXiv 2406.11944; with a skip Paulo et al. 2025, arXiv 2501.18823.
    """
    return _one("transcoder", tuple(reads), tuple(writes), {**reads, **writes}, latents, activation, skip=skip)


def crosscoder(columns: Widths, latents: int, activation: Activation = TOPK, *, shared: int = 0) -> Dictionary:
    """A crosscoder: one set of latents that reads and writes several layers, or the same layer of several models.

    Args:
        columns: The columns, with their widths.
        latents: How many.
        activation: What selects them.
        shared: The first so many latents write the same to all columns (the February 2025 way to compare two models).

    Source: Lindsey et al. 2024, transformer-circuits.pub/2024/crosscoders.
    """
    names = tuple(columns)
    return _one("crosscoder", names, names, columns, latents, activation, decoder=Free(shared=shared))


def clt(
    reads: Widths, writes: Widths, latents: int, activation: Activation = TOPK, *, decoder: Decoder = FREE
) -> Dictionary:
    """A cross-layer transcoder: each layer's latents write to its own output and to those of all later layers.

    Args:
        reads: One column a layer, in order, such as `layers.0.mlp.norm`, `layers.1.mlp.norm` …
        writes: As many columns, in order, such as `layers.0.mlp.out` …
        latents: How many in each layer.
        activation: What selects them, in each layer.
        decoder: `Free`, or tied: `PerSource`, `PerTarget`, `LowRank`.

    Source: Ameisen et al. 2025, transformer-circuits.pub/2025/attribution-graphs/methods.
    """
    sources, targets = tuple(reads), tuple(writes)
    blocks = tuple(
        BlockConfig(reads=(source,), writes=targets[layer:], latents=latents, activation=activation, decoder=decoder)
        for layer, source in enumerate(sources)
    )
    return Dictionary(DictionaryConfig(family="clt", columns=_columns({**reads, **writes}), blocks=blocks))


def molt(reads: Widths, writes: Widths, ranks: Sequence[tuple[int, int]], activation: Activation) -> Dictionary:
    """A mixture of linear transforms: each latent, where it fires, is a linear map of low rank.

    Args:
        reads: One column.
        writes: One column.
        ranks: How many latents of which rank: ((8, 16), (16, 8)).
        activation: What selects them.

    Source: transformer-circuits.pub/2025/bulk-update.
    """
    latents = sum(count for count, _ in ranks)
    decoder = Transforms(ranks=tuple((count, rank) for count, rank in ranks))
    return _one("molt", tuple(reads), tuple(writes), {**reads, **writes}, latents, activation, decoder=decoder)


def jacobian_pair(before: Widths, after: Widths, latents: int, activation: Activation = TOPK) -> Dictionary:
    """Two SAEs, before and after a part of the model, meant to be trained so that few latents drive few.

    Args:
        before: One column, such as `layers.3.mlp.norm`.
        after: One column, such as `layers.3.mlp.out`.
        latents: How many in each.
        activation: What selects them.

    Source: Farnik et al. 2025, "Jacobian sparse autoencoders", ICML.
    """
    blocks = tuple(
        BlockConfig(reads=(name,), writes=(name,), latents=latents, activation=activation, centred=True)
        for name in (*before, *after)
    )
    return Dictionary(DictionaryConfig(family="jacobian pair", columns=_columns({**before, **after}), blocks=blocks))


def _one(
    family: str,
    reads: tuple[str, ...],
    writes: tuple[str, ...],
    widths: Widths,
    latents: int,
    activation: Activation,
    *,
    tokens: int = 0,
    prefixes: Sequence[int] = (),
    **more: Any,
) -> Dictionary:
    block = BlockConfig(
        reads=reads, writes=writes, latents=latents, activation=activation, prefixes=tuple(prefixes), **more
    )
    return Dictionary(DictionaryConfig(family=family, columns=_columns(widths), blocks=(block,), tokens=tokens))


def _columns(widths: Widths) -> dict[str, Column]:
    return {name: Column(width=width) for name, width in widths.items()}
