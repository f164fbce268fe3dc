"""From saved scoreboards to the lines that the catalogue tells.

1. Read each board: a folder that `digsite scoreboard --out` wrote, or a page of `benchmarks/science` with its table of
   means.
2. A line is its mean over programs, beside the line of chance of its kind. Where two boards have a line the later wins.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from digsite.artifacts import load_result

CHANCE = {"node": "random", "edge": "random edges", "features": "random directions"}
COLUMNS = {"method": ("AUROC", "auroc", "programs"), "learner": ("share recovered", "recovered", "planted")}


def lines(boards: Iterable[Path]) -> list[dict[str, Any]]:
    """The lines of all boards."""
    rows = {line: (key, row) for path in boards for key, line, row in _rows(path)}
    found = []
    for line, (key, row) in rows.items():
        measure, column, over = COLUMNS[key]
        kind = str(row["kind"]) if key == "method" else "features"
        told = {"line": line, "of": {"node": "nodes", "edge": "edges"}.get(kind, kind), "measure": measure}
        told |= {"value": row[column], "chance": rows[CHANCE[kind]][1][column], "over": int(row[over])}
        if key == "method":
            told |= {"missed": row["missed"], "missed_hard": row["missed_hard"]}
        found.append(told)
    return found


def _rows(path: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Which kind of line, its name, and its means."""
    frame = _means(path) if path.suffix == ".md" else load_result(path).summary()  # pyright: ignore[reportAttributeAccessIssue]
    key = "method" if "method" in frame.columns else "learner"
    for row in frame.iter_rows(named=True):
        yield key, row[key], row


def _means(page: Path) -> pl.DataFrame:
    """The table under "Means over" of a page."""
    section = page.read_text(encoding="utf-8").split("\n## Means over")[1].split("\n## ")[0]
    head, _, *body = [
        [cell.strip() for cell in line.strip("| ").split(" | ")] for line in section.splitlines() if line[:1] == "|"
    ]
    return pl.DataFrame([dict(zip(head, map(_value, cells), strict=True)) for cells in body], infer_schema_length=None)


def _value(cell: str) -> str | float | None:
    if cell == "–":
        return None
    try:
        return float(cell)
    except ValueError:
        return cell
