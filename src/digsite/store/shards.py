"""The files of one shard: its tokens, the rows of a column, or the latents of a dictionary.

- tokens: `ids` [row], `places` [row, 2] (number of the sequence, position), both int32
- a column: `values` [row, width], or with int8 `codes` [row, width], `scale` [row], `rms` [width]; and its sums
- latents: `offsets` [row + 1] int64, `indices` [entry] uint16 or (large widths) int32, `values` [entry] fp16
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import safetensors.torch
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from digsite._core.errors import LoadError, explain
from digsite.store.encodings import encode
from digsite.store.latents import Latents
from digsite.store.manifest import Entry
from digsite.store.rows import Rows
from digsite.store.sums import Sums

FP16_MAX = 65504.0


@runtime_checkable
class Encoder(Protocol):
    """Whatever turns rows into latents: a `Dictionary`, or something like it."""

    @property
    def reads(self) -> Sequence[str]:
        """The columns that it reads."""
        ...

    @property
    def width(self) -> int:
        """How many latents it has, all blocks together."""
        ...

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits that identify it."""
        ...

    def encode(self, rows: Rows) -> Sequence[Latents]:
        """For each block, which latents fire in each row, and how strongly."""
        ...


def encoded(encoder: Encoder, parts: Sequence[Rows]) -> Latents:
    """The latents of rows that come in pieces; those of several blocks side by side, the first block's first."""
    with torch.no_grad():
        return Latents.join([_side_by_side(encoder.encode(part)) for part in parts])


def _side_by_side(blocks: Sequence[Latents]) -> Latents:
    if len(blocks) == 1:
        return blocks[0]
    width = sum(block.width for block in blocks)
    rows = torch.cat([block.rows for block in blocks])
    order = rows.argsort(stable=True)
    values = torch.cat([block.flat[0] for block in blocks])[order]
    first = [sum(block.width for block in blocks[:i]) for i in range(len(blocks))]
    indices = torch.cat([block.flat[1] + start for block, start in zip(blocks, first, strict=True)])[order]
    counts = torch.stack([block.bounds.diff() for block in blocks]).sum(0)
    return Latents(values, indices, width, torch.cat([counts.new_zeros(1), counts.cumsum(0)]))


def tokens_shard(parts: Sequence[Rows]) -> dict[str, Tensor]:
    """The tensors of a shard of tokens: none, where rows are of no text."""
    kept = {"ids": [part.ids for part in parts], "places": [part.places for part in parts]}
    there = {name: [x for x in pieces if x is not None] for name, pieces in kept.items()}
    return {name: torch.cat(pieces).to(torch.int32) for name, pieces in there.items() if len(pieces) == len(parts)}


def rows_shard(
    x: Float[Tensor, "row width"], sums: Sums, encoding: str, *, rms: Float[Tensor, " width"] | None, column: str
) -> dict[str, Tensor]:
    """The tensors of a shard of a column."""
    return {**encode(x, encoding, rms=rms, column=column), **sums.tensors()}


def latents_shard(latents: Latents) -> dict[str, Tensor]:
    """The tensors of a shard of latents; entries of value zero are left out, as are the gradients."""
    values, indices = latents.detach().to("cpu").flat
    fires = values != 0
    counts = torch.bincount(latents.rows.to("cpu")[fires], minlength=len(latents))
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    small = latents.width <= 2**16
    return {
        "offsets": offsets,
        "indices": indices[fires].to(torch.uint16 if small else torch.int32),
        "values": values[fires].clamp(-FP16_MAX, FP16_MAX).half(),
    }


def as_bytes(tensors: dict[str, Tensor]) -> tuple[bytes, Entry]:
    """The content of a file, and what the manifest says of it."""
    data = safetensors.torch.save(tensors)
    return data, Entry(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def open_shard(path: Path) -> dict[str, Tensor]:
    """The tensors of a shard; their numbers are read from the disk when they are used.

    Raises:
        LoadError: It is not a safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise LoadError(
            explain(
                f"The shard {path} cannot be read",
                found=str(error),
                do="delete it and run the same harvest again: it writes this shard anew",
            )
        ) from error
