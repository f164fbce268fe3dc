"""The manifest of a store: what is in it, which files are whole, and where it comes from.

It is written anew after every shard, after the shard's files; so a file that the manifest names is there and whole, and
one that it does not name does not count.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from digsite._core.errors import BadInput, LoadError, explain
from digsite.store.places import Place

NAME = "manifest.json"
_FORMAT = "digsite store 1"
TOKENS = "tokens"
LATENTS = "latents"


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a store.

    Attributes:
        folder: Where its shards are.
        width: Numbers in a row; latents of a dictionary.
        encoding: How they are written: bf16, fp16, fp32, int8, or latents.
        encoder: Fingerprint of the dictionary, for latents.
        provenance: Where it comes from.
    """

    folder: str
    width: int
    encoding: str
    encoder: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file: its bytes and its digest."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a store says of itself.

    Attributes:
        identity: Model, weights, tokens: what all its columns have in common.
        rows: How many rows a whole column has.
        shard_rows: Rows in a shard; the last may have fewer.
        columns: By name.
        files: Every file that is whole, by name.
    """

    identity: Mapping[str, str]
    rows: int
    shard_rows: int
    columns: Mapping[str, Column] = field(default_factory=dict)
    files: Mapping[str, Entry] = field(default_factory=dict)

    # -- shards ----------------------------------------------------------------------------------------------------
    @property
    def shards(self) -> list[tuple[int, int]]:
        """First row and end of every shard."""
        return [(start, min(start + self.shard_rows, self.rows)) for start in range(0, self.rows, self.shard_rows)]

    def file(self, column: str, shard: int) -> str:
        """The name of a shard's file; `tokens` is no column, but has shards as well."""
        folder = TOKENS if column == TOKENS else self.columns[column].folder
        return f"{folder}/shard-{shard:05d}.safetensors"

    def written(self, column: str) -> int:
        """How many shards a column has, from the first on without a gap."""
        names = (self.file(column, shard) for shard in range(len(self.shards)))
        return next((i for i, name in enumerate(names) if name not in self.files), len(self.shards))

    @property
    def has_tokens(self) -> bool:
        """Whether the rows are tokens of a text."""
        return self.file(TOKENS, 0) in self.files

    # -- changes ---------------------------------------------------------------------------------------------------
    def with_column(self, name: str, column: Column) -> "Manifest":
        """With another column; its folder is found here."""
        folder = re.sub(r"[^\w.\[\]-]", "_", name)
        while folder in {TOKENS, *(known.folder for known in self.columns.values())}:
            folder += "_"
        return replace(self, columns={**self.columns, name: replace(column, folder=folder)})

    def with_files(self, files: Mapping[str, Entry]) -> "Manifest":
        """With these files, which are whole now."""
        return replace(self, files={**self.files, **files})

    # -- as a file -------------------------------------------------------------------------------------------------
    def save(self, place: Place) -> None:
        """Writes it, whole or not at all."""
        place.write(NAME, json.dumps({"format": _FORMAT, **asdict(self)}, indent=1).encode())

    @staticmethod
    def load(place: Place) -> "Manifest | None":
        """The manifest of a place; None where there is none.

        Raises:
            LoadError: It cannot be read, or is of another format.
        """
        if place.size(NAME) is None:
            return None
        try:
            data = json.loads(place.read(NAME))
            if data.pop("format") != _FORMAT:
                raise ValueError("another format")
            columns = {name: Column(**column) for name, column in data.pop("columns").items()}
            files = {name: Entry(**entry) for name, entry in data.pop("files").items()}
            return Manifest(columns=columns, files=files, **data)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LoadError(
                explain(f"{place}/{NAME} is not the manifest of a store", found=str(error), possible=_FORMAT)
            ) from error


def refuse_difference(
    asked: str,
    found: Mapping[str, Any],
    wanted: Mapping[str, Any],
    *,
    do: str,
    sides: tuple[str, str] = ("there", "here"),
) -> None:
    """Raises where two descriptions differ, naming every key with both values.

    Args:
        asked: What cannot be done then.
        found: What is there.
        wanted: What was asked for.
        do: What the reader can do.
        sides: What the two are called.

    Raises:
        BadInput: They differ.
    """
    keys = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
    if keys:
        told = "; ".join(f"{key} {found.get(key)} {sides[0]}, {wanted.get(key)} {sides[1]}" for key in keys)
        raise BadInput(explain(asked, found=told, do=do))
