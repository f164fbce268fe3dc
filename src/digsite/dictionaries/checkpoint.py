"""The state of an unfinished training as a folder: whole or not at all, and bit for bit where it was.

`state.json` says what is trained and how far it is; `state.safetensors` holds the numbers of dictionaries, optimisers
and counters; `curves.parquet` what was told so far.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import safetensors.torch
import torch
from polars.exceptions import PolarsError
from safetensors import SafetensorError

from digsite._core.errors import BadInput, LoadError, explain
from digsite._core.files import settle, whole_folder
from digsite.dictionaries.trainer import Trainer

_JSON, _TENSORS, _CURVES = "state.json", "state.safetensors", "curves.parquet"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a training is.

    Attributes:
        settings: Everything that its result depends on.
        order: Where the order of rows is.
        step: Steps done.
        seconds: Spent so far.
        curves: What was told so far.
    """

    settings: Mapping[str, Any]
    order: Mapping[str, int]
    step: int
    seconds: float
    curves: pl.DataFrame


def write(folder: Path, trainers: Mapping[str, Trainer], progress: Progress) -> None:
    """Write the state of a training; what was there before is replaced in one move.

    Args:
        folder: Where.
        trainers: By name.
        progress: How far it is.
    """
    tensors = {f"{name}/{key}": x for name, one in trainers.items() for key, x in _state(one).items()}
    plain = {"settings": progress.settings, "order": progress.order, "step": progress.step, "seconds": progress.seconds}
    counts = {name: [one.done, one.seen] for name, one in trainers.items()}
    with whole_folder(folder, marker=_JSON) as new:
        (new / _TENSORS).write_bytes(safetensors.torch.save(tensors))
        progress.curves.write_parquet(new / _CURVES)
        (new / _JSON).write_text(json.dumps({**plain, "counts": counts}, indent=1), encoding="utf-8")


def read(folder: Path, trainers: Mapping[str, Trainer], settings: Mapping[str, Any]) -> Progress | None:
    """Bring trainers to the state in a folder.

    Args:
        folder: Where `write` wrote; None is given where there is nothing.
        trainers: New ones, which are filled.
        settings: Those of this training.

    Raises:
        BadInput: A training with other settings lies there.
        LoadError: What lies there is broken.
    """
    settle(folder)
    if not (folder / _JSON).is_file():
        return None
    try:
        plain = json.loads((folder / _JSON).read_text(encoding="utf-8"))
        tensors = safetensors.torch.load((folder / _TENSORS).read_bytes())
        curves = pl.read_parquet(folder / _CURVES)
        there = plain["settings"]
    except (ValueError, KeyError, OSError, SafetensorError, PolarsError) as error:
        asked = f"The unfinished training in {folder} is broken"
        found = f"{type(error).__name__}: {error}"
        raise LoadError(explain(asked, found=found, do="remove that folder and begin anew")) from error
    here = json.loads(json.dumps(dict(settings)))
    different = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    if different:
        asked = f"An unfinished training with other settings lies in {folder}"
        found = "; ".join(f"{key} {there.get(key)} there, {here.get(key)} here" for key in different)
        do = "finish it with the same settings, remove that folder, or choose another place"
        raise BadInput(explain(asked, found=found, do=do))
    for name, trainer in trainers.items():
        own = {key.removeprefix(f"{name}/"): x for key, x in tensors.items() if key.startswith(f"{name}/")}
        _restore(trainer, own, *plain["counts"][name])
    return Progress(settings=there, order=plain["order"], step=plain["step"], seconds=plain["seconds"], curves=curves)


def _state(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Every number that the next step depends on."""
    numbers = {**dict(trainer.dictionary.named_parameters()), **dict(trainer.dictionary.named_buffers())}
    found = {f"numbers.{name}": x for name, x in numbers.items()}
    for name, leaf in trainer.leaves.items():
        found[f"leaves.{name}"] = leaf
        found |= {f"optimiser.{name}.{key}": x for key, x in trainer.optimiser.state[leaf].items()}
    found |= {f"quiet.{number}": x for number, x in enumerate(trainer.quiet)}
    found["pressure"] = trainer.pressure
    return {name: x.detach().cpu().clone() for name, x in found.items()}


@torch.no_grad()
def _restore(trainer: Trainer, tensors: dict[str, torch.Tensor], done: int, seen: int) -> None:
    device = trainer.pressure.device
    numbers = {**dict(trainer.dictionary.named_parameters()), **dict(trainer.dictionary.named_buffers())}
    for name, x in numbers.items():
        x.copy_(tensors[f"numbers.{name}"])
    for name, leaf in trainer.leaves.items():
        leaf.copy_(tensors[f"leaves.{name}"])
        start = f"optimiser.{name}."
        state = {key.removeprefix(start): x for key, x in tensors.items() if key.startswith(start)}
        trainer.optimiser.state[leaf] = {key: x.to(device) for key, x in state.items()}
    for number, x in enumerate(trainer.quiet):
        x.copy_(tensors[f"quiet.{number}"])
    trainer.pressure.copy_(tensors["pressure"])
    trainer.done, trainer.seen = done, seen
