"""What a training will need, said before it begins: rows, numbers, memory and time, from a rehearsal of a few steps.

1. Rows for one batch are read, and the reading is timed.
2. Copies of the dictionaries take three steps on them, and the last two are timed; the dictionaries stay as they are.
   Of several that are alike, one rehearses for all.
"""

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from digsite.dictionaries.dictionary import Dictionary
from digsite.dictionaries.preparing import prepare
from digsite.dictionaries.recipes import Recipe
from digsite.dictionaries.trainer import Trainer
from digsite.dictionaries.training import steps_of
from digsite.models.memory import size_text
from digsite.store import Rows, Source

_STEPS = 3
"""Of a rehearsal; the first is not timed."""
_BYTES = 16
"""Of each number that is learned: itself, its gradient, and two moments."""
_FEW = 100_000
"""Rows below which latents are learned that fit this text alone."""


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """What a training will need.

    Attributes:
        parameters: Numbers that each dictionary learns, by its name.
        rows: Rows that each learns from.
        there: Rows that the source has.
        batch: Rows in a step.
        steps: Optimiser steps.
        memory: Bytes of dictionaries, gradients, moments, the buffer of rows and one batch, beside the model.
        reading: Seconds to read the rows.
        learning: Seconds of all steps.
        notes: What may be odd about it.
    """

    parameters: Mapping[str, int]
    rows: int
    there: int
    batch: int
    steps: int
    memory: int
    reading: float
    learning: float
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """About how long it will take here."""
        return self.reading + self.learning

    @property
    def verdict(self) -> str:
        """The answer in one line, but for the time."""
        several = f"{len(self.parameters)} dictionaries" if len(self.parameters) > 1 else "1 dictionary"
        epochs = f" ({self.rows / self.there:.3g} times the {self.there:,} there are)" if self.rows > self.there else ""
        return (
            f"{several} of {sum(self.parameters.values()):,} numbers; {self.rows:,} rows{epochs} in {self.steps:,} "
            f"steps of {self.batch:,}; {size_text(self.memory)} of memory beside the model"
        )


def plan_training(
    source: Source,
    dictionaries: Mapping[str, tuple[Dictionary, Recipe]],
    *,
    rows: int | None = None,
    batch: int = 4096,
    buffer: int = 131_072,
    seed: int = 0,
) -> TrainingPlan:
    """What `train` with the same arguments will need; the dictionaries stay as they are.

    Args:
        source: What will be read; a few chunks of it are.
        dictionaries: By name, each with its recipe.
        rows: How many rows to learn from; all of the source once if None.
        batch: Rows in a step.
        buffer: Rows that are shuffled at one time.
        seed: Of first numbers.

    Raises:
        BadInput: A column is missing or constant, or a recipe does not go with its dictionary.
        ShapeMismatch: A column has another width.
        NotFinite: An activation is a NaN or infinite.

    Units: bytes; seconds on the clock.

    Caveats:
        A busy machine is slower than a quiet one, and the first rows are not slower than others.
    """
    wanted = source.rows if rows is None else rows
    batch = min(batch, source.rows)
    steps = steps_of(wanted, source.rows, batch)
    some, row_seconds = _read(source, batch)  # 1.
    known: dict[tuple, float] = {}
    for one in dictionaries.values():
        key = _kind(*one)
        if key not in known:
            known[key] = _rehearse(*one, source, some, steps=steps, rows=wanted, seed=seed)  # 2.
    sizes = {name: sum(x.numel() for x in one.parameters()) for name, (one, _) in dictionaries.items()}
    width = sum(x.shape[1] * x.element_size() for x in some.values())
    widest = max(one.width for one, _ in dictionaries.values())
    few = f"{source.rows:,} rows are little text: judge on other text"
    return TrainingPlan(
        parameters=sizes,
        rows=wanted,
        there=source.rows,
        batch=batch,
        steps=steps,
        memory=_BYTES * sum(sizes.values()) + min(buffer, source.rows) * width + 8 * batch * widest,
        reading=row_seconds * (wanted + min(buffer, source.rows)),
        learning=steps * sum(known[_kind(*one)] for one in dictionaries.values()),
        notes=(few,) if source.rows < _FEW else (),
    )


def _read(source: Source, batch: int) -> tuple[Rows, float]:
    """Rows for a batch, and the seconds that a row took; the first chunk warms up, and counts only if it is alone."""
    chunks, begun = source.chunks(), time.perf_counter()
    parts, warm = [next(chunks)], time.perf_counter()
    for rows in chunks:
        parts.append(rows)
        if sum(part.count for part in parts) >= batch:
            break
    ended, read = time.perf_counter(), Rows.join(parts)
    later = read.count - parts[0].count
    seconds = (ended - warm) / later if later else (warm - begun) / read.count
    return read.take(slice(0, batch)), seconds


def _kind(dictionary: Dictionary, recipe: Recipe) -> tuple:
    """What the time of a step depends on."""
    blocks = tuple((block.latents, len(block.reads), len(block.writes)) for block in dictionary.config.blocks)
    widths = tuple(column.width for column in dictionary.config.columns.values())
    return blocks, widths, recipe.name, repr(recipe.activation)


def _rehearse(
    dictionary: Dictionary, recipe: Recipe, source: Source, some: Rows, *, steps: int, rows: int, seed: int
) -> float:
    """Seconds of a step."""
    trainer = Trainer(
        prepare(copy.deepcopy(dictionary), recipe, source, seed=seed), recipe, steps=steps, rows=rows, seed=seed
    )
    begun = 0.0
    for step in range(_STEPS):
        begun = begun if step > 1 else time.perf_counter()
        trainer.step(some.to(trainer.pressure.device, torch.float32))
    trainer.monitor.read()  # waits for the device
    return (time.perf_counter() - begun) / (_STEPS - 1)
