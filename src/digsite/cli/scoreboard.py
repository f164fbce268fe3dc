"""`digsite scoreboard`: how well each method finds circuits that are known."""

from typing import Annotated

from cyclopts import Parameter

from digsite.cli.inputs import Count
from digsite.cli.outputs import NOWHERE, Saving, answers, columns, note, origin, print_json, print_saved, spent


def scoreboard(
    *,
    programs: Annotated[str | None, Parameter(name="--programs")] = None,
    methods: Annotated[str | None, Parameter(name="--methods")] = None,
    n: Count = 32,
    seed: int = 0,
    saving: Saving = NOWHERE,
) -> None:
    """How well does each method find a circuit that is known to be there?

    Args:
        programs: Compiled programs, separated by commas; all unless given.
        methods: Methods, separated by commas; all unless given.
        n: Pairs of inputs of each program.
        seed: Of every random choice.
    """
    from digsite.scoreboard import scoreboard as run

    saving.check()
    note("compiling programs and running every method on each; all of them take some minutes")
    board = run(_listed(programs), _listed(methods), n=n, seed=seed)
    if saving.json:
        about = {"verdict": board.verdict, "rows": board.to_frame().to_dicts(), "summary": board.summary().to_dicts()}
        print_json(about | origin(board) | saving.save(board))
        return
    table = columns("method", "AUROC", "AUPRC", "size", "missed", "CPU s")
    for row in board.summary().to_dicts():
        table.add_row(
            row["method"],
            *(_number(row[key]) for key in ("auroc", "auprc", "size_by_true", "missed")),
            f"{row['seconds']:.1f}",
        )
    table.caption = (
        "means over programs; size: nodes to keep for 90 % of the metric, by true nodes; "
        "missed: share of what is there that scores next to nothing"
    )
    out = answers()
    for part in (board.verdict, "", table, "", spent(board)):
        out.print(part)
    print_saved(saving.save(board))


def _listed(names: str | None) -> list[str] | None:
    return None if names is None else [name.strip() for name in names.split(",") if name.strip()]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
