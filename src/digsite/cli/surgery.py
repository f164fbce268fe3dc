"""`digsite circuit disable`: a behaviour switched off, what else breaks, and a copy of the model without it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from digsite._core.errors import BadInput, explain
from digsite.cli.circuit import Stored, read_circuit
from digsite.cli.inputs import AS_STORED, AS_USUAL, Count, Examples, Loading, ModelName, TaskName
from digsite.cli.needs import say_needs
from digsite.cli.outputs import (
    NOWHERE,
    Saving,
    answers,
    check_folder,
    columns,
    estimate,
    origin,
    print_json,
    print_saved,
    spent,
)

if TYPE_CHECKING:
    from digsite import Model
    from digsite.tasks import Corpus

LENGTH = 64
"""Tokens in a row of neutral text, or the model's context where that is shorter."""


def disable(
    circuit: Stored,
    /,
    *,
    model: ModelName,
    task: TaskName,
    others: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    neutral: Path | None = None,
    how: Literal["mean", "zero", "resample"] = "mean",
    nodes: bool = False,
    bake: Path | None = None,
    random_parts: Count = 20,
    examples: Examples = AS_USUAL,
    saving: Saving = NOWHERE,
    loading: Loading = AS_STORED,
) -> None:
    """Can a circuit be switched off without breaking anything else?

    Args:
        others: Tasks that should not change.
        neutral: A text file (.txt, .jsonl, .parquet) on which predictions should not change.
        how: What takes the place of what is cut. The mean is taken over the neutral text, else over the task's prompts.
        nodes: Cut the circuit's heads and MLPs, for all that read them, instead of its edges.
        bake: Also write a copy of the model with them switched off to this folder. Needs --nodes; not with resample.
        random_parts: How many random parts of the same size are cut for comparison.
    """
    saving.check()
    if saving.figure is not None:
        raise BadInput(explain("circuit disable draws no figure", do="leave --figure out; --out and --json have all"))
    if bake is not None:
        if not nodes or how == "resample":
            found = f"--how {how}" if nodes else "no --nodes"
            raise BadInput(explain("Only whole heads and MLPs, at zero or a mean, can be baked", found=found))
        check_folder(bake, marker="baked.json")
    asks = [examples.of(name) for name in (task, *(others or ()))]
    loaded = loading.load(model)
    from digsite import editing

    asked, *rest = (ask(loaded) for ask in asks)
    found = read_circuit(circuit, loaded)
    text = None if neutral is None else _corpus(neutral, loaded)
    part = [name.replace("attn.result", "attn.z") for name in found.nodes] if nodes else found
    say_needs(loaded, asked, (4 + 2 * random_parts) * sum(len(one.clean) for one in (asked, *rest)))
    told = editing.disable(
        loaded, part, asked, how=how, others=rest, neutral=text, random_parts=random_parts, seed=examples.seed
    )
    made = None
    if bake is not None:
        over = text if text is not None else asked.clean if asked.corrupt is None else asked.corrupt
        made = editing.bake(loaded, told.names, bake, how=how, over=over)
    if saving.json:
        about: dict[str, Any] = {"verdict": told.verdict, "model": loaded.name, "task": asked.summary(), "how": how}
        about |= {"surgical": told.surgical, "cut": list(told.names), "changes": told.to_frame().to_dicts()}
        baked = None if made is None else {"folder": made.folder, "tensors": list(made.tensors), "error": made.error}
        print_json(about | {"baked": baked} | origin(told) | saving.save(told))
        return
    table = columns("on", "before", "after", "lost [95 %]", "random")
    for row in told.to_frame().to_dicts():
        name = f"{row['on']}, {row['metric']} ({row['unit']})"
        numbers = (f"{row[key]:z.2f}" for key in ("before", "after"))
        table.add_row(name, *numbers, estimate(row["loss"], row["low"], row["high"]), f"{row['random']:z.2f}")
    out = answers()
    for line in (told.verdict, "", table, "", spent(told)):
        out.print(line)
    print_saved(saving.save(told) | {"model": None if made is None else made.folder})


def _corpus(path: Path, model: "Model") -> "Corpus":
    from digsite.tasks import Corpus

    return Corpus.read(path, model, length=min(LENGTH, model.n_ctx or LENGTH))
