"""What every command gives: the answer on stdout, notes on stderr, one JSON document where asked, files whole."""

import json
import math
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter, validators
from rich import box
from rich.console import Console
from rich.table import Table

from digsite._core.files import whole_folder

if TYPE_CHECKING:
    from digsite import Result

Json = Annotated[bool, Parameter(name="--json", help="Print one JSON document instead of text (keys: docs/cli.md).")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Saving:
    """Where a result goes.

    Attributes:
        out: Save the result to this folder; an older result there is replaced.
        figure: Save the figure to this .svg, .png or .pdf file.
        json: Print one JSON document instead of text (keys: docs/cli.md).
    """

    out: Path | None = None
    figure: Annotated[Path | None, Parameter(validator=validators.Path(ext=("svg", "png", "pdf")))] = None
    json: bool = False

    def check(self) -> None:
        """Raises before any work what saving would raise after it."""
        if self.out is not None:
            check_folder(self.out)

    def save(self, result: "Result") -> dict[str, str | None]:
        """Saves what was asked for; where each file is, for the JSON document."""
        if self.out is not None:
            result.save(self.out)
        if self.figure is not None:
            result.figure().save(self.figure)
        return {"folder": path_text(self.out), "figure": path_text(self.figure)}


NOWHERE = Saving()


def answers() -> Console:
    """Where answers are printed; names such as attn.z[3] are not markup."""
    return Console(markup=False, emoji=False, highlight=False)


def note(text: str) -> None:
    """A line about what is going on, on stderr, so that stdout holds the answer alone."""
    Console(stderr=True, markup=False, emoji=False, highlight=False, style="dim").print(text)


def print_json(document: dict[str, Any]) -> None:
    """One strict JSON document; a number that is not finite is null."""
    print(json.dumps(_finite(document), indent=2, allow_nan=False))


def print_saved(paths: dict[str, str | None]) -> None:
    """Says where files went."""
    for what, path in paths.items():
        if path is not None:
            answers().print(f"{what}: {path}", soft_wrap=True)


def columns(*headers: str, left: int = 1) -> Table:
    """An empty table that fits a terminal: the first `left` columns are words, the others numbers."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), caption_justify="left")
    for i, header in enumerate(headers):
        table.add_column(header, justify="left" if i < left else "right", overflow="fold")
    return table


def facts(rows: Iterable[tuple[str, Any]]) -> Table:
    """Names and values in two columns."""
    table = Table(box=None, show_header=False, show_edge=False, pad_edge=False)
    for name, value in rows:
        table.add_row(name, str(value))
    return table


def estimate(value: float, low: float, high: float) -> str:
    """A number with its interval."""
    return f"{value:z.2f} [{low:z.2f}, {high:z.2f}]"


def origin(result: "Result") -> dict[str, Any]:
    """The part of a JSON document that says what a result cost and where it comes from."""
    return {"cost": vars(result.cost), "provenance": result.provenance.to_dict()}


def spent(result: "Result") -> str:
    """What a result cost, as a line."""
    cost = result.cost
    passes = cost.forwards + cost.backwards
    return f"cost: {cost.rows:,} rows in {passes:,} {'pass' if passes == 1 else 'passes'}, {duration(cost.seconds)}"


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def check_folder(folder: Path, *, marker: str = "result.json") -> None:
    """Raises what saving a result there would raise, and leaves nothing behind."""
    with suppress(_Tried), whole_folder(folder, marker=marker):
        raise _Tried


class _Tried(Exception):
    """The folder can be written."""


def path_text(path: Path | None) -> str | None:
    """A path for a JSON document."""
    return None if path is None else str(path)


def opening(path: Path) -> str:
    """The command that opens a file on this system."""
    opener = {"darwin": "open", "win32": "start"}.get(sys.platform, "xdg-open")
    return f"{opener} {path}"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
