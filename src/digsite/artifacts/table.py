"""A table of numbers for a terminal."""

from typing import Any

import polars as pl
from rich.table import Table

_ROWS = 20


def table_of(frame: pl.DataFrame, title: str, *, rows: int = _ROWS) -> Table:
    """The first rows of a frame, numbers to the right and with three digits.

    Args:
        frame: What to show.
        title: Stands above.
        rows: How many rows to show; how many more there are is said below.
    """
    more = frame.height - rows
    caption = f"{more} more rows in to_frame()" if more > 0 else None
    table = Table(title=title, title_justify="left", title_style="", caption=caption, caption_justify="left", box=None)
    for name, kind in frame.schema.items():
        table.add_column(name, justify="right" if kind.is_numeric() else "left", overflow="fold")
    for row in frame.head(rows).iter_rows():
        table.add_row(*(_cell(value) for value in row))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
