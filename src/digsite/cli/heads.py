"""`digsite heads`: what kind of head each head is."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, validators

import digsite
from digsite._core.errors import BadInput, explain
from digsite.cli.inputs import AS_STORED, AS_USUAL, Count, Examples, Loading, ModelName
from digsite.cli.outputs import NOWHERE, Saving, answers, columns, origin, print_json, print_saved, spent

LENGTH = 128
"""Tokens of a row of text, or the model's context where that is shorter."""


def heads(
    *,
    model: ModelName,
    kinds: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    text: Annotated[list[Path] | None, Parameter(consume_multiple=True)] = None,
    text_rows: Count = 100,
    field: str = "text",
    task: str | None = None,
    looks: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    rows: Annotated[int, Parameter(validator=validators.Number(gte=0))] = 50,
    random_weights: bool = False,
    confirm: bool = False,
    examples: Examples = AS_USUAL,
    saving: Saving = NOWHERE,
    loading: Loading = AS_STORED,
) -> None:
    """What kind of head is each head? Scores on random repeats and on your text, each beside its null.

    Args:
        kinds: Some of previous-token, duplicate-token, induction, first-token, copy-suppression, copying, successor,
            entropy; all that can be measured unless given.
        text: Your text: .txt, .md, .jsonl or .parquet files.
        text_rows: Rows of the text to read.
        field: The field of .jsonl and the column of .parquet that hold the text.
        task: A task whose spans --looks names, or your own file.
        looks: Which span looks at which, such as answer:subject.
        rows: Random repeats to draw; 0 leaves them out.
        random_weights: Look at the same model with shuffled weights too.
        confirm: Knock the induction heads out that were found, beside as many others.
    """
    from digsite.heads import confirm_heads, head_scores

    saving.check()
    ask = None if task is None else examples.of(task)
    pairs = [_pair(look) for look in looks or ()]
    loaded = loading.load(model)
    asked = None if ask is None else ask(loaded)
    corpus = None
    if text:
        length = min(LENGTH, loaded.n_ctx or LENGTH)
        corpus = digsite.Corpus.read(text, loaded, length=length, field=field, rows=text_rows)
    found = head_scores(
        loaded,
        kinds=None if kinds is None else [kind.replace("-", " ") for kind in kinds],
        text=corpus,
        task=asked,
        looks=pairs,
        rows=rows,
        random_weights=random_weights,
        seed=examples.seed,
    )
    chosen = found.found("induction") if confirm else []
    check = confirm_heads(loaded, chosen, seed=examples.seed) if chosen else None
    best = found.best().to_dicts()
    if saving.json:
        about = {"verdict": found.verdict, "model": loaded.name, "layers": list(found.layers), "best": best}
        checked = None if check is None else {"verdict": check.verdict, "heads": check.to_frame().to_dicts()}
        print_json(
            about | {"heads": found.to_frame().to_dicts(), "check": checked} | origin(found) | saving.save(found)
        )
        return
    table = columns("kind", "on", "best", "score", "null", "random", "found", left=2)
    for row, one in zip(best, found.measured, strict=True):
        numbers = (_number(row[name]) for name in ("score", "null", "random"))
        claims = "–" if one.threshold is None else str(int(one.found.sum()))
        table.add_row(row["kind"], row["text"], f"{row['layer']}.{row['head']}", *numbers, claims)
    table.caption = (
        "best: layer.head with the highest score; null: the highest of its own; random: of all heads with "
        "shuffled weights; fractions of attention, copy suppression in logits"
    )
    out = answers()
    for part in (found.verdict, "", table, "", *([check.verdict, ""] if check else []), spent(found)):
        out.print(part)
    if confirm and check is None:
        out.print("No induction heads were found that could be knocked out.")
    print_saved(saving.save(found))


def _pair(look: str) -> tuple[str, str]:
    dst, _, src = look.partition(":")
    if not (dst and src):
        raise BadInput(
            explain(f"--looks {look} is no pair of spans", possible="destination:source", do="answer:subject")
        )
    return dst, src


def _number(value: Any) -> str:
    return "–" if value is None else f"{value:z.2f}"
