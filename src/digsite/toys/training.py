"""Training that can be killed: what every trained toy shares.

1. Weights come from a seed; the data of step s from the seed and s, so no generator's state has to be kept.
2. Every `save_every` steps weights, optimiser and counters are written in one file; a run that was killed goes on from
   there and ends in the same weights, bit for bit.
3. Weights along the way are kept at steps spaced by a constant factor: one can look back at how they came about.
"""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from digsite._core.errors import BadInput, explain
from digsite._core.files import write_whole
from digsite._core.progress import track


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained.

    Attributes:
        name: What the progress bar says.
        settings: Everything the result depends on; a state with other settings is not resumed.
        steps: Optimiser steps.
        seed: Of the weights, and of the data.
        network: The network with its first weights, made under the seed.
        optimiser: Of the network's parameters.
        loss: From the network and the step to the loss; must draw its data from seed and step alone.
        rate: The learning rate at a step; None leaves the optimiser's own.
        clip: Largest norm of the gradient; None for any.
        kept: How many sets of weights to keep along the way, spaced by a constant factor.
        save_every: Steps between saved states.
    """

    name: str
    settings: Mapping[str, Any]
    steps: int
    seed: int
    network: Callable[[], nn.Module]
    optimiser: Callable[[nn.Module], torch.optim.Optimizer]
    loss: Callable[[Any, int], Tensor]
    rate: Callable[[int], float] | None = None
    clip: float | None = None
    kept: int = 0
    save_every: int = 250

    def kept_steps(self) -> list[int]:
        """The steps after which weights are kept: the first, the last, and others spaced by a constant factor."""
        if self.kept < 1:
            return []
        return sorted({round(self.steps ** (i / max(1, self.kept - 1))) for i in range(self.kept)})


@dataclass
class Trained:
    """A network that was trained.

    Attributes:
        network: In eval mode.
        losses: Of every step.
        checkpoints: Weights along the way, by the number of steps done.
        cpu_seconds: Processor time, over all the runs that it took.
    """

    network: Any
    losses: list[float]
    checkpoints: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    cpu_seconds: float = 0.0


def train(recipe: Recipe, state: Path) -> Trained:
    """Trains a network, from where an earlier run was stopped if there is one.

    Args:
        recipe: What to do.
        state: Folder of the state while it goes on; removed by `forget` when the result is safe.

    Raises:
        BadInput: Fewer than one step, or an unfinished training with other settings lies there.
    """
    if recipe.steps < 1:
        raise BadInput(explain("Training needs at least one step", found=f"steps={recipe.steps}"))
    run = _Training(recipe, state)
    for step in track(range(run.done, recipe.steps), f"training {recipe.name}"):
        run.advance(step)
    run.save()
    return Trained(run.network.eval(), run.losses, run.checkpoints(), run.cpu_seconds)


def forget(state: Path) -> None:
    """Removes the state of a training whose result is safe."""
    for path in state.glob("*.safetensors"):
        path.unlink()
    if state.is_dir():
        state.rmdir()


class _Training:
    """The state of one training: weights, optimiser, steps done, losses, processor seconds spent."""

    def __init__(self, recipe: Recipe, state: Path):
        self.recipe, self.state, self.file = recipe, state, state / "state.safetensors"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.network = recipe.network()
        self.network.train()
        self.optimiser = recipe.optimiser(self.network)
        self.keep = set(recipe.kept_steps())
        self.done, self.cpu_seconds = 0, 0.0
        self.losses: list[float] = []
        self.clock = time.process_time()
        if self.file.exists():
            self._resume()

    def advance(self, step: int) -> None:
        """One optimiser step."""
        recipe = self.recipe
        if recipe.rate is not None:
            for group in self.optimiser.param_groups:
                group["lr"] = recipe.rate(step)
        loss = recipe.loss(self.network, step)
        loss.backward()
        if recipe.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.losses.append(loss.item())
        self.done = step + 1
        if self.done in self.keep:
            weights = {name: weight.clone() for name, weight in self.network.state_dict().items()}
            write_whole(self.state / f"step-{self.done:07}.safetensors", save(weights))
        if self.done % recipe.save_every == 0 and self.done < recipe.steps:
            self.save()

    def checkpoints(self) -> dict[int, dict[str, Tensor]]:
        """The weights that were kept."""
        return {int(path.stem.removeprefix("step-")): load_file(path) for path in sorted(self.state.glob("step-*"))}

    def save(self) -> None:
        """Everything that the next step depends on, in one file: its parts can never be of different steps."""
        now = time.process_time()
        self.cpu_seconds += now - self.clock
        self.clock = now
        tensors = {f"weight.{name}": weight for name, weight in self.network.state_dict().items()}
        for index, moments in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{name}": value for name, value in moments.items()}
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        progress = {"done": self.done, "cpu_seconds": self.cpu_seconds, "settings": dict(self.recipe.settings)}
        write_whole(self.file, save(tensors, metadata={"progress": json.dumps(progress)}))

    def _resume(self) -> None:
        with safe_open(self.file, framework="pt") as file:
            progress = json.loads(file.metadata()["progress"])
        if progress["settings"] != json.loads(json.dumps(dict(self.recipe.settings))):
            raise BadInput(
                explain(
                    f"An unfinished training with other settings lies in {self.state}",
                    found=", ".join(f"{name}={value}" for name, value in progress["settings"].items()),
                    do="finish it with the same settings, remove that folder, or choose another place",
                )
            )
        tensors = load_file(self.file)
        self.network.load_state_dict({name: tensors[f"weight.{name}"] for name in self.network.state_dict()})
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "optimiser":
                index, _, moment = rest.partition(".")
                moments.setdefault(int(index), {})[moment] = tensor
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": moments})
        self.losses = tensors["losses"].tolist()
        self.done, self.cpu_seconds = progress["done"], progress["cpu_seconds"]


def warm_cosine(*, peak: float, steps: int, warm_up: int = 100, last: float = 0.01) -> Callable[[int], float]:
    """A learning rate that rises in a line and falls in half a cosine to a fraction `last` of its peak."""

    def rate(step: int) -> float:
        if step < warm_up:
            return peak * (step + 1) / warm_up
        progress = (step - warm_up) / max(1, steps - warm_up)
        return peak * (last + (1 - last) * 0.5 * (1 + math.cos(math.pi * progress)))

    return rate
