"""Directions and subspaces as a folder: `directions.json` says what they are, `directions.safetensors` has the vectors.

Vectors are written in float32. Reading is strict: a tensor that is missing, left over, of another shape, or not finite
is an error that names it.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from digsite._core.errors import DigsiteError, LoadError, explain
from digsite._core.files import settle, whole_folder
from digsite._core.provenance import Provenance
from digsite.directions.direction import Direction, Scale
from digsite.directions.subspace import Subspace
from digsite.sites import Site

FORMAT = "digsite.directions/1"
_JSON, _TENSORS = "directions.json", "directions.safetensors"
_VECTORS = {"direction": ("vector", "reader"), "subspace": ("basis", "mean")}


def save(items: Direction | Subspace | Sequence[Direction | Subspace], folder: str | Path) -> Path:
    """Write directions to a folder; it is there whole or not at all.

    Args:
        items: One or several.
        folder: A new or empty folder, or one with older directions, which are replaced.

    Raises:
        NotWritten: The disk is full, or the place cannot be written.
    """
    several = [items] if isinstance(items, Direction | Subspace) else list(items)
    plain, tensors = [], {}
    for number, item in enumerate(several):
        kind = "direction" if isinstance(item, Direction) else "subspace"
        told: dict[str, Any] = {"kind": kind, "site": str(item.site), "name": item.name, "how": item.how}
        if isinstance(item, Direction):
            told |= {"bias": item.bias, "scale": None if item.scale is None else asdict(item.scale)}
        plain.append(told | {"provenance": item.provenance.to_dict()})
        given = {f"{number}.{name}": getattr(item, name) for name in _VECTORS[kind]}
        tensors |= {name: x.contiguous() for name, x in given.items() if x is not None}
    with whole_folder(Path(folder), marker=_JSON) as new:
        (new / _TENSORS).write_bytes(safetensors.torch.save(tensors))
        text = json.dumps({"format": FORMAT, "items": plain}, indent=1, ensure_ascii=False, allow_nan=False)
        (new / _JSON).write_bytes(text.encode("utf-8", "surrogatepass"))
    return Path(folder)


def load(folder: str | Path) -> list[Direction | Subspace]:
    """Read what `save` wrote, in its order.

    Raises:
        LoadError: There is nothing, it is of another version, or a vector is missing, left over or broken. Nothing in
            a folder is ever executed.
    """
    folder = Path(folder)
    settle(folder)
    if not (folder / _JSON).is_file():
        found = f"a folder without {_JSON}" if folder.is_dir() else "no such folder"
        raise LoadError(explain(f"There are no directions in {folder}", found=found, do="Name a folder of save()"))
    try:
        plain = json.loads((folder / _JSON).read_bytes().decode("utf-8", "surrogatepass"))
        tensors = safetensors.torch.load((folder / _TENSORS).read_bytes())
        if not isinstance(plain, dict) or plain["format"] != FORMAT:
            found = str(plain["format"]) if isinstance(plain, dict) else type(plain).__name__
            do = "Update digsite" if found.startswith("digsite.directions/") else "Name a folder of save()"
            raise LoadError(explain(f"{folder / _JSON} is not of the format {FORMAT}", found=found, do=do))
        made = [_item(told, number, tensors) for number, told in enumerate(plain["items"])]
    except LoadError:
        raise
    except (LookupError, ValueError, TypeError, AttributeError, OSError, SafetensorError, DigsiteError) as error:
        found = f"{type(error).__name__}: {error}"
        raise LoadError(explain(f"The directions in {folder} are broken", found=found)) from error
    if tensors:
        raise LoadError(explain(f"Vectors in {folder} are left over", found=", ".join(sorted(tensors))))
    return made


def load_direction(folder: str | Path) -> Direction:
    """The one direction in a folder.

    Raises:
        LoadError: As `load`; or there are several, or none that is a direction.
    """
    items = load(folder)
    if len(items) != 1 or not isinstance(items[0], Direction):
        found = ", ".join(f"{type(item).__name__.lower()} {item.name}".strip() for item in items) or "nothing"
        raise LoadError(explain(f"{folder} does not hold one direction", found=found, do="use directions.load"))
    return items[0]


def _item(told: dict[str, Any], number: int, tensors: dict[str, Tensor]) -> Direction | Subspace:
    main, other = _VECTORS[told["kind"]]
    vectors = {main: tensors.pop(f"{number}.{main}"), other: tensors.pop(f"{number}.{other}", None)}
    common = {"site": Site.parse(told["site"]), "name": told["name"], "how": told["how"]}
    common["provenance"] = Provenance(**told["provenance"])
    if told["kind"] == "subspace":
        return Subspace(**vectors, **common)  # pyright: ignore[reportArgumentType]
    scale = None if told["scale"] is None else Scale(**told["scale"])
    return Direction(**vectors, **common, bias=told["bias"], scale=scale)  # pyright: ignore[reportArgumentType]
