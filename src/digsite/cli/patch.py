"""`digsite patch`: how much of the behaviour each place carries."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

import digsite
from digsite.cli.inputs import AS_STORED, AS_USUAL, Examples, Loading, ModelName, TaskName
from digsite.cli.needs import say_needs
from digsite.cli.outputs import NOWHERE, Saving, answers, columns, estimate, origin, print_json, print_saved, spent

if TYPE_CHECKING:
    from digsite import Model, Task

_SHOWN = 20
"""Rows of the table; --json and --out have all."""


def patch(
    *,
    model: ModelName,
    task: TaskName,
    sites: Annotated[list[str], Parameter(consume_multiple=True)],
    direction: Literal["denoise", "noise"] = "denoise",
    at: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    examples: Examples = AS_USUAL,
    saving: Saving = NOWHERE,
    loading: Loading = AS_STORED,
) -> None:
    """Which places carry the behaviour? Activation patching, with a null for each.

    Args:
        sites: Addresses such as `layers.2.mlp.out`; quote those with stars: `'layers.*.attn.z[*]'`.
        direction: denoise puts clean into corrupt (what is enough); noise corrupt into clean (what is needed).
        at: Where in the prompts: each (one position at a time), answer, a position such as 3 or -1, or spans of the
            task (S2 IO). Unless given, all positions at once.
    """
    saving.check()
    ask = examples.of(task)
    loaded = loading.load(model)
    asked = ask(loaded)
    say_needs(loaded, asked, _rows(loaded, asked, sites, at))
    place = _place(at)
    found = digsite.activation_patching(loaded, asked, sites, direction=direction, at=place, seed=examples.seed)
    cells = found.to_frame().to_dicts()
    ends = {"base": float(found.base.mean()), "source": float(found.source.mean())}
    if saving.json:
        about = {"verdict": found.verdict, "model": loaded.name, "task": asked.summary(), "direction": direction}
        measured = {"metric": found.metric_name, "unit": found.unit, **ends, "cells": cells}
        print_json(about | measured | origin(found) | saving.save(found))
        return
    table = columns("site", "place", "effect [95 %]", "null [95 %]", "n", left=2)
    for row in sorted(cells, key=lambda row: -abs(row["effect"]))[:_SHOWN]:
        effect = estimate(row["effect"], row["low"], row["high"])
        null = estimate(row["null"], row["null_low"], row["null_high"])
        table.add_row(row["site"], row["place"], effect, null, str(row["n"]))
    begin, end = ("corrupt", "clean") if direction == "denoise" else ("clean", "corrupt")
    table.caption = (
        f"effect: share of the way from {begin} ({ends['base']:.2f}) to {end} ({ends['source']:.2f} {found.unit})"
    )
    if len(cells) > _SHOWN:
        table.caption += f"\nthe strongest {_SHOWN} of {len(cells)}; --json and --out give all"
    out = answers()
    for part in (found.verdict, "", table, "", spent(found)):
        out.print(part)
    print_saved(saving.save(found))


def _place(words: Sequence[str] | None) -> str | int | list[str] | None:
    """`at` as the method takes it."""
    if not words:
        return None
    if len(words) > 1:
        return list(words)
    try:
        return int(words[0])
    except ValueError:
        return words[0]


def _rows(model: "Model", task: "Task", sites: Sequence[str], at: Sequence[str] | None) -> int:
    """Rows that the sweep sends through the model at most."""
    found = sum(len(model.anatomy.expand(address)) for address in sites)
    places = max(task.clean.lengths) if at == ["each"] else len(at or [1])
    n = len(task.clean)
    return 6 * n + found * places * (n + min(32, n))
