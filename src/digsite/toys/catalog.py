"""The models whose answers are known, and how each is made again."""

from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from digsite._core.errors import BadInput, explain

TRAINED = {
    "addition": "addition",
    "modular-addition": "modular_addition",
    "superposition": "superposition_folder",
    "induction": "induction",
    "max-of-list": "max_of_list",
    "dyck": "dyck",
    "symbolic-ioi": "symbolic_ioi",
    "position-tracker": "position_tracker",
    "belief-state": "belief_state",
    "othello-mini": "othello_mini",
}
"""Toys that are trained on the spot, and the modules of `toys.trained` that make them."""


@dataclass(frozen=True, kw_only=True)
class Toy:
    """A model whose answers are known.

    Attributes:
        name: What it is called; after `digsite/` where it comes with digsite.
        path: The folder of its weights, tokenizer and card; None for what is made on the spot.
        kind: "trained" from data, or "compiled" from a program.
        description: What it is, in a sentence.
        cpu_minutes: Processor minutes that its training took where it was measured; None for what is compiled.
    """

    name: str
    path: Path | None
    kind: str
    description: str
    cpu_minutes: float | None = None


def builtin() -> list[Toy]:
    """The models that come with digsite; `digsite.load("digsite/<name>")` loads one."""
    from digsite.toys.aligned import PROGRAMS, toy

    aligned = [toy(name) for name in PROGRAMS]
    return [
        Toy(
            name="tinyworld",
            path=Path(__file__).parent / "tinyworld" / "weights",
            kind="trained",
            description="a small Llama trained on a closed little English with a world behind it, and on Tavi, "
            "a made-up second language",
            cpu_minutes=38.0,
        ),
        *(
            Toy(
                name=one.name,
                path=Path(__file__).parent / "aligned" / "weights" / one.name,
                kind="trained",
                description=one.description,
                cpu_minutes=one.cpu_minutes,
            )
            for one in aligned
        ),
    ]


def zoo() -> list[Toy]:
    """Every model whose answer is known: what comes with digsite, and what is trained or compiled on the spot."""
    from digsite.toys.compiled import PROGRAMS, program

    trained = [(name, _trained(name)) for name in TRAINED]
    return [
        *builtin(),
        *(
            Toy(name=name, path=None, kind="trained", description=toy.description, cpu_minutes=toy.cpu_minutes)
            for name, toy in trained
        ),
        *(Toy(name=name, path=None, kind="compiled", description=program(name).description) for name in PROGRAMS),
    ]


def train(name: str, out: str | Path, *, steps: int | None = None, seed: int = 0) -> Path:
    """Train a model whose answer is known, from nothing but its seed.

    The folder is written whole or not at all; a run that was killed goes on when it is started again.

    Args:
        name: A trained model of `zoo()`.
        out: The folder to write.
        steps: Optimiser steps; None takes the model's own.
        seed: Of the weights and of the data.

    Returns:
        The folder: config.json, model.safetensors, the tokenizer where there is one, and README.md, the card.

    Raises:
        BadInput: There is no such model, or the settings cannot be used.
        ContractBroken: What was trained is not what it should be.
    """
    if name in TRAINED:
        return _trained(name).make(out, steps=steps, seed=seed)
    from digsite.toys.aligned import PROGRAMS, toy

    if name in PROGRAMS:
        return toy(name).make(out, steps=steps, seed=seed)
    if name != "tinyworld":
        known = [*(toy.name for toy in builtin()), *TRAINED]
        raise BadInput(explain(f"There is no model {name!r} to train", possible=known, near=name))
    from digsite.toys.tinyworld.training import Training  # torch and transformers load here, not at the door
    from digsite.toys.tinyworld.training import train as train_tinyworld

    training = replace(Training(), seed=seed)
    return train_tinyworld(out, training if steps is None else training.shortened(steps))


def _trained(name: str) -> Any:
    return import_module(f"digsite.toys.trained.{TRAINED[name]}").TOY
