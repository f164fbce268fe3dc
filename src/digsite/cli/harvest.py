"""`digsite harvest`: activations of a model on your own text, written to disk."""

import time
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from digsite.cli.inputs import AS_STORED, Count, Loading, ModelName
from digsite.cli.outputs import Json, answers, columns, duration, note, print_json


def harvest(
    model: ModelName,
    /,
    *,
    corpus: Annotated[list[Path], Parameter(consume_multiple=True)],
    site: Annotated[list[str], Parameter(consume_multiple=True)],
    out: str,
    encoding: Literal["bf16", "fp16", "fp32", "int8"] = "bf16",
    tokens: Count | None = None,
    length: Count = 128,
    batch: Count = 16,
    keep_bos: bool = False,
    field: str = "text",
    json: Json = False,
    loading: Loading = AS_STORED,
) -> None:
    """Writes activations at some sites to disk, row by row; says first what it will take.

    A harvest that was stopped goes on when it is started again. Sites that are not there yet are added.

    Args:
        corpus: Your text: .txt, .md, .jsonl or .parquet files.
        site: Where the model is read, such as layers.5.resid_post; wildcards are allowed.
        out: A folder, or a URL such as s3://bucket/folder.
        encoding: How numbers are written. int8 takes half of bf16, and loses about 5e-5 of the energy.
        tokens: Stop after about this many tokens; all of the text unless given.
        length: Tokens that the model reads together.
        batch: Rows of this length in a pass.
        keep_bos: Keep the rows of the BOS, whose activations are of another size.
        field: The field of .jsonl and the column of .parquet that hold the text.
    """
    from digsite import store
    from digsite._core.errors import explain
    from digsite._core.files import NotWritten
    from digsite.models.memory import size_text
    from digsite.store.planning import several
    from digsite.tasks import Corpus

    loaded = loading.load(model)
    text = Corpus.read(corpus, loaded, length=length, field=field, rows=tokens and max(1, tokens // length))
    source = store.LiveSource(loaded, text, site, bos=keep_bos, batch_size=batch)
    plan = store.plan_harvest(source, out, encoding=encoding)
    note(f"{source}\n{plan}")
    if plan.fits is False:
        raise NotWritten(explain(f"The harvest does not fit into {out}", found=plan.verdict, do="free some space"))
    begun = time.perf_counter()
    made = store.harvest(source, out, encoding=encoding)
    seconds = time.perf_counter() - begun
    rows = [_described(made, column) for column in made.widths]
    if json:
        told = {"rows": plan.rows, "present": plan.present, "disk": plan.disk, "memory": plan.memory}
        about = {"out": out, "model": loaded.name, "rows": made.rows, "shards": len(made.shards), "bytes": made.bytes}
        end = {"identity": dict(made.identity), "plan": told | {"seconds": plan.seconds}, "seconds": seconds}
        print_json(about | {"columns": rows} | end)
        return
    table = columns("column", "width", "written as", "mean length", "largest")
    for row in rows:
        numbers = (f"{row['norm']:.3g}", f"{row['largest']:.3g}")
        table.add_row(row["column"], f"{row['width']:,}", row["encoding"], *numbers)
    table.caption = f"{made.rows:,} rows of tokens; BOS {made.identity['bos']}"
    out_ = answers()
    out_.print(
        f"{made.rows:,} rows in {several(len(made.shards), 'shard')}, {size_text(made.bytes)}, in {duration(seconds)}"
    )
    out_.print(table)
    out_.print(f"store: {out}", soft_wrap=True)


def _described(made: Any, column: str) -> dict[str, Any]:
    """What is known of a column."""
    known, kind = made.statistics(column), made.manifest.columns[column]
    measured = {"norm": known.norm, "rms": known.rms, "variance": known.variance, "largest": known.largest}
    return {"column": column, "width": kind.width, "encoding": kind.encoding} | measured
