"""Rows of a source written to disk, once.

1. What is in the folder already is compared with what is asked for: another model, corpus or encoding is refused.
2. The first shard that lacks a file is where reading starts; rows before it are not computed.
3. Rows are collected until a shard is full. Its tokens, columns and latents are written, each file whole.
4. The manifest is written anew. A kill at any moment loses the shard at hand and nothing else; running the same harvest
   again gives the same bits as if nothing had happened.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from digsite._core.errors import BadInput, explain
from digsite._core.progress import track
from digsite._core.provenance import record
from digsite._core.recording import method
from digsite.store.encodings import Encoding, check_encoding, row_bytes
from digsite.store.manifest import LATENTS, TOKENS, Column, Entry, Manifest, refuse_difference
from digsite.store.places import Place, place_of
from digsite.store.rows import Rows, Source
from digsite.store.shards import Encoder, as_bytes, encoded, latents_shard, open_shard, rows_shard, tokens_shard
from digsite.store.store import Store
from digsite.store.sums import Sums, check_finite

_SHARD = 256_000_000
"""Bytes of a shard of all columns together, unless `shard_rows` says otherwise."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a harvest is asked to write: settled before anything is read.

    Attributes:
        place: Where.
        manifest: The manifest with every column of this harvest.
        columns: The columns to write, latents included.
        encoders: Those of latents.
    """

    place: Place
    manifest: Manifest
    columns: tuple[str, ...]
    encoders: Mapping[str, Encoder] = field(default_factory=dict)

    def missing(self, shard: int) -> list[str]:
        """The columns that lack this shard, `tokens` included; a file of another size than it had counts as lacking."""
        names = {column: self.manifest.file(column, shard) for column in (TOKENS, *self.columns)}
        files = self.manifest.files
        return [
            column
            for column, name in names.items()
            if name not in files or not self.place.whole(name, files[name].bytes)
        ]


@method
def harvest(
    source: Source,
    folder: str | Path,
    *,
    encoding: Encoding | Mapping[str, Encoding] = "bf16",
    columns: Sequence[str] | None = None,
    latents: Mapping[str, Encoder] | None = None,
    shard_rows: int | None = None,
) -> Store:
    """Writes the rows of a source to disk, aligned over columns by their number; goes on where it was stopped.

    Args:
        source: A live model reading a corpus, or another store.
        folder: A folder, new or of a harvest of the same tokens, or a URL such as s3://bucket/folder. Columns that are
            not there yet are added; those that are there stay.
        encoding: How numbers are written: bf16, fp16, fp32 or int8; or one for each column.
        columns: The columns to write; None for all of the source.
        latents: Dictionaries whose latents are written, by the name of the column they become.
        shard_rows: Rows in a shard; unless given, those of the store that is there, else what gives about 256 MB.

    Returns:
        The store, opened, with every column that is whole.

    Raises:
        BadInput: The folder holds another model, corpus or encoding (the message names the keys that differ), or the
            source has no such column.
        NotFinite: An activation is a NaN or infinite; shards before it stay.
        NotWritten: The disk is full; every shard that was finished stays, and the same call goes on.

    Caveats:
        `shard_rows` rows of all columns are in memory at once, in the source's own dtype. Statistics are those of the
        rows before they are encoded.
    """
    order = settle_order(
        source, folder, encoding=encoding, columns=columns, latents=latents or {}, shard_rows=shard_rows
    )
    order.place.tidy()
    manifest, fixed = order.manifest, _fixed_scales(order)
    lacking = [shard for shard in range(len(manifest.shards)) if order.missing(shard)]
    for shard, parts in _shards(source, manifest, lacking):
        manifest = manifest.with_files(_write(order, shard, parts, fixed))
        manifest.save(order.place)
    whole = [name for name in manifest.columns if manifest.written(name) == len(manifest.shards)]
    return Store(folder, columns=whole)


def settle_order(
    source: Source,
    folder: str | Path,
    *,
    encoding: Encoding | Mapping[str, Encoding],
    columns: Sequence[str] | None,
    latents: Mapping[str, Encoder],
    shard_rows: int | None,
) -> Order:
    """What will be written where, or the reason why it cannot be; see `harvest` for arguments and errors."""
    wanted = _columns(source, encoding, columns, latents)
    place = place_of(folder)
    before = Manifest.load(place)
    if shard_rows is not None and shard_rows < 1:
        raise BadInput(explain(f"shard_rows={shard_rows} is no number of rows", possible="1 or more"))
    rows, identity = source.rows, dict(source.identity)
    if before is None:
        full = sum(row_bytes(c.width, c.encoding) for c in wanted.values() if c.encoding != LATENTS) + 12
        fitting = max(1024, min(2**18, _SHARD // full // 1024 * 1024))
        manifest = Manifest(identity=identity, rows=rows, shard_rows=shard_rows or fitting)
    else:
        manifest = before
        here = {**identity, "rows": rows, "shard_rows": shard_rows or before.shard_rows}
        there = {**before.identity, "rows": before.rows, "shard_rows": before.shard_rows}
        for name in (name for name in wanted if name in before.columns):
            for key in ("width", "encoding", "encoder"):
                here[f"{key} of {name}"] = getattr(wanted[name], key)
                there[f"{key} of {name}"] = getattr(before.columns[name], key)
        refuse_difference(
            f"{place} holds another harvest", there, here, do="choose another folder, or ask for what is there"
        )
    for name, column in wanted.items():
        if name not in manifest.columns:
            manifest = manifest.with_column(name, column)
    return Order(place=place, manifest=manifest, columns=tuple(wanted), encoders=latents)


def _columns(
    source: Source,
    encoding: Encoding | Mapping[str, Encoding],
    columns: Sequence[str] | None,
    latents: Mapping[str, Encoder],
) -> dict[str, Column]:
    """The columns that a harvest writes, without their folders."""
    widths = source.widths
    chosen = tuple(widths) if columns is None else tuple(columns)
    read = [column for encoder in latents.values() for column in encoder.reads]
    named = () if isinstance(encoding, str) else tuple(encoding)
    for column in (*chosen, *read, *named):
        if column not in widths:
            raise BadInput(explain(f"The source has no column {column}", possible=list(widths), near=column))
    if both := [name for name in latents if name in chosen or name == TOKENS]:
        raise BadInput(explain(f"{both[0]} is the name of something else", do="give the latents another name"))
    encodings = (
        dict.fromkeys(chosen, encoding) if isinstance(encoding, str) else {**dict.fromkeys(chosen, "bf16"), **encoding}
    )
    for one in encodings.values():
        check_encoding(one)
    identity = source.identity
    origin = record(
        "harvest(source, folder)",
        model=identity.get("model"),
        revision=identity.get("revision"),
        weights=identity.get("weights"),
        tokens=identity.get("tokens"),
        dtype=identity.get("dtype"),
    ).to_dict()
    dense = {c: Column(folder="", width=widths[c], encoding=encodings[c], provenance=origin) for c in chosen}
    sparse = {
        name: Column(folder="", width=one.width, encoding=LATENTS, encoder=one.fingerprint, provenance=origin)
        for name, one in latents.items()
    }
    if not dense and not sparse:
        raise BadInput(explain("A harvest writes at least one column", possible=list(widths)))
    return dense | sparse


def _shards(source: Source, manifest: Manifest, lacking: Sequence[int]) -> Iterator[tuple[int, list[Rows]]]:
    """The rows of every shard that lacks something, in pieces; shards that are whole are passed over."""
    at, chunks, rows = 0, iter(list[Rows]()), None
    for number, shard in enumerate(lacking):
        if number == 0 or shard != lacking[number - 1] + 1:
            start = at = manifest.shards[shard][0]
            chunks = _shown(source.chunks(start), manifest.rows - start)
            rows = None
        parts, stop = list[Rows](), manifest.shards[shard][1]
        while at < stop:
            rows = rows if rows is not None and rows.count else next(chunks, None)
            if rows is None:
                raise BadInput(
                    explain(
                        "The source ended before its last row",
                        found=f"{at} rows",
                        possible=f"{manifest.rows}",
                        do="was its text changed in between? Choose another folder",
                    )
                )
            parts.append(rows.take(slice(0, stop - at)))
            at, rows = at + parts[-1].count, rows.take(slice(parts[-1].count, None))
        yield shard, parts


def _shown(chunks: Iterator[Rows], left: int) -> Iterator[Rows]:
    """The chunks with a bar, as long as the first one says."""
    first = next(chunks, None)
    if first is not None:
        yield from track(chain([first], chunks), "harvesting", total=math.ceil(left / first.count))


def _write(order: Order, shard: int, parts: list[Rows], fixed: dict[str, Tensor]) -> dict[str, Entry]:
    """Writes the files of one shard that are missing."""
    manifest, wanted, entries = order.manifest, order.missing(shard), dict[str, Entry]()
    if TOKENS not in wanted:
        _same_tokens(order, shard, parts)
    for column in wanted:
        if column == TOKENS:
            tensors = tokens_shard(parts)
        elif column in order.encoders:
            tensors = latents_shard(encoded(order.encoders[column], parts))
        else:
            x = torch.cat([part[column] for part in parts])
            sums = Sums.of(x)
            if not math.isfinite(sums.norm):
                check_finite(x, column=column, first=manifest.shards[shard][0])
            tensors = rows_shard(x, sums, manifest.columns[column].encoding, rms=fixed.get(column), column=column)
            if "rms" in tensors:
                fixed.setdefault(column, tensors["rms"])
        name = manifest.file(column, shard)
        data, entries[name] = as_bytes(tensors)
        order.place.write(name, data)
    return entries


def _same_tokens(order: Order, shard: int, parts: list[Rows]) -> None:
    """Raises where the tokens of these rows are not those that the store has: columns would not be aligned."""
    name = order.manifest.file(TOKENS, shard)
    there = open_shard(order.place.local(name, order.manifest.files[name].sha256))
    here = tokens_shard(parts)
    if there.keys() != here.keys() or not all(torch.equal(there[key], here[key]) for key in here):
        raise BadInput(
            explain(f"The tokens of shard {shard} are not those of {order.place}", do="choose another folder")
        )


def _fixed_scales(order: Order) -> dict[str, Tensor]:
    """The channel scales of every int8 column that has a shard; they are the same in all of them."""
    found: dict[str, Tensor] = {}
    for column in order.columns:
        if order.manifest.columns[column].encoding != "int8":
            continue
        names = (order.manifest.file(column, shard) for shard in range(len(order.manifest.shards)))
        entries = ((name, order.manifest.files.get(name)) for name in names)
        for name, entry in entries:
            if entry is not None and order.place.whole(name, entry.bytes):
                found[column] = open_shard(order.place.local(name, entry.sha256))["rms"].clone()
                break
    return found
