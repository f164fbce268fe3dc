"""A result as a folder: `result.json`, `tensors.safetensors` where there are tensors, a parquet file for each table.

`result.json` holds the schema, the other files with their SHA-256, and all numbers and words; it can be read without
digsite. The sums are there because a damaged tensor or table is not always one that cannot be read.
"""

import hashlib
import io
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import polars as pl
import safetensors.torch
from polars.exceptions import PolarsError
from safetensors import SafetensorError

from digsite._core.errors import LoadError, explain
from digsite._core.files import settle, whole_folder
from digsite.artifacts.codec import Parts, codec_for

_JSON = "result.json"
_TENSORS = "tensors.safetensors"
_BREAKS = (LookupError, ValueError, TypeError, AttributeError, RecursionError, OSError, SafetensorError, PolarsError)
"""What reading a truncated, damaged or forged file raises."""


def write_folder(result: Any, folder: Path) -> None:
    """Write a result; the folder is there whole or not at all.

    Args:
        result: A result.
        folder: Where; an older result there is replaced.

    Raises:
        BadInput: A field does not hold what its type says, or the folder holds something else.
        NotWritten: The disk is full, or the place cannot be written.
    """
    parts = Parts()
    plain = codec_for(type(result)).pack(result, "", parts)
    contents = {_table_file(name): _parquet(table) for name, table in parts.tables.items()}
    if parts.tensors:
        contents[_TENSORS] = safetensors.torch.save(parts.tensors)
    sums = {name: _sum(contents[name]) for name in sorted(contents)}
    document = {"schema": plain.pop("schema"), "files": sums} | plain
    # surrogatepass: a token may be half a character, and must come back as it was
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    contents[_JSON] = text.encode("utf-8", "surrogatepass")
    with whole_folder(folder, marker=_JSON, parts=type(result).PARTS) as new:
        for name, content in contents.items():
            (new / name).write_bytes(content)


def read_folder(kind: type, folder: Path) -> Any:
    """Read a result.

    Args:
        kind: The class, or an ancestor, of what is read.
        folder: Where it was saved.

    Raises:
        LoadError: There is no result, it is of another version, or something in it is missing, unused or broken.
    """
    settle(folder)
    if not (folder / _JSON).is_file():
        found = "a folder without result.json" if folder.is_dir() else "no such folder"
        raise LoadError(explain(f"There is no result in {folder}", found=found, do="Name a folder that save() wrote"))
    try:
        document = json.loads((folder / _JSON).read_bytes().decode("utf-8", "surrogatepass"))
        parts = _read_parts(folder, document.pop("files"))
    except _BREAKS as error:
        raise _broken(folder, error) from error
    try:
        result = codec_for(kind).unpack(document, "", parts)
    except LoadError as error:
        raise LoadError(f"{error}\nIn: {folder / _JSON}") from error
    if parts.tensors or parts.tables:
        unused = sorted([*parts.tensors, *parts.tables])
        raise LoadError(explain(f"The result in {folder} has more in it than its class", found=f"unused: {unused}"))
    return result


def _read_parts(folder: Path, sums: Any) -> Parts:
    parts = Parts()
    for name, expected in sums.items():
        if Path(name).name != name:
            raise ValueError(f"{name!r} is not a file name")
        content = (folder / name).read_bytes()
        if _sum(content) != expected:
            raise ValueError(f"{name} is not the file that was saved; its SHA-256 differs")
        if name == _TENSORS:
            parts.tensors = safetensors.torch.load(content)
        else:
            parts.tables[_table_name(name)] = pl.read_parquet(content)
    return parts


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _parquet(table: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.write_parquet(buffer)
    return buffer.getvalue()


def _table_file(name: str) -> str:
    return f"{quote(name, safe='')}.parquet"


def _table_name(file: str) -> str:
    return unquote(file.removesuffix(".parquet"))


def _broken(folder: Path, error: Exception) -> LoadError:
    found = f"{type(error).__name__}: {error}"
    do = "Make it again; its provenance in result.json names the command"
    return LoadError(explain(f"The result in {folder} is broken", found=found, do=do))
