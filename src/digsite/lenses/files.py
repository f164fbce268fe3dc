"""A lens as a folder: `lens.json` says what it is, `lens.safetensors` holds its maps, `fit/` how well it was fitted.

A lens belongs to one model. The file has the fingerprint of its weights, and one of all that turns its last stream into
logits; reading it for another model is an error.
"""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError

from digsite._core.errors import LoadError, explain
from digsite._core.files import settle, whole_folder
from digsite.artifacts import load_result
from digsite.lenses.lens import Affine, Lens
from digsite.models import Model

_JSON, _TENSORS, _FIT = "lens.json", "lens.safetensors", "fit"
FORMAT = "digsite.lens/1"


def save_lens(lens: Lens, folder: str | Path) -> Path:
    """Write a lens to a folder; it is there whole or not at all.

    Args:
        lens: What is written.
        folder: A new or empty folder, or one with an older lens, which is replaced.

    Raises:
        NotWritten: The disk is full, or the place cannot be written.
        BadInput: The folder holds something else.
    """
    folder = Path(folder)
    named = {f"{site}.{part}": x for site, one in lens.maps.items() for part, x in one._asdict().items()}
    tensors = {name: x.detach().cpu().contiguous() for name, x in named.items() if x is not None}
    plain = {
        "format": FORMAT,
        "kind": lens.kind,
        "ahead": lens.ahead,
        "sites": list(lens.sites),
        "model": lens.model.name,
        "weights": lens.model.fingerprint,
        "readout": lens.model.readout_fingerprint,
        "origin": dict(lens.origin),
        "fit": lens.fit is not None,
    }
    with whole_folder(folder, marker=_JSON, parts=(_FIT,)) as new:
        (new / _TENSORS).write_bytes(safetensors.torch.save(tensors))
        (new / _JSON).write_text(json.dumps(plain, indent=1, ensure_ascii=False), encoding="utf-8")
        if lens.fit is not None:
            lens.fit.save(new / _FIT)
    return folder


def load_lens(folder: str | Path, model: Model) -> Lens:
    """Read a lens that `save_lens` wrote, for the model that it was fitted on.

    Args:
        folder: Where it was saved.
        model: The model.

    Raises:
        LoadError: There is no lens, it is of another version or broken, or it is of another model: of other weights, or
            with another final norm or unembedding.
    """
    folder = Path(folder)
    settle(folder)
    if not (folder / _JSON).is_file():
        found = "a folder without lens.json" if folder.is_dir() else "no such folder"
        raise LoadError(
            explain(f"There is no lens in {folder}", found=found, do="name a folder that save_lens() wrote")
        )
    try:
        plain = json.loads((folder / _JSON).read_text(encoding="utf-8"))
        tensors = safetensors.torch.load((folder / _TENSORS).read_bytes())
    except (ValueError, OSError, SafetensorError) as error:
        raise LoadError(explain(f"The lens in {folder} is broken", found=f"{type(error).__name__}: {error}")) from error
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        raise LoadError(explain(f"{folder / _JSON} is not of the format {FORMAT}", do="Update digsite"))
    _check_model(plain, model, folder)
    changes = [name.removesuffix(".change") for name in tensors if name.endswith(".change")]
    if left := tensors.keys() - {f"{site}.{part}" for site in changes for part in ("change", "bias")}:
        raise LoadError(explain(f"The lens in {folder} has a tensor that belongs to no map", found=sorted(left)[0]))
    maps = {site: Affine(tensors[f"{site}.change"], tensors.get(f"{site}.bias")) for site in changes}
    fit = load_result(folder / _FIT) if plain.get("fit") else None
    try:
        return Lens(model, plain["kind"], maps, tuple(plain["sites"]), plain["ahead"], plain["origin"], fit)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise LoadError(explain(f"The lens in {folder} is broken", found=str(error))) from error


def _check_model(plain: dict[str, Any], model: Model, folder: Path) -> None:
    here = {"weights": model.fingerprint, "readout": model.readout_fingerprint}
    names = {"weights": "weights", "readout": "final norm and unembedding"}
    if other := [
        f"{names[key]} {plain.get(key)}, and here {value}" for key, value in here.items() if plain.get(key) != value
    ]:
        raise LoadError(
            explain(
                f"The lens in {folder} was fitted on another model than {model.name}",
                found=f"{plain.get('model')}: " + "; ".join(other),
                do="load the model that it was fitted on, or fit it anew",
            )
        )
