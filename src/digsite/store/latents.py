"""`Latents`: which latents fire in each row, and how strongly; the one form in which sparse codes are held.

Two layouts, one meaning. Where every row has the same number of entries they are rectangles `[row, k]`; elsewhere the
entries of all rows lie one after the other, and `offsets` says where each row begins (compressed sparse rows, CSR).
An entry may be zero; it then does not fire.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from digsite._core.errors import BadInput, ShapeMismatch, explain


@dataclass(frozen=True, eq=False)
class Latents:
    """Sparse codes: the value and the index of every entry of every row.

    Attributes:
        values: How strongly, [row, k] or [entry].
        indices: Which latent, of the same shape.
        width: How many latents there are.
        offsets: Where each row's entries begin, and after the last row their number, [row + 1]; None where entries are
            a rectangle.
    """

    values: Float[Tensor, "*entries"]
    indices: Int[Tensor, "*entries"]
    width: int
    offsets: Int[Tensor, " bounds"] | None = None

    def __post_init__(self):
        rectangle = self.offsets is None
        if self.values.shape != self.indices.shape or self.values.ndim != (2 if rectangle else 1):
            raise ShapeMismatch(
                explain(
                    "Values and indices of latents are of one shape",
                    found=f"values {list(self.values.shape)}, indices {list(self.indices.shape)}",
                    possible="[row, k] both, or [entry] both with offsets",
                )
            )

    # -- shapes ----------------------------------------------------------------------------------------------------
    def __len__(self) -> int:
        """Rows."""
        return len(self.values) if self.offsets is None else len(self.offsets) - 1

    @property
    def entries(self) -> int:
        """How many entries are held, those of value zero included."""
        return self.values.numel()

    @property
    def rows(self) -> Int[Tensor, " entry"]:
        """The row of every entry, in the order of `flat`."""
        every = torch.arange(len(self), device=self.values.device)
        if self.offsets is None:
            return every.repeat_interleave(self.values.shape[1])
        return every.repeat_interleave(self.offsets.diff(), output_size=self.entries)

    @property
    def bounds(self) -> Int[Tensor, " bounds"]:
        """Where each row begins among all entries, and their number."""
        if self.offsets is not None:
            return self.offsets
        k = self.values.shape[1]
        return (
            torch.arange(0, len(self) * k + 1, k, device=self.values.device)
            if k
            else torch.zeros(len(self) + 1, dtype=torch.long, device=self.values.device)
        )

    @property
    def flat(self) -> tuple[Float[Tensor, " entry"], Int[Tensor, " entry"]]:
        """Values and indices of all entries, one after the other."""
        return self.values.reshape(-1), self.indices.reshape(-1)

    # -- what fires ------------------------------------------------------------------------------------------------
    def count(self) -> Int[Tensor, " row"]:
        """How many latents fire in each row (L0)."""
        values, _ = self.flat
        return torch.zeros(len(self), dtype=torch.long, device=values.device).index_add_(
            0, self.rows, (values != 0).long()
        )

    def fired(self) -> Int[Tensor, " latent"]:
        """In how many rows each latent fires."""
        values, indices = self.flat
        return torch.bincount(indices[values != 0], minlength=self.width)

    def dense(self) -> Float[Tensor, "row latent"]:
        """The codes with all their zeros: width numbers a row. For small widths and for tests."""
        values, indices = self.flat
        full = torch.zeros(len(self), self.width, dtype=values.dtype, device=values.device)
        return full.index_put((self.rows, indices), values, accumulate=True)

    # -- other latents ---------------------------------------------------------------------------------------------
    def with_values(self, values: Float[Tensor, "*entries"]) -> "Latents":
        """The same places with other values."""
        return Latents(values.reshape(self.indices.shape), self.indices, self.width, self.offsets)

    def detach(self) -> "Latents":
        """The same codes off the autograd path."""
        return self.with_values(self.values.detach())

    def to(self, device: str | torch.device) -> "Latents":
        """The same codes on another device."""
        offsets = None if self.offsets is None else self.offsets.to(device)
        return Latents(self.values.to(device), self.indices.to(device), self.width, offsets)

    def take(self, rows: slice | Int[Tensor, " chosen"]) -> "Latents":
        """Some of the rows, in the order given."""
        if self.offsets is None:
            return Latents(self.values[rows], self.indices[rows], self.width)
        if isinstance(rows, slice) and rows.step in (None, 1):  # their entries lie together
            start, stop, _ = rows.indices(len(self))
            offsets = self.offsets[start : max(start, stop) + 1]
            entries = slice(int(offsets[0]), int(offsets[-1]))
            return Latents(self.values[entries], self.indices[entries], self.width, offsets - offsets[0])
        picked = torch.arange(len(self), device=self.values.device)[rows]
        counts = self.offsets.diff()[picked]
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        within = torch.arange(int(offsets[-1]), device=picked.device) - offsets[:-1].repeat_interleave(counts)
        entries = self.offsets[picked].repeat_interleave(counts) + within
        return Latents(self.values[entries], self.indices[entries], self.width, offsets)

    @staticmethod
    def of(dense: Float[Tensor, "row latent"]) -> "Latents":
        """The entries of a dense matrix that are not zero; on the autograd path."""
        where = dense.detach().nonzero()
        counts = torch.bincount(where[:, 0], minlength=len(dense))
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return Latents(dense[where[:, 0], where[:, 1]], where[:, 1], dense.shape[1], offsets)

    @staticmethod
    def join(parts: Sequence["Latents"]) -> "Latents":
        """Rows of several, one after the other.

        Raises:
            BadInput: There is nothing to join, or the widths differ.
        """
        if len({part.width for part in parts}) != 1:
            found = ", ".join(str(part.width) for part in parts) or "nothing"
            raise BadInput(explain("Latents of one width can be joined", found=f"widths {found}"))
        if all(part.offsets is None and part.values.shape[1] == parts[0].values.shape[1] for part in parts):
            values, indices = (torch.cat([getattr(part, name) for part in parts]) for name in ("values", "indices"))
            return Latents(values, indices, parts[0].width)
        counts = torch.cat([part.bounds.diff() for part in parts])
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        values, indices = (torch.cat(lists) for lists in zip(*(part.flat for part in parts), strict=True))
        return Latents(values, indices, parts[0].width, offsets)

    def __repr__(self) -> str:
        return f"Latents of {len(self)} rows, {self.entries} entries, width {self.width}"
