"""The models that come with digsite, and how each is made again."""

from dataclasses import dataclass, replace
from pathlib import Path

from digsite._core.errors import BadInput, explain


@dataclass(frozen=True, kw_only=True)
class Toy:
    """A model whose answers are known.

    Attributes:
        name: What comes after `digsite/` when it is loaded.
        path: The folder of its weights, tokenizer and card.
        kind: "trained" from data, or "compiled" from a program.
        description: What it is, in a sentence.
    """

    name: str
    path: Path
    kind: str
    description: str


def builtin() -> list[Toy]:
    """The models that come with digsite; `digsite.load("digsite/<name>")` loads one."""
    return [
        Toy(
            name="tinyworld",
            path=Path(__file__).parent / "tinyworld" / "weights",
            kind="trained",
            description="a small Llama trained on a closed little English with a world behind it, and on Tavi, "
            "a made-up second language",
        )
    ]


def train(name: str, out: str | Path, *, steps: int | None = None, seed: int = 0) -> Path:
    """Make a built-in model again, from nothing but its seed.

    The folder is written whole or not at all; a run that was killed goes on when it is started again.

    Args:
        name: A trained model of `builtin()`.
        out: The folder to write.
        steps: Optimiser steps; None takes those of the shipped model.
        seed: Of the weights and of the data.

    Returns:
        The folder: config.json, model.safetensors, the tokenizer and README.md, the model card.

    Raises:
        BadInput: There is no such model, or the settings cannot be used.
    """
    if name != "tinyworld":
        known = [toy.name for toy in builtin() if toy.kind == "trained"]
        raise BadInput(explain(f"There is no built-in model {name!r} to train", possible=known, near=name))
    from digsite.toys.tinyworld.training import Training  # torch and transformers load here, not at the door
    from digsite.toys.tinyworld.training import train as train_tinyworld

    training = replace(Training(), seed=seed)
    return train_tinyworld(out, training if steps is None else replace(training, steps=steps))
