"""`digsite investigate`: the main job, from a model and a task to a report."""

from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

import digsite
from digsite.cli.inputs import AS_STORED, AS_USUAL, Count, Examples, Loading, ModelName, TaskName, last_name
from digsite.cli.needs import say_needs
from digsite.cli.outputs import Json, answers, check_folder, columns, estimate, note, opening, print_json, spent

if TYPE_CHECKING:
    from digsite import Model, Task
    from digsite.investigations import Investigation

_SHOWN = 14
"""Claims in the table; the report has all."""


def investigate(
    *,
    model: ModelName,
    task: TaskName,
    examples: Examples = AS_USUAL,
    random_sets: Count = 200,
    out: Path | None = None,
    json: Json = False,
    loading: Loading = AS_STORED,
) -> None:
    """How does this model do this task? Evidence, controls and a report.

    Does it do the task, where does the answer appear, which components write and carry it, and does a small set of
    them break it when knocked out and keep it when kept alone, against random sets of the same size?

    Args:
        random_sets: How many random sets the proposed set is compared with.
        out: Folder for the result and report.html; an older result there is replaced. Unless given, a new folder
            investigations/TASK_MODEL.
    """

    ask = examples.of(task)
    loaded = loading.load(model)
    asked = ask(loaded)
    folder = out or unused(Path("investigations") / f"{asked.name}_{last_name(loaded.name)}")
    check_folder(folder)
    say_needs(loaded, asked, _rows(loaded, asked, random_sets))
    note(f"result and report: {folder}")
    found = digsite.investigate(loaded, asked, random_sets=random_sets, seed=examples.seed)
    if not json:
        _print(found)
    found.save(folder)
    report = found.report(folder / "report.html")
    if json:
        print_json(found.summary() | {"report": str(report), "folder": str(folder)})
        return
    answers().print(f"report: {report}\nopen it: {opening(report)}", soft_wrap=True)


def _print(found: "Investigation") -> None:
    out = answers()
    out.print(found.verdict)
    out.print()
    if claims := found.claims():
        out.print(_table([claim._asdict() for claim in claims]))
        out.print()
    out.print(spent(found))


def _table(claims: list[dict[str, Any]]) -> Table:
    """The claims about the set, then those about single components, strongest first."""
    claims = claims[:2] + sorted(claims[2:], key=lambda claim: -abs(claim["effect"]))
    table = columns("claim", "share [95 %]", "null", "n", "holds")
    for claim in claims[:_SHOWN]:
        share = estimate(claim["effect"], claim["low"], claim["high"])
        holds = "yes" if claim["supported"] else "no"
        table.add_row(claim["claim"], share, f"{claim['null']:z.2f}", str(claim["n"]), holds)
    if len(claims) > _SHOWN:
        table.caption = f"and {len(claims) - _SHOWN} more claims in the report"
    return table


def unused(folder: Path) -> Path:
    """The folder, or one beside it with a number, where nothing is yet: an earlier result is never replaced unasked."""
    names = (folder if i == 1 else folder.with_name(f"{folder.name}-{i}") for i in count(1))
    return next(name for name in names if not name.exists())


def _rows(model: "Model", task: "Task", random_sets: int) -> int:
    """Rows that an investigation sends through the model at most, step by step."""
    from digsite.circuits.judging import SHARES
    from digsite.investigations.investigation import CANDIDATES, CHOOSING

    n, parts = len(task.clean), len(digsite.components(model))
    lengths = set(task.clean.lengths)
    places = model.n_layers * (lengths.pop() if len(lengths) == 1 else len(task.spans) + 1)
    patching = (2 * parts + places) * (n + min(32, n))
    choosing = sum(min(CANDIDATES, left) for left in range(1, parts + 1)) * min(CHOOSING, n // 2)
    judging = 2 * random_sets * min(50, n // 2)
    # Edges: scored here and in shuffled weights, then every size, its rest and five random circuits of it are tried.
    edges = (2 * 17 + 9 * len(SHARES) + 20) * (n // 2)
    return 12 * n + patching + choosing + judging + edges
