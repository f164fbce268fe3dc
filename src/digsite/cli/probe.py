"""`digsite probe`: what can be read from activations, and where."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from digsite._core.errors import BadInput, explain
from digsite.cli.inputs import AS_STORED, AS_USUAL, Examples, Loading, ModelName, TaskName
from digsite.cli.outputs import (
    NOWHERE,
    Saving,
    answers,
    columns,
    estimate,
    note,
    origin,
    print_json,
    print_saved,
    spent,
)

if TYPE_CHECKING:
    from digsite import Model
    from digsite.directions.probes import ProbeSweep

app = App(name="probe", help="What can be read from activations, and where: sweep, card, monitor.")

Fit = Literal["logistic", "ridge", "lda", "mass-mean", "mean-difference"]
OwnTexts = Annotated[
    Path | None, Parameter(help="Your own .csv, .tsv, .jsonl or .parquet with text and label columns.")
]
_SHOWN = 20
"""Rows of the table; --json and --out have all."""


@app.command
def sweep(
    *,
    model: ModelName,
    task: TaskName | None = None,
    texts: OwnTexts = None,
    yes: str | None = None,
    by: Literal["answer", "clean"] | None = None,
    sites: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    at: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    fit: Fit = "logistic",
    examples: Examples = AS_USUAL,
    saving: Saving = NOWHERE,
    loading: Loading = AS_STORED,
) -> None:
    """Where can a label be read? A probe at every site and position, judged on held-out texts.

    Args:
        yes: The label of your texts that is meant by yes, where there are more than two.
        by: What a task's prompts are told apart by: answer (two answers, such as she and he) or clean (clean prompts
            from corrupt ones). The answer where there are two, unless given.
        sites: Addresses; quote those with stars. The stream after every layer unless given.
        at: Where in the texts: positions such as 3 or -1; of a task also its spans and answer. Every position unless
            given, where all texts are as long; else all spans and the answer of a task, or the last token of a text.
        fit: How the probes are fitted.
    """
    saving.check()
    if (task is None) == (texts is None):
        asked = "A probe is fitted on the prompts of a task, or on texts of your own"
        raise BadInput(explain(asked, do="give either --task or --texts"))
    ask = None if task is None else examples.of(task)
    loaded = loading.load(model)
    from digsite.directions.probes import STREAM, task_sweep

    sites = sites or [STREAM]
    if ask is not None:
        found = task_sweep(loaded, ask(loaded), sites, by=by, at=at, fit=fit, seed=examples.seed)
    else:
        found = _of_texts(loaded, texts, yes, sites, at, fit, examples)
    rows = found.to_frame().to_dicts()
    if saving.json:
        best = dict(zip(("auroc", "low", "high"), found.best[1:], strict=True))
        best |= {"site": found.sites[found.best.cell], "place": found.places[found.best.cell]}
        null = sorted(found.null_best.tolist())
        about = {"verdict": found.verdict, "model": loaded.name, "label": found.label, "fit": found.fit}
        measured = {"best": best, "null_best": null, "trained": found.trained, "cells": rows}
        print_json(about | measured | origin(found) | saving.save(found))
        return
    table = columns("site", "position", "AUROC [95 %]", "shuffled: mean, 97.5 %", "n", left=2)
    for row in sorted(rows, key=lambda row: -row["auroc"])[:_SHOWN]:
        null = f"{row['null_mean']:.2f}, {row['null_high']:.2f}"
        table.add_row(row["site"], row["place"], estimate(row["auroc"], row["low"], row["high"]), null, str(row["n"]))
    table.caption = "on all held-out texts; the sentence above is about the half that did not choose the cell"
    if len(rows) > _SHOWN:
        table.caption += f"\nthe best {_SHOWN} of {len(rows)}; --json and --out give all"
    out = answers()
    for part in (found.verdict, "", table, "", spent(found)):
        out.print(part)
    print_saved(saving.save(found))


def _of_texts(
    model: "Model",
    file: Path | None,
    yes: str | None,
    sites: list[str],
    at: list[str] | None,
    fit: str,
    examples: Examples,
) -> "ProbeSweep":
    """The sweep on texts of one's own."""
    from digsite.directions.probes import probe_sweep
    from digsite.directions.texts import own_texts
    from digsite.tasks.records import read_records

    assert file is not None
    name, tokens, labels, groups = own_texts(model, read_records(file)[: examples.n], yes=yes)
    if wrong := [word for word in at or [] if not word.lstrip("-").isdigit()]:
        asked = f"{wrong[0]!r} is no position of a text"
        raise BadInput(explain(asked, possible="numbers: 0 is the first token, -1 the last"))
    places = None if at is None else [int(word) for word in at]
    if places is None and len(set(tokens.lengths)) > 1:
        note("the texts differ in length: only their last token is probed (--at names positions)")
        places = [-1]
    return probe_sweep(model, tokens, labels, sites, at=places, groups=groups, name=name, fit=fit, seed=examples.seed)
