"""What a harvest will need, said before it begins: disk, memory and time, from one rehearsal batch."""

import io
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from rich import box
from rich.console import Console, Group
from rich.table import Table

from digsite.models.memory import size_text
from digsite.store.encodings import Encoding, encode, row_bytes
from digsite.store.harvest import Order, settle_order
from digsite.store.manifest import LATENTS
from digsite.store.places import Folder
from digsite.store.rows import Rows, Source
from digsite.store.shards import Encoder, encoded, latents_shard
from digsite.store.sums import Sums

_TOKEN = 12
"""Bytes of a row in the shards of tokens."""


@dataclass(frozen=True, kw_only=True)
class PlannedColumn:
    """One column of a planned harvest: its width, how it is written, and the bytes of a row."""

    name: str
    width: int
    encoding: str
    row_bytes: float


@dataclass(frozen=True, kw_only=True)
class HarvestPlan:
    """What a harvest will need.

    Attributes:
        folder: Where it goes.
        rows: How many rows a whole column will have.
        present: How many of them are there already.
        columns: What is written of each.
        shards: How many.
        disk: Bytes still to be written.
        free: Bytes that are free there; None where it cannot be known.
        memory: Bytes of the rows that are held before they are written, beside the model.
        seconds: About how long it will take here.
        notes: What is odd about the rows of the rehearsal.
    """

    folder: str
    rows: int
    present: int
    columns: tuple[PlannedColumn, ...]
    shards: int
    disk: int
    free: int | None
    memory: int
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def fits(self) -> bool | None:
        """Whether it fits on the disk; None where that cannot be known."""
        return None if self.free is None else self.disk <= self.free

    @property
    def verdict(self) -> str:
        """The answer in one line."""
        there = f" ({self.present:,} are there already)" if self.present else ""
        room = "" if self.free is None else f" of {size_text(self.free)} free"
        fails = "does not fit: " if self.fits is False else ""
        shards = several(self.shards, "shard")
        return (
            f"{fails}{self.rows:,} rows{there} in {shards}: {size_text(self.disk)} of disk{room}, "
            f"{size_text(self.memory)} of memory beside the model, about {_duration(self.seconds)} here"
        )

    def table(self) -> Group:
        """The verdict, every column, and the notes."""
        shown = Table("column", "width", "written as", "bytes a row", box=box.SIMPLE)
        for place in (1, 3):
            shown.columns[place].justify = "right"
        for column in self.columns:
            shown.add_row(column.name, f"{column.width:,}", column.encoding, f"{column.row_bytes:,.0f}")
        return Group(self.verdict, shown, *(f"note: {note}" for note in self.notes))

    def __rich__(self) -> Group:
        return self.table()

    def __repr__(self) -> str:
        console = Console(file=io.StringIO(), width=80)
        console.print(self.table())
        return console.file.getvalue().rstrip()  # pyright: ignore[reportAttributeAccessIssue]


def plan_harvest(
    source: Source,
    folder: str | Path,
    *,
    encoding: Encoding | Mapping[str, Encoding] = "bf16",
    columns: Sequence[str] | None = None,
    latents: Mapping[str, Encoder] | None = None,
    shard_rows: int | None = None,
) -> HarvestPlan:
    """What `harvest` with the same arguments will need; nothing is written.

    Args:
        source: A live model reading a corpus, or another store. Two of its batches are read, and the second is timed.
        folder: Where the harvest will go; what it holds already is counted.
        encoding: How numbers are written.
        columns: The columns to write; None for all.
        latents: Dictionaries whose latents are written.
        shard_rows: Rows in a shard.

    Raises:
        BadInput: What `harvest` would raise before it begins.
        NotFinite: An activation of the rehearsal is a NaN or infinite.

    Units: bytes; seconds on the clock.

    Caveats:
        Time grows with rows; a busy machine is slower than a quiet one. A column that is constant in the rehearsal is
        named in `notes`: it can be written, but there is nothing in it for a dictionary to learn.
    """
    order = settle_order(
        source, folder, encoding=encoding, columns=columns, latents=latents or {}, shard_rows=shard_rows
    )
    manifest = order.manifest
    chunks = islice(source.chunks(), 2)
    first = next(chunks)
    begun = time.perf_counter()
    second = next(chunks, None)
    rehearsed = first if second is None else second
    planned = tuple(_rehearse(order, name, rehearsed) for name in order.columns)
    took = time.perf_counter() - begun
    if second is None:  # there was but one batch, and it was not timed
        begun = time.perf_counter()
        next(source.chunks())
        took += time.perf_counter() - begun
    lacking = {shard: missing for shard in range(len(manifest.shards)) if (missing := order.missing(shard))}
    per_row = {column.name: column.row_bytes for column in planned} | {"tokens": _TOKEN}
    lengths = {shard: stop - start for shard, (start, stop) in enumerate(manifest.shards)}
    todo = sum(lengths[shard] for shard in lacking)
    raw = sum(x.shape[1] * x.itemsize for x in rehearsed.values())
    largest = max((2 * column.row_bytes for column in planned), default=0)
    return HarvestPlan(
        folder=str(order.place),
        rows=manifest.rows,
        present=manifest.rows - todo,
        columns=planned,
        shards=len(manifest.shards),
        disk=int(sum(lengths[shard] * per_row[name] for shard, missing in lacking.items() for name in missing)),
        free=_free(order),
        memory=int(min(manifest.shard_rows, manifest.rows) * (raw + largest)),
        seconds=took / rehearsed.count * todo,
        notes=tuple(_notes(rehearsed)),
    )


def several(count: int, what: str) -> str:
    """A count with its noun: "1 shard", "12 shards"."""
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def _rehearse(order: Order, name: str, rows: Rows) -> PlannedColumn:
    """Does what the harvest will do with a column, and looks at what comes out."""
    column = order.manifest.columns[name]
    if column.encoding == LATENTS:
        tensors = latents_shard(encoded(order.encoders[name], [rows]))
        size = sum(x.nbytes for x in tensors.values()) / rows.count
    else:
        encode(rows[name], column.encoding, column=name)
        Sums.of(rows[name])
        size = float(row_bytes(column.width, column.encoding))
    return PlannedColumn(name=name, width=column.width, encoding=column.encoding, row_bytes=size)


def _notes(rows: Rows) -> list[str]:
    return [
        f"every row of {name} is the same in the rehearsal; there is nothing in it to learn"
        for name, x in rows.items()
        if rows.count > 1 and bool((x == x[0]).all())
    ]


def _free(order: Order) -> int | None:
    """Free bytes where the folder is, or will be."""
    if not isinstance(order.place, Folder):
        return None
    path = order.place.path.resolve()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.0f} h"
    )
