"""`Store`: activations and latents on disk, read as any other source."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from digsite._core.errors import BadInput, LoadError, explain
from digsite.store.encodings import decode
from digsite.store.gathering import bits, picked, room
from digsite.store.latents import Latents
from digsite.store.manifest import LATENTS, TOKENS, Manifest
from digsite.store.places import place_of
from digsite.store.rows import Rows, Statistics
from digsite.store.shards import open_shard
from digsite.store.sums import Sums

_CHUNK = 8192
"""Rows in a chunk."""
_BLOCK = 2048
"""Rows that are gathered and put in their place while they are in the processor's cache."""


class TokensAt(NamedTuple):
    """Which tokens some rows are, and where they stand.

    Attributes:
        ids: The token of each row.
        sequences: The number of its sequence in the corpus.
        positions: Its position in the sequence.
    """

    ids: Int[Tensor, " row"]
    sequences: Int[Tensor, " row"]
    positions: Int[Tensor, " row"]


class Store:
    """Rows on disk: a source that can also be read at random. `harvest` writes one.

    Attributes:
        place: Where it is.
        manifest: What it says of itself.
        widths: The columns, with how many numbers a row of each has.
        latents: The columns of latents, with the width of their dictionary.
        rows: How many rows can be read.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        columns: Sequence[str] | None = None,
        partial: bool = False,
        cached: Path | None = None,
    ):
        """Opens a store; nothing but its manifest and the sizes of its files is read.

        Args:
            folder: Where `harvest` wrote it: a folder, or a URL such as s3://bucket/folder.
            columns: The columns to read; None for all.
            partial: Read what there is of a harvest that was stopped: the rows that all columns have.
            cached: Where copies of objects are kept; unless given, DIGSITE_CACHE, or .cache/digsite at home.

        Raises:
            LoadError: There is no store, or a shard is missing or not whole.
            BadInput: It lacks a column, or the harvest was not finished.
        """
        self.place = place_of(folder, cached)
        manifest = Manifest.load(self.place)
        if manifest is None:
            raise LoadError(explain(f"There is no store in {folder}", found="no manifest.json", do="harvest one"))
        self.manifest = manifest
        chosen = list(manifest.columns) if columns is None else list(columns)
        for column in chosen:
            if column not in manifest.columns:
                raise BadInput(explain(f"{folder} has no column {column}", possible=manifest.columns, near=column))
        kinds = {column: manifest.columns[column] for column in chosen}
        self.widths: Mapping[str, int] = {c: kind.width for c, kind in kinds.items() if kind.encoding != LATENTS}
        self.latents: Mapping[str, int] = {c: kind.width for c, kind in kinds.items() if kind.encoding == LATENTS}
        self._whole = self._usable(chosen, partial=partial)
        self.rows = manifest.shards[self._whole - 1][1] if self._whole else 0
        self._open: dict[tuple[str, int], dict[str, Tensor]] = {}
        self._check_sizes(chosen)

    def _usable(self, columns: Sequence[str], *, partial: bool) -> int:
        """How many shards all columns have."""
        written = {column: self.manifest.written(column) for column in columns}
        least, all_ = min(written.values(), default=0), len(self.manifest.shards)
        if (least < all_ and not partial) or not least:
            short = ", ".join(f"{c} has {n} of {all_} shards" for c, n in written.items() if n < all_)
            raise BadInput(
                explain(
                    f"The harvest of {self.place} was not finished",
                    found=short or "no column",
                    do="run the same harvest again, which goes on where it was stopped"
                    + (", or read what is there with Store(folder, partial=True)" if least else ""),
                )
            )
        return least

    def _check_sizes(self, columns: Sequence[str]) -> None:
        names = [self.manifest.file(c, shard) for c in (TOKENS, *columns) for shard in range(self._whole)]
        sizes = {name: self.manifest.files[name].bytes for name in names}
        broken = [name for name, size in sizes.items() if not self.place.whole(name, size)]
        if broken:
            found = self.place.size(broken[0])
            more = f", and {len(broken) - 1} more" if len(broken) > 1 else ""
            raise LoadError(
                explain(
                    f"Shard {broken[0]} of {self.place} is not whole",
                    found=("it is not there" if found is None else f"{found} of {sizes[broken[0]]} bytes") + more,
                    do="run the same harvest again: it writes what is missing anew",
                )
            )

    # -- what it is ------------------------------------------------------------------------------------------------
    @property
    def identity(self) -> Mapping[str, str]:
        """Model, weights, tokens: as the source said that was harvested."""
        return self.manifest.identity

    @property
    def shards(self) -> list[tuple[int, int]]:
        """First row and end of every shard: where reading can start cheaply."""
        return self.manifest.shards[: self._whole]

    @property
    def bytes(self) -> int:
        """Bytes of its files."""
        return sum(entry.bytes for entry in self.manifest.files.values())

    def statistics(self, column: str) -> Statistics:
        """Mean, square and norm of a column over all its rows, as they were before they were encoded."""
        self._known(column, self.widths)
        if column not in self._statistics:
            self._statistics[column] = Sums.add(
                Sums.read(self._shard(column, shard)) for shard in range(self._whole)
            ).statistics()
        return self._statistics[column]

    @cached_property
    def _statistics(self) -> dict[str, Statistics]:
        return {}

    # -- reading ---------------------------------------------------------------------------------------------------
    def chunks(self, start: int = 0) -> Iterator[Rows]:
        """The rows in order from number `start` on, 8,192 at a time."""
        for shard, (first, stop) in enumerate(self.shards):
            tensors = {column: self._shard(column, shard) for column in self.widths}
            tokens = self._shard(TOKENS, shard)
            for begin in range(max(first, start), stop, _CHUNK):
                rows = slice(begin - first, min(begin + _CHUNK, stop) - first)
                columns = {column: decode(_rows_of(some, rows)) for column, some in tensors.items()}
                ids, places = (tokens[name][rows].long() if name in tokens else None for name in ("ids", "places"))
                yield Rows(columns, ids, torch.arange(begin, first + rows.stop), places)

    def rows_at(self, numbers: Int[Tensor, " chosen"]) -> Rows:
        """The rows of these numbers, in the order given."""
        where = self._where(numbers)
        columns = {column: decode(self._gathered(column, where, len(numbers))) for column in self.widths}
        tokens = self._gathered(TOKENS, where, len(numbers))
        ids, places = (tokens[name].long() if name in tokens else None for name in ("ids", "places"))
        return Rows(columns, ids, numbers, places)

    def tokens_at(self, numbers: Int[Tensor, " chosen"]) -> TokensAt:
        """Which tokens these rows are.

        Raises:
            BadInput: The rows are of no text.
        """
        found = self._gathered(TOKENS, self._where(numbers), len(numbers))
        if "ids" not in found or "places" not in found:
            raise BadInput(explain(f"The rows of {self.place} are of no text"))
        return TokensAt(found["ids"].long(), *found["places"].long().unbind(1))

    def latents_at(self, column: str, numbers: Int[Tensor, " chosen"] | slice) -> Latents:
        """The latents of these rows, in the order given; a slice reads rows that follow each other."""
        self._known(column, self.latents)
        if isinstance(numbers, slice):
            numbers = torch.arange(self.rows)[numbers]
        if not len(numbers):
            empty = torch.zeros(0, dtype=torch.long)
            return Latents(empty.half(), empty, self.latents[column], torch.zeros(1, dtype=torch.long))
        where = self._where(numbers)
        parts = [self._latents(column, shard).take(local) for shard, _, local in where]
        back = torch.cat([places for _, places, _ in where]).argsort()
        found = Latents.join(parts)
        found = found if len(parts) == 1 else found.take(back)
        indices = found.indices.int() & 0xFFFF if found.indices.dtype == torch.int16 else found.indices
        return Latents(found.values, indices.long(), found.width, found.offsets)

    def _latents(self, column: str, shard: int) -> Latents:
        some = self._shard(column, shard)
        indices = some["indices"]  # torch can take few rows of unsigned numbers, so they are looked at as signed ones
        indices = indices.view(torch.int16) if indices.dtype == torch.uint16 else indices
        return Latents(some["values"], indices, self.latents[column], some["offsets"])

    def _where(self, numbers: Int[Tensor, " chosen"]) -> list[tuple[int, Tensor, Tensor]]:
        """For each shard that holds some of the rows: their places in the order given, and in the shard."""
        if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < self.rows:
            wrong = int(numbers.min()) if numbers.min() < 0 else int(numbers.max())
            raise BadInput(explain(f"There is no row {wrong}", possible=f"0 to {self.rows - 1}"))
        shard = numbers // self.manifest.shard_rows
        some = shard.unique().tolist()
        if len(some) == 1:
            return [(some[0], torch.arange(len(numbers)), numbers - some[0] * self.manifest.shard_rows)]
        places = [(one, (shard == one).nonzero().squeeze(1)) for one in some]
        return [(one, there, numbers[there] - one * self.manifest.shard_rows) for one, there in places]

    def _gathered(self, column: str, where: list[tuple[int, Tensor, Tensor]], count: int) -> dict[str, Tensor]:
        """A shard's tensors for these rows alone, from all shards that hold some."""
        kinds = self._shard(column, where[0][0] if where else 0)
        found = {name: x for name, x in kinds.items() if name == "rms"}
        for name in ("values", "codes", "scale", "ids", "places"):
            if name not in kinds:
                continue
            if len(where) == 1:
                found[name] = picked(self._shard(column, where[0][0])[name], where[0][2].numpy())
                continue
            found[name] = room(count, kinds[name])
            out = bits(found[name])
            for shard, places, local in where:
                some, into, from_ = bits(self._shard(column, shard)[name]), places.numpy(), local.numpy()
                for start in range(0, len(into), _BLOCK):
                    out[into[start : start + _BLOCK]] = some[from_[start : start + _BLOCK]]
        return found

    # -- files -----------------------------------------------------------------------------------------------------
    def verify(self) -> None:
        """Reads every file and compares its digest with the manifest's.

        Raises:
            LoadError: Some are not what was written; it names them all.
        """
        wrong = [
            name
            for name, entry in self.manifest.files.items()
            if hashlib.sha256(self.place.read(name)).hexdigest() != entry.sha256
        ]
        if wrong:
            raise LoadError(
                explain(
                    f"Files of {self.place} are not what was written",
                    found=", ".join(wrong),
                    do="delete them and run the same harvest again: it writes them anew",
                )
            )

    def _shard(self, column: str, shard: int) -> dict[str, Tensor]:
        if (column, shard) not in self._open:
            name = self.manifest.file(column, shard)
            self._open[column, shard] = open_shard(self.place.local(name, self.manifest.files[name].sha256))
        return self._open[column, shard]

    def _known(self, column: str, there: Mapping[str, int]) -> None:
        if column not in there:
            raise BadInput(explain(f"{self.place} has no column {column}", possible=there or "none", near=column))

    def __repr__(self) -> str:
        kinds = ", ".join(f"{c} ({self.manifest.columns[c].encoding})" for c in (*self.widths, *self.latents))
        return f"Store {self.place}: {self.rows:,} rows in {self._whole} shard{'s' * (self._whole != 1)}; {kinds}"


def _rows_of(tensors: Mapping[str, Tensor], rows: slice) -> dict[str, Tensor]:
    return {name: x if name == "rms" else x[rows] for name, x in tensors.items() if not name.startswith("sums.")}
