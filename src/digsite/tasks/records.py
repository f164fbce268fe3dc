"""A user's table as examples: columns by name, rows as written, every faulty row reported."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from digsite._core.errors import BadInput, LoadError, explain
from digsite.tasks.encoding import Encoded, Refused, encode
from digsite.tasks.examples import Example

_LISTED = 8

# Everything is read as text: an answer "01" must not become 1.
_READERS = {
    ".csv": lambda path: pl.read_csv(path, infer_schema=False),
    ".tsv": lambda path: pl.read_csv(path, infer_schema=False, separator="\t"),
    ".jsonl": pl.read_ndjson,
    ".ndjson": pl.read_ndjson,
    ".parquet": pl.read_parquet,
}


def read_records(frame: Any) -> pl.DataFrame:
    """A table from a file or from a frame of any kind.

    Args:
        frame: A path (.csv, .tsv, .jsonl, .ndjson, .parquet), a polars or pandas frame, a mapping of columns, or a
            list of rows.

    Raises:
        LoadError: There is no such file, or it cannot be read as what its name says.
        BadInput: The kind of file or of object is not known, or there are no rows.
    """
    if isinstance(frame, str | Path):
        path = Path(frame)
        if path.suffix.lower() not in _READERS:
            raise BadInput(explain(f"A task cannot be read from {path.name}", possible=_READERS))
        try:
            table = _READERS[path.suffix.lower()](path)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise LoadError(explain(f"The task file {path} cannot be read", found=str(error))) from error
    else:
        try:
            table = frame if isinstance(frame, pl.DataFrame) else pl.DataFrame(frame)
        except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
            raise BadInput(
                explain(
                    f"A task cannot be made from a {type(frame).__name__}",
                    found=str(error),
                    possible="a file, a polars or pandas frame, a mapping of columns, a list of rows",
                )
            ) from error
    if not len(table):
        raise BadInput(explain("The table has no rows", found=f"columns {', '.join(table.columns)}"))
    return table


def usable_rows(
    model: Any, frame: Any, columns: Mapping[str, str | None], *, drop: bool
) -> tuple[list[Encoded], Counter[str]]:
    """The rows of a table as ids, and what was left out, counted by reason.

    Args:
        model: Its tokenizer decides which rows can be used.
        frame: A file or a table, as `read_records` takes it.
        columns: For clean, corrupt, right, wrong and group, the name of the column, or None for one that is not used.
        drop: Go on without the rows, and the answers among several, that cannot be used.

    Raises:
        BadInput: Columns are missing, or rows cannot be used; all of them are named.
        LoadError: The file cannot be read.
    """
    entries = _examples(read_records(frame), columns)
    coded = iter(encode(model, [entry for entry in entries if isinstance(entry, Example)], spare=drop))
    outcome = [entry if isinstance(entry, Refused) else next(coded) for entry in entries]
    good = [entry for entry in outcome if isinstance(entry, Encoded)]
    bad = {row: entry for row, entry in enumerate(outcome) if isinstance(entry, Refused)}
    if bad and not (drop and good):
        listed = [f"row {row}: {why.reason} ({why.found})" for row, why in list(bad.items())[:_LISTED]]
        more = [f"and {len(bad) - _LISTED} more rows"] if len(bad) > _LISTED else []
        raise BadInput(
            explain(
                f"{len(bad)} of {len(outcome)} rows cannot be used (rows are counted from 0)",
                found="\n  ".join(["", *listed, *more]),
                do="change or remove these rows, or pass drop_unusable=True to go on without them",
            )
        )
    return good, Counter([why.reason for why in bad.values()] + [reason for e in good for reason in e.spared])


def _examples(table: pl.DataFrame, columns: Mapping[str, str | None]) -> list[Example | Refused]:
    """One entry for each row: an example, or why it is none."""
    used = {role: column for role, column in columns.items() if column is not None}
    missing = {role: column for role, column in used.items() if column not in table.columns}
    if missing:
        raise BadInput(
            explain(
                "The table lacks " + ", ".join(f"the column {column!r} ({role})" for role, column in missing.items()),
                found=f"columns {', '.join(table.columns)}",
                do="name the columns: " + ", ".join(f"{role}=..." for role in missing)
                + "; corrupt=None and wrong=None go without",
            )
        )  # fmt: skip
    return [_example({role: row[column] for role, column in used.items()}) for row in table.iter_rows(named=True)]


def _example(row: Mapping[str, Any]) -> Example | Refused:
    empty = [role for role in ("clean", "corrupt", "right", "wrong") if role in row and row[role] in (None, "", [])]
    if empty:
        return Refused("a cell is empty", ", ".join(empty))
    try:
        return Example(
            clean=str(row["clean"]),
            corrupt=str(row["corrupt"]) if "corrupt" in row else None,
            right=_answers(row["right"]),
            wrong=_answers(row["wrong"]) if "wrong" in row else (),
            group="" if row.get("group") is None else str(row["group"]),
        )
    except BadInput as error:
        return Refused("not a usable example", str(error).splitlines()[1].removeprefix("Found: ").rstrip("."))


def _answers(cell: Any) -> tuple[str, ...]:
    """Answers separated by "|", or a list of them."""
    return tuple(map(str, cell)) if isinstance(cell, list) else tuple(str(cell).split("|"))
