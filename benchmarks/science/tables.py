"""Frames as Markdown."""

import math
from typing import Any

import polars as pl


def table(frame: pl.DataFrame) -> list[str]:
    """A frame as the lines of a Markdown table."""
    rows = [frame.columns, ["---"] * frame.width, *(map(_text, row) for row in frame.iter_rows())]
    return [f"| {' | '.join(row)} |" for row in rows]


def _text(cell: Any) -> str:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "–"
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)
