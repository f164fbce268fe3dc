"""How a training goes, while it goes: a live picture on a terminal, a line now and then where nobody watches."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from digsite._core.progress import without_bars
from digsite.cli.outputs import columns, duration

Told = Mapping[str, Mapping[str, Any]]
"""What a training tells its callbacks: metrics of each dictionary."""

_BLOCKS = "·▁▂▃▄▅▆▇█"
_SHOWN = 24
"""Dictionaries that have a line; a terminal is not longer."""
_PARTS = 10
"""Lines where nobody watches: one for so many parts of the run, or one a minute."""
_KNOWN = frozenset(
    "dictionary step rows loss fvu l0 dead density rate pressure rows_per_second seconds_left".split()  # noqa: SIM905
)
"""What is told of every dictionary; what else is told are the terms of its loss."""


class Dashboard:
    """A callback that shows how a training goes, on stderr.

    Args:
        rows: Of the whole training.
        console: Where to; stderr unless given.
    """

    def __init__(self, rows: int, console: Console | None = None):
        self.rows = rows
        self.console = console or Console(stderr=True, markup=False, emoji=False, highlight=False)
        self._told: Told = {}
        self._begun = self._told_at = self._said_at = time.monotonic()
        self._said = 0
        self._fvu: dict[str, list[float]] = {}

    @contextmanager
    def shown(self) -> Iterator["Dashboard"]:
        """Shows it while the block runs; other bars are not shown in that time."""
        if not self.console.is_terminal:
            yield self
            return
        self._begun = self._told_at = time.monotonic()
        live = Live(get_renderable=self.picture, console=self.console, refresh_per_second=4, redirect_stdout=False)
        with without_bars(), live:
            yield self

    def __call__(self, step: int, metrics: Told) -> None:
        """Takes what is told at a step."""
        self._told, self._told_at = metrics, time.monotonic()
        for name, told in metrics.items():
            self._fvu.setdefault(name, []).append(told["fvu"])
        if not self.console.is_terminal:
            self._say()

    # -- where nobody watches ----------------------------------------------------------------------------------------
    def _say(self) -> None:
        first = next(iter(self._told.values()))
        part = first["rows"] * _PARTS // self.rows
        if part == self._said and self._told_at - self._said_at < 60:
            return
        self._said, self._said_at = part, self._told_at
        lines = [f"{first['rows']:,} of {self.rows:,} rows, {first['rows_per_second']:,.0f}/s"]
        if first["rows"] < self.rows:
            lines[0] += f", {duration(first['seconds_left'])} left"
        for name, told in list(self._told.items())[:_SHOWN]:
            numbers = f"FVU {told['fvu']:.1%}, L0 {told['l0']:.3g}, dead {told['dead']:.1%}, loss {told['loss']:.4g}"
            lines.append(f"  {name}: {numbers}")
        print("\n".join(lines), file=sys.stderr, flush=True)

    # -- on a terminal -----------------------------------------------------------------------------------------------
    def picture(self) -> Group:
        """What is on the terminal now."""
        if not self._told:
            return Group(Text(f"reading the first rows … {duration(time.monotonic() - self._begun)}"))
        first = next(iter(self._told.values()))
        done = min(first["rows"], self.rows)
        since = time.monotonic() - self._told_at
        left = max(0.0, first["seconds_left"] - since)
        head = Table.grid(padding=(0, 1))
        head.add_row(
            ProgressBar(total=self.rows, completed=done, width=20),
            f"{done:,} of {self.rows:,} rows",
            f"{first['rows_per_second']:,.0f}/s",
            f"{duration(left)} left",
        )
        under = Text("density: latents by how often they fired lately, never│10⁻⁶ … 1", style="dim")
        parts: list[Any] = [head, "", self._table(), under]
        if len(self._told) == 1:
            parts += ["", *_one(first, self._fvu[next(iter(self._told))])]
        if len(self._told) > _SHOWN:
            parts.append(f"and {len(self._told) - _SHOWN} more")
        return Group(*parts)

    def _table(self) -> Table:
        table = columns("dictionary", "FVU", "L0", "dead", "loss", "density")
        for name, told in list(self._told.items())[:_SHOWN]:
            numbers = (f"{told['fvu']:.1%}", f"{told['l0']:.3g}", f"{told['dead']:.1%}", f"{told['loss']:.4g}")
            table.add_row(name, *numbers, histogram(told["density"]))
        return table


def histogram(counts: list[int]) -> str:
    """Counts as a row of blocks; the first, latents that never fired as a share of all, stands apart.

    Args:
        counts: The bins of `digsite.dictionaries.monitor.DENSITIES`.
    """
    never, *fired = map(float, counts)
    return f"{blocks([never, never + sum(fired)])[0]}│{blocks(fired)}"


def blocks(values: list[float]) -> str:
    """Numbers from zero on as blocks: a dot for nothing, and for what is not nothing at least the lowest block."""
    largest = max([*values, 0.0])
    if largest <= 0:
        return _BLOCKS[0] * len(values)
    heights = [0 if value <= 0 else max(1, round(value / largest * (len(_BLOCKS) - 1))) for value in values]
    return "".join(_BLOCKS[height] for height in heights)


def _one(told: Mapping[str, Any], fvu: list[float]) -> list[str]:
    """What else is shown where there is but one dictionary: the terms of its loss, and how FVU fell."""
    terms = ", ".join(f"{name} {value:.4g}" for name, value in told.items() if name not in _KNOWN)
    some = fvu[:: -(-len(fvu) // 40)]
    return [f"terms of the loss: {terms}", f"FVU so far: {blocks(some)} {fvu[0]:.1%} → {fvu[-1]:.1%}"]
