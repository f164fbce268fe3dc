"""`digsite toys`: the models that come with digsite, and how each is made again."""

from math import prod
from pathlib import Path

from cyclopts import App
from safetensors import safe_open

import digsite
from digsite.cli.inputs import Count
from digsite.cli.outputs import Json, answers, check_folder, columns, note, print_json

app = App(name="toys", help="Models that come with digsite, whose answers are known.")


@app.command(name="list")
def list_(*, json: Json = False) -> None:
    """The built-in models."""
    toys = [
        {
            "name": f"digsite/{toy.name}",
            "kind": toy.kind,
            "parameters": _parameters(toy.path),
            "description": toy.description,
            "path": str(toy.path),
        }
        for toy in digsite.toys.builtin()
    ]
    if json:
        print_json({"toys": toys})
        return
    table = columns("model", "kind", "parameters", "description", left=4)
    for toy in toys:
        table.add_row(toy["name"], toy["kind"], f"{toy['parameters']:,}", toy["description"])
    answers().print(table)


@app.command
def train(name: str, /, *, out: Path | None = None, steps: Count | None = None, seed: int = 0) -> None:
    """Makes a built-in model again, from nothing but its seed.

    A run that was stopped goes on when it is started again.

    Args:
        name: A trained model of `digsite toys list`, such as tinyworld.
        out: Folder to write; unless given, a folder of the model's name here.
        steps: Optimiser steps; those of the shipped model unless given.
        seed: Of the weights and of the data.
    """
    name = name.removeprefix("digsite/")
    folder = out or Path(name)
    check_folder(folder, marker="model.safetensors")
    note(f"training {name} into {folder}; the model card will be {folder / 'README.md'}")
    digsite.toys.train(name, folder, steps=steps, seed=seed)
    answers().print(f"model: {folder}\ntry it: digsite investigate --model {folder} --task ioi", soft_wrap=True)


def _parameters(folder: Path) -> int:
    with safe_open(folder / "model.safetensors", framework="numpy") as file:
        return sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 - no mapping
