"""The table of a benchmark: rows, the conditions they were measured under, and how they are shown and kept."""

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Table as RichTable

import digsite

PACKAGES = (
    "torch",
    "transformers",
    "transformer-lens",
    "nnsight",
    "interp-engine",
    "sae-lens",
    "eai-sparsify",
    "repeng",
    "steering-vectors",
    "tuned-lens",
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured variant.

    Attributes:
        setting: The model and input it ran on.
        who: "digsite", "Hugging Face", or the peer.
        name: What it does.
        value: In the table's unit.
        ratio: Value by the reference's; where larger is better (`Table.better`), the reference's by this value.
        low: Low end of the ratio's spread (see `Table.spread`).
        high: High end.
        apart: Largest absolute difference of its results from the reference's; None where there is nothing to compare.
        tolerance: The largest difference that counts as equal.
        target: What the ratio is held to; None for rows that are there for comparison.
    """

    setting: str
    who: str
    name: str
    value: float
    ratio: float
    low: float | None = None
    high: float | None = None
    apart: float | None = None
    tolerance: float = 0.0
    target: float | None = None

    @property
    def equal(self) -> bool | None:
        """Whether the results agree to the tolerance."""
        return None if self.apart is None else self.apart <= self.tolerance


@dataclass(frozen=True, kw_only=True)
class Table:
    """Every row of one benchmark.

    Attributes:
        name: Of the benchmark.
        question: What it asks.
        unit: Of the values ("ms" of processor time, "MB").
        rows: In order.
        conditions: What it was measured with.
        better: Whether a larger ratio is the better one.
        spread: What `low` and `high` are: a 95 % interval, or the range over repeats.
        left_out: Peers that are not here, with the reason.
    """

    name: str
    question: str
    unit: str
    rows: list[Row]
    conditions: dict[str, str]
    better: str = "lower"
    spread: str = "95 %"
    left_out: list[str] = field(default_factory=list)

    def met(self, row: Row) -> bool | None:
        """Whether a row holds its target and its results are equal."""
        if row.target is None:
            return None
        return (
            row.ratio <= row.target if self.better == "lower" else row.ratio >= row.target
        ) and row.equal is not False

    def to_json(self) -> str:
        """The table as JSON; README.md documents the keys."""
        rows = [{**asdict(row), "unit": self.unit, "equal": row.equal, "met": self.met(row)} for row in self.rows]
        data = {
            "name": self.name,
            "question": self.question,
            "better": self.better,
            "spread": self.spread,
            "conditions": self.conditions,
            "rows": rows,
            "left_out": self.left_out,
        }
        return json.dumps(data, indent=1)

    def cells(self, row: Row) -> list[str]:
        """One row as text."""
        interval = "" if row.low is None or row.high is None else f" ({row.low:.2f}–{row.high:.2f})"
        equality = "" if row.apart is None else f"{row.apart:.0e}" + ("" if row.equal else " DIFFERS")
        sign = "≤" if self.better == "lower" else "≥"
        target = "" if row.target is None else f"{sign} {row.target:g} " + ("met" if self.met(row) else "MISSED")
        number = f"{row.value:.2f}" if row.value < 100 else f"{row.value:.0f}"
        return [f"{row.who}: {row.name}", number, f"{row.ratio:.2f}{interval}", equality, target]

    @property
    def headings(self) -> list[str]:
        """Names of the columns of `cells`."""
        return ["", self.unit, f"ratio ({self.spread})", "max diff", "target"]

    def show(self) -> None:
        """Prints the table."""
        console = Console()
        console.print(self.question, highlight=False)
        for setting in dict.fromkeys(row.setting for row in self.rows):
            shown = RichTable(*self.headings, title=setting, title_justify="left", box=box.SIMPLE)
            for row in self.rows:
                if row.setting == setting:
                    shown.add_row(*self.cells(row))
            console.print(shown)
        console.print("; ".join(f"{name} {value}" for name, value in self.conditions.items()), highlight=False)
        for line in self.left_out:
            console.print(f"left out: {line}", highlight=False)

    def to_markdown(self) -> str:
        """The table as a page."""
        lines = [f"# {self.name}: {self.question}", ""]
        for setting in dict.fromkeys(row.setting for row in self.rows):
            lines += [f"## {setting}", "", f"| {' | '.join(self.headings)} |", "|" + "---|" * len(self.headings)]
            lines += [f"| {' | '.join(self.cells(row))} |" for row in self.rows if row.setting == setting] + [""]
        lines += ["Conditions: " + "; ".join(f"{name} {value}" for name, value in self.conditions.items()) + "."]
        lines += [f"Left out: {line}." for line in self.left_out]
        return "\n".join(lines) + "\n"

    def save(self, folder: Path) -> Path:
        """Writes the page; its name says what, on which hardware and when."""
        cpu = "".join(c if c.isalnum() else "-" for c in self.conditions["cpu"].lower())
        hardware = "-".join(part for part in cpu.split("-") if part)
        path = folder / f"{self.name}_{hardware}_{datetime.now(UTC):%Y-%m-%d}.md"
        path.write_text(self.to_markdown())
        return path


def conditions(**more: str | int) -> dict[str, str]:
    """What a benchmark ran with: machine, load, versions."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "cpu": _cpu(),
        "cores": str(os.cpu_count()),
        "load": f"{os.getloadavg()[0]:.1f}",
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "digsite": digsite.__version__,
        **versions,
        **{name: str(value) for name, value in more.items()},
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
