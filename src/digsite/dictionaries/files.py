"""A dictionary as a folder: `dictionary.json` says what it is, `dictionary.safetensors` holds its numbers.

Parameters that stand in several places (tied decoders) are written once. Reading is strict: a tensor that is missing,
left over, of another shape, or not finite is an error that names it.
"""

import json
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError

from digsite._core.errors import LoadError, NotFinite, explain
from digsite._core.files import whole_folder
from digsite.dictionaries.config import DictionaryConfig
from digsite.dictionaries.dictionary import Dictionary

BUILTIN = "digsite/"
_JSON, _TENSORS = "dictionary.json", "dictionary.safetensors"
FORMAT = "digsite.dictionary/1"


def save(dictionary: Dictionary, folder: str | Path, *, dtype: torch.dtype | None = None) -> Path:
    """Write a dictionary to a folder; it is there whole or not at all.

    Args:
        dictionary: What is written.
        folder: A new or empty folder, or one with an older dictionary, which is replaced.
        dtype: Write numbers in this dtype, thresholds excepted; None keeps theirs.

    Raises:
        NotWritten: The disk is full, or the place cannot be written.
        NotFinite: A number is NaN or infinite.
    """
    folder = Path(folder)
    tensors = {name: x.detach().cpu().contiguous() for name, x in _once(dictionary).items()}
    if broken := [name for name, x in tensors.items() if not torch.isfinite(x).all()]:
        raise NotFinite(
            explain(f"{', '.join(broken)} of the dictionary is not finite", do="Train it again, or load it anew")
        )
    if dtype is not None:
        tensors = {name: x if name.endswith("threshold") else x.to(dtype) for name, x in tensors.items()}
    with whole_folder(folder, marker=_JSON) as new:
        (new / _TENSORS).write_bytes(safetensors.torch.save(tensors))
        plain = {"format": FORMAT, **dictionary.config.to_dict()}
        (new / _JSON).write_text(json.dumps(plain, indent=1, ensure_ascii=False), encoding="utf-8")
    return folder


def load(folder: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Dictionary:
    """Read a dictionary that `save` wrote; ready to encode.

    Args:
        folder: Where it was saved, or "digsite/<model>/<name>" for one that comes with digsite (`builtin`).
        device: Where its numbers go.
        dtype: What they are held in.

    Raises:
        LoadError: There is no dictionary, it is of another version, or a tensor is missing, left over, or of another
            shape. Nothing in a folder is ever executed.
    """
    folder = builtin_path(str(folder)) if str(folder).startswith(BUILTIN) else Path(folder)
    if not (folder / _JSON).is_file():
        found = "a folder without dictionary.json" if folder.is_dir() else "no such folder"
        do = "Name a folder that save() wrote; digsite sae import reads those of other libraries"
        raise LoadError(explain(f"There is no dictionary in {folder}", found=found, do=do))
    try:
        plain = json.loads((folder / _JSON).read_text(encoding="utf-8"))
        tensors = safetensors.torch.load((folder / _TENSORS).read_bytes())
    except (ValueError, OSError, SafetensorError) as error:
        raise LoadError(
            explain(f"The dictionary in {folder} is broken", found=f"{type(error).__name__}: {error}")
        ) from error
    if not isinstance(plain, dict) or plain.pop("format", None) != FORMAT:
        raise LoadError(explain(f"{folder / _JSON} is not of the format {FORMAT}", do="Update digsite"))
    return filled(
        Dictionary(DictionaryConfig.from_dict(plain, str(folder / _JSON))), tensors, str(folder), device, dtype
    )


def builtin() -> list[str]:
    """The dictionaries that come with digsite, by the names that `load` takes."""
    return sorted(_builtin())


def _builtin() -> dict[str, Path]:
    found = Path(__file__).parent.glob(f"*/weights/*/{_JSON}")
    return {f"{BUILTIN}{path.parents[2].name}/{path.parent.name}": path.parent for path in found}


def builtin_path(name: str) -> Path:
    """The folder of a built-in dictionary.

    Raises:
        LoadError: There is none of that name.
    """
    there = _builtin()
    if name not in there:
        raise LoadError(explain(f"There is no built-in dictionary {name}", possible=sorted(there), near=name))
    return there[name]


def filled(
    dictionary: Dictionary,
    tensors: dict[str, torch.Tensor],
    where: str,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Dictionary:
    """A dictionary with these numbers, every one of them and no other.

    Args:
        dictionary: A new dictionary.
        tensors: Its numbers by the name of its parameters.
        where: The file, for the error.
        device: Where they go.
        dtype: What they are held in; thresholds stay in float32.

    Raises:
        LoadError: A tensor is missing, left over, of another shape, or not finite.
    """
    wanted = _once(dictionary)
    problems = [f"{name} is missing" for name in wanted.keys() - tensors.keys()]
    problems += [f"{name} is left over" for name in tensors.keys() - wanted.keys()]
    for name in wanted.keys() & tensors.keys():
        if wanted[name].shape != tensors[name].shape:
            problems.append(f"{name} is {list(tensors[name].shape)}, not {list(wanted[name].shape)}")
        elif not torch.isfinite(tensors[name]).all():
            problems.append(f"{name} is not finite")
    if problems:
        raise LoadError(
            explain(f"The tensors in {where} are not those of this dictionary", found="; ".join(sorted(problems)))
        )
    with torch.no_grad():
        for name, x in wanted.items():
            x.copy_(tensors[name])
    dictionary = dictionary.to(device).eval()
    if dtype != torch.float32:
        for name, x in _once(dictionary).items():
            if not name.endswith("threshold"):
                x.data = x.data.to(dtype)
    return dictionary


def _once(dictionary: Dictionary) -> dict[str, torch.Tensor]:
    """Every parameter and buffer once, under its first name."""
    return dict(dictionary.named_parameters()) | dict(dictionary.named_buffers())
