"""`digsite investigate`: the main job, from a model, a task and a question to a report."""

from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.table import Table

import digsite
from digsite.cli.inputs import AS_STORED, AS_USUAL, Count, Examples, Loading, ModelName, TaskName, last_name
from digsite.cli.investigate_where import check_options, claims_of_where, corpus, rows_for_where, sought_in
from digsite.cli.needs import say_needs
from digsite.cli.outputs import Json, answers, check_folder, columns, estimate, note, opening, print_json, spent

if TYPE_CHECKING:
    from digsite import Model, Task
    from digsite.investigations import Investigation, WhereInvestigation

_SHOWN = 14
"""Claims in the table; the report has all."""


def investigate(
    *,
    model: ModelName,
    task: TaskName,
    examples: Examples = AS_USUAL,
    question: str | None = None,
    random_sets: Count = 200,
    others: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    text: Path | None = None,
    out: Path | None = None,
    json: Json = False,
    loading: Loading = AS_STORED,
) -> None:
    """How does this model do this task, or where is something represented in it? Evidence, controls and a report.

    How: does it do the task, where does the answer appear, which components write and carry it, and does a small set of
    them break it when knocked out and keep it when kept alone, against random sets of the same size?

    Where: at which layer and position is it read best, does the model use what is read there, does adding it steer, and
    does it carry over to other sets, against shuffled labels and random directions?

    Args:
        question: "how does it do this?", which is asked unless given, or "where is X represented?".
        random_sets: How many random sets the proposed set is compared with (how).
        others: Further task families or files with the same two answers, such as another wording (where).
        text: A text file without the task, on which the cost of steering is measured; unless given, prompts of another
            task, or for digsite/tinyworld its own documents (where).
        out: Folder for the result and report.html; an older result there is replaced. Unless given, a new folder
            investigations/TASK_MODEL, or investigations/where_TASK_MODEL.
    """
    sought = sought_in(question)
    check_options(sought, random_sets=random_sets, others=others, text=text)
    ask = examples.of(task)
    further = {last_name(other): examples.of(other) for other in others or []}
    loaded = loading.load(model)
    asked = ask(loaded)
    called = f"{'' if sought is None else 'where_'}{asked.name}_{last_name(loaded.name)}"
    folder = out or unused(Path("investigations") / called)
    check_folder(folder)
    say_needs(loaded, asked, _rows(loaded, asked, random_sets) if sought is None else rows_for_where(asked))
    note(f"result and report: {folder}")
    if sought is None:
        found = digsite.investigate(loaded, asked, random_sets=random_sets, seed=examples.seed)
    else:
        sets = {name: make(loaded) for name, make in further.items()}
        found = digsite.where(loaded, asked, name=sought, others=sets, text=corpus(loaded, text), seed=examples.seed)
    if not json:
        _print(found)
    found.save(folder)
    report = found.report(folder / "report.html")
    if json:
        print_json(found.summary() | {"report": str(report), "folder": str(folder)})
        return
    answers().print(f"report: {report}\nopen it: {opening(report)}", soft_wrap=True)


def _print(found: "Investigation | WhereInvestigation") -> None:
    from digsite.investigations import Investigation

    out = answers()
    out.print(found.verdict)
    out.print()
    if claims := [claim._asdict() for claim in found.claims()]:
        out.print(_table(claims) if isinstance(found, Investigation) else claims_of_where(claims))
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
