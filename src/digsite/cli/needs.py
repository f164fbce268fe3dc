"""What long work will need, said before it begins."""

import time
from typing import TYPE_CHECKING

from digsite.cli.outputs import duration, note

if TYPE_CHECKING:
    from digsite import Model, Task

_TIMED = 64
"""Rows in the pass that is timed."""


def say_needs(model: "Model", task: "Task", rows: int) -> None:
    """Says on stderr what will be asked of what, and about how long it will take here."""
    told = task.summary()
    what = "pairs" if told["paired"] else "prompts"
    low, high = told["prompt_tokens"]
    tokens = f"{low}" if low == high else f"{low} to {high}"
    note(repr(model))
    note(f"{task.name}: {len(task)} {what} of {tokens} tokens; BOS {task.clean.bos}")
    for reason, number in told["dropped"].items():
        note(f"  dropped {number}: {reason}")
    time_left = duration(rows * _pace(model, task))
    note(f"needs up to {_rounded(rows):,} rows through the model, about {time_left} here")


def _pace(model: "Model", task: "Task") -> float:
    """Seconds for a row, from one pass."""
    some = task.clean[:_TIMED]
    begun = time.perf_counter()
    model.run(some, logits=task.keep)
    return (time.perf_counter() - begun) / len(some)


def _rounded(rows: int) -> int:
    """Two digits: it is an estimate."""
    step = 10 ** max(0, len(str(rows)) - 2)
    return round(rows / step) * step
