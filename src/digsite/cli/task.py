"""`digsite task`: the questions that a model can be asked."""

import inspect
from typing import TYPE_CHECKING, Any

from cyclopts import App

import digsite
from digsite.cli.inputs import AS_STORED, AS_USUAL, Count, Examples, Loading, ModelName, TaskName, options_of
from digsite.cli.outputs import Json, answers, columns, print_json

if TYPE_CHECKING:
    from digsite import Task

app = App(name="task", help="The questions that a model can be asked.")


@app.command
def show(
    task: TaskName,
    /,
    *,
    model: ModelName,
    examples: Examples = AS_USUAL,
    show: Count = 3,
    json: Json = False,
    loading: Loading = AS_STORED,
) -> None:
    """The prompts exactly as the model reads them, the answers, and what was dropped.

    Args:
        show: How many examples to print; --json gives all.
    """
    ask = examples.of(task)
    loaded = loading.load(model)
    made = ask(loaded)
    if json:
        print_json(made.summary() | {"model": loaded.name, "prompts": _prompts(made)})
    else:
        answers().print(made.preview(show))


@app.command(name="list")
def list_(*, json: Json = False) -> None:
    """The task families that come with digsite."""
    families = [
        {"name": name, "asks": (inspect.getdoc(family) or "").splitlines()[0], "options": options_of(family)}
        for name, family in digsite.tasks.FAMILIES.items()
    ]
    if json:
        print_json({"tasks": families})
        return
    table = columns("task", "asks", left=2)
    for family in families:
        options = "".join(f" (--{option})" for option in family["options"])
        table.add_row(family["name"], family["asks"] + options)
    out = answers()
    out.print(table)
    out.print("\nSee one with: digsite task show ioi --model digsite/tinyworld")


def _prompts(task: "Task") -> list[dict[str, Any]]:
    """Every example, its prompts token by token."""
    made = []
    for i, group in enumerate(task.groups):
        row = int(task.right.rows[i, 0])
        # Rows of longer answers hold the answer's first tokens after the prompt.
        stop = task.clean.lengths[row] - int(task.right.mask[i, 0].sum()) + 1
        corrupt = None if task.corrupt is None else task.corrupt.strings[row][:stop]
        made.append(
            {
                "clean": task.clean.strings[row][:stop],
                "corrupt": corrupt,
                "right": list(task.right.texts[i]),
                "wrong": list(task.wrong.texts[i]),
                "spans": {name: [int(end) for end in ends[i]] for name, ends in task.spans.items()},
                "group": group,
            }
        )
    return made
