"""How latents become what is written: one small module for each kind in `config.Decoder`.

Each gives what its block adds to a column, and its matrix, from which geometry and norms are read.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from digsite.dictionaries.config import BlockConfig, Column, Free, LowRank, PerSource, PerTarget, Transforms
from digsite.dictionaries.kernels import decode, frobenius
from digsite.store import Latents


class Matrices(nn.Module):
    """A matrix [latent, width] for every written column; the first latents may have one row for all columns.

    Attributes:
        W: The matrices; of columns that share one, or of blocks that do, the same parameter stands in several places.
        common: The rows of the first latents, for all columns.
    """

    W: Sequence[Tensor]

    def __init__(self, W: list[nn.Parameter], common: nn.Parameter | None = None):
        super().__init__()
        self.W, self.common = parameters(W), common

    def matrix(self, target: int) -> Float[Tensor, "latent d"]:
        """What every latent writes to a column."""
        return self.W[target] if self.common is None else torch.cat([self.common, self.W[target]])

    def forward(self, latents: Latents, target: int, x: Tensor | None) -> Float[Tensor, "row d"]:
        """What the block adds to a column."""
        return decode(latents, self.matrix(target))


class Thin(nn.Module):
    """A matrix for the first column; further ones add up @ down to it (`LowRank`)."""

    up: Sequence[Tensor]
    down: Sequence[Tensor]

    def __init__(self, latents: int, widths: list[int], rank: int):
        super().__init__()
        self.W = nn.Parameter(torch.zeros(latents, widths[0]))
        self.up = parameters(torch.zeros(latents, rank) for _ in widths[1:])
        self.down = parameters(torch.zeros(rank, width) for width in widths[1:])

    def matrix(self, target: int) -> Float[Tensor, "latent d"]:
        """What every latent writes to a column."""
        return self.W if target == 0 else self.W + self.up[target - 1] @ self.down[target - 1]

    def forward(self, latents: Latents, target: int, x: Tensor | None) -> Float[Tensor, "row d"]:
        """What the block adds to a column."""
        own = decode(latents, self.W)
        return own if target == 0 else own + decode(latents, self.up[target - 1]) @ self.down[target - 1]


class Maps(nn.Module):
    """A linear map of low rank for every latent (`Transforms`)."""

    U: Sequence[Sequence[Tensor]]
    V: Sequence[Tensor]

    def __init__(self, ranks: tuple[tuple[int, int], ...], width_in: int, widths: list[int]):
        super().__init__()
        self.V = parameters(torch.zeros(count, rank, width_in) for count, rank in ranks)
        self.U = _modules(parameters(torch.zeros(count, width, rank) for count, rank in ranks) for width in widths)

    def matrix(self, target: int) -> Float[Tensor, "latent d"]:
        """The length that every map has (Frobenius), as a matrix of one column."""
        pairs = zip(self.U[target], self.V, strict=True)
        return torch.cat([frobenius(U, V) for U, V in pairs])[:, None]

    def forward(self, latents: Latents, target: int, x: Float[Tensor, "row d"]) -> Float[Tensor, "row e"]:
        """What the block adds to a column: only rows where a map is active go through it."""
        values, indices = latents.flat
        order = indices.argsort(stable=True)
        rows, values = latents.rows[order], values[order]
        bounds = torch.bincount(indices, minlength=latents.width).cumsum(0).tolist()
        widths = self.U[target][0].shape[1]
        out, start, first = x.new_zeros(len(x), widths), 0, 0
        pieces, places = [], []
        for U, V in zip(self.U[target], self.V, strict=True):
            for t in range(len(V)):
                stop = bounds[first + t]
                if stop > start:
                    at = rows[start:stop]
                    pieces.append((x[at] @ V[t].T * values[start:stop, None]) @ U[t].T)
                    places.append(at)
                start = stop
            first += len(V)
        return out.index_add(0, torch.cat(places), torch.cat(pieces)) if pieces else out


def decoder_of(
    config: BlockConfig, columns: Mapping[str, Column], targets: dict[str, nn.Parameter]
) -> Matrices | Thin | Maps:
    """The decoder of a block.

    Args:
        config: The block.
        columns: Widths by name.
        targets: Matrices that belong to columns, by name (`PerTarget`); those that are missing are made.
    """
    widths = [columns[name].width for name in config.writes]
    match config.decoder:
        case Free(shared=shared):
            own = [_empty(config.latents - shared, width) for width in widths]
            return Matrices(own, _empty(shared, widths[0]) if shared else None)
        case PerSource():
            return Matrices([_empty(config.latents, widths[0])] * len(widths))
        case PerTarget():
            return Matrices(
                [targets.setdefault(name, _empty(config.latents, columns[name].width)) for name in config.writes]
            )
        case LowRank(rank=rank):
            return Thin(config.latents, widths, rank)
        case Transforms(ranks=ranks):
            return Maps(ranks, columns[config.reads[0]].width, widths)


def parameters(tensors: Iterable[Tensor]) -> Any:
    """A list of parameters."""
    return nn.ParameterList(tensors)


def _modules(modules: Iterable[nn.Module]) -> Any:
    return nn.ModuleList(modules)


def _empty(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape))
