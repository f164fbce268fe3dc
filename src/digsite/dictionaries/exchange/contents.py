"""What is in a file or folder that somebody else wrote; nothing in it is ever executed."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import yaml
from safetensors import SafetensorError, safe_open
from torch import Tensor

from digsite._core.errors import LoadError, explain


def names_in(path: Path) -> set[str]:
    """The names of the tensors in a .safetensors file; none where it is not one."""
    try:
        with safe_open(path, framework="pt") as file:
            return set(file.keys())
    except (OSError, SafetensorError):
        return set()


def safetensors_of(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file."""
    try:
        return safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise _broken(path, error) from error


def npz_of(path: Path) -> dict[str, Tensor]:
    """The arrays of an .npz file."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except Exception as error:  # a broken archive raises errors of zipfile, zlib, struct or numpy
        raise _broken(path, error) from error


def checkpoint_of(path: Path) -> dict[str, Any]:
    """What a .pt file holds, where it holds tensors and plain values only."""
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a refused pickle, a broken archive and a cut-off file raise all kinds of errors
        if "weights_only" not in str(error).lower() and "weights only" not in str(error).lower():
            raise _broken(path, error) from error
        raise LoadError(
            explain(
                f"{path} is a pickle that would run code of its own",
                found=str(error).splitlines()[0],
                do="Write its tensors anew with the library that made it: "
                "torch.save({k: v.cpu() for k, v in model.state_dict().items()}, path)",
            )
        ) from error
    if not isinstance(held, Mapping):
        raise LoadError(explain(f"{path} holds no tensors by name", found=type(held).__name__))
    return dict(held)


def json_of(path: Path) -> dict[str, Any]:
    """The object in a .json file."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _broken(path, error) from error
    if not isinstance(held, dict):
        raise LoadError(explain(f"{path} holds no JSON object", found=type(held).__name__))
    return held


def yaml_of(path: Path) -> dict[str, Any]:
    """The mapping in a .yaml file."""
    try:
        held = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise _broken(path, error) from error
    if not isinstance(held, dict):
        raise LoadError(explain(f"{path} holds no mapping", found=type(held).__name__))
    return held


def expect(held: Mapping[str, Any], needed: Collection[str], where: str, *, allowed: Collection[str] = ()) -> None:
    """Raises unless all that is needed is there, and nothing that is not known."""
    problems = [f"{name} is missing" for name in sorted(set(needed) - held.keys())]
    problems += [f"{name} is not known" for name in sorted(held.keys() - set(needed) - set(allowed))]
    if problems:
        raise LoadError(explain(f"{where} is not as its format says", found="; ".join(problems)))


def agree(where: str, **pairs: tuple[Any, Any]) -> None:
    """Raises where a configuration says something else than the tensors; None says nothing."""
    wrong = [
        f"{name} is {said} in the configuration and {real} in the tensors"
        for name, (said, real) in pairs.items()
        if said is not None and said != real
    ]
    if wrong:
        do = "Take the configuration that was saved with these tensors"
        raise LoadError(explain(f"{where} contradicts itself", found="; ".join(wrong), do=do))


def _broken(path: Path, error: Exception) -> LoadError:
    return LoadError(explain(f"{path} is broken", found=f"{type(error).__name__}: {error}"))
