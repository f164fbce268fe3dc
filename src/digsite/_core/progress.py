"""A progress bar for work that takes a while."""

import sys
import time
from collections.abc import Generator, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

T = TypeVar("T")

_PATIENCE = 2.0
"""Seconds of work after which a bar appears."""
_SHOWN: ContextVar[bool] = ContextVar("a bar, or something in its place, is shown", default=False)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each", style="progress.data.speed")


def track(iterable: Iterable[T], description: str, total: int | None = None) -> Generator[T]:
    """The items one by one, with a bar on stderr that says the rate and the time left.

    The bar appears when the work has taken two seconds, and only on a terminal. Inside the work of one bar, further
    bars are not shown.

    Args:
        iterable: The work.
        description: What is being done, in a few words.
        total: How many items, where `iterable` has no length.
    """
    if _SHOWN.get() or not sys.stderr.isatty():
        yield from iterable
        return
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task(description, total=total)
    begun = time.monotonic()
    token = _SHOWN.set(True)
    try:
        for item in iterable:
            yield item
            bar.advance(task)
            if not bar.live.is_started and time.monotonic() - begun > _PATIENCE:
                bar.start()
    finally:
        _SHOWN.reset(token)
        bar.stop()


@contextmanager
def without_bars() -> Iterator[None]:
    """Shows no bars inside: something else shows how far the work is."""
    token = _SHOWN.set(True)
    try:
        yield
    finally:
        _SHOWN.reset(token)
