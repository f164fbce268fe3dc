"""`digsite runs`: what was tried in a dig, shown, compared and tried again."""

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from digsite._core.errors import BadInput, explain
from digsite.cli.dig import InDig
from digsite.cli.outputs import Json, answers, columns, duration, facts, note, print_json

if TYPE_CHECKING:
    from digsite.journal import Comparison, Dig, RunRecord

app = App(name="runs", help="What was tried in a dig: list, show, compare, rerun, note, tag, rm.")

Number = Annotated[str, Parameter(help="The run's number, as `digsite runs list` shows it.")]
_REDIRECTED = ("--out", "--figure", "--report")
"""Options that name what a command writes; a rerun writes it elsewhere."""


@app.command(name="list")
def list_(
    *,
    status: str | None = None,
    tag: str | None = None,
    method: str | None = None,
    last: int = 30,
    dig: InDig = None,
    json: Json = False,
) -> None:
    """What was tried, the newest first.

    Args:
        status: Only these: done, failed, interrupted or running.
        tag: Only those with this tag.
        method: Only methods whose name holds this, such as patching or logit_lens.
        last: Show no more than this many.
    """
    from digsite.journal import Dig

    found = Dig.here(dig).runs(status=status, tag=tag, method=method, last=last)
    if json:
        print_json({"runs": [run.to_dict() for run in found]})
        return
    table = columns("run", "when", "method", "status", "what it says", left=5)
    for run in found:
        when = run.started.astimezone().strftime("%Y-%m-%d %H:%M")
        said = run.verdict or run.error.partition("\n")[0]
        tags = "".join(f" #{name}" for name in run.tags)
        table.add_row(str(run.id), when, run.method.rpartition(".")[2], run.status, said + tags)
    answers().print(table if found else "no run yet: any digsite command that is run inside the dig is remembered")


@app.command
def show(number: Number, /, *, dig: InDig = None, json: Json = False) -> None:
    """All that is known of a run: what it says, where it comes from, what it cost, how to make it again."""
    from digsite.journal import Dig

    here = Dig.here(dig)
    run = _run(here, number)
    if json:
        print_json(run.to_dict())
        return
    made = {name: value for name, value in run.provenance.items() if value is not None and name != "made_by"}
    rows: list[tuple[str, Any]] = [("run", run.id), ("method", run.method), ("status", run.status)]
    rows += [("says", run.verdict)] if run.verdict else []
    rows += [("error", run.error)] if run.error else []
    rows += [("again", run.again), ("started", run.started.astimezone().isoformat(sep=" ", timespec="seconds"))]
    rows += [("cost", _cost(run))] if run.cost else []
    rows += [("tags", " ".join(run.tags))] if run.tags else []
    rows += [("repeats", f"run {run.rerun_of}")] if run.rerun_of else []
    rows += [("result", run.folder)] if run.folder.is_dir() else []
    notes = here.folder / "notes" / f"run-{run.id:04d}.md"
    rows += [("notes", notes)] if notes.is_file() else []
    answers().print(facts(rows + list(made.items())), soft_wrap=True)


@app.command
def compare(
    first: Number,
    second: Number,
    /,
    *,
    absolute: float = 1e-5,
    relative: float = 1e-4,
    dig: InDig = None,
    json: Json = False,
) -> None:
    """Do two runs give the same numbers? Field by field, over machines and versions too.

    Args:
        absolute: Differences up to this are none.
        relative: Differences up to this share of the larger number are none.
    """
    from digsite.journal import Dig
    from digsite.journal import compare as compared

    here = Dig.here(dig)
    results = [here.result(_run(here, number).id) for number in (first, second)]
    _show(compared(*results, absolute=absolute, relative=relative), {"runs": [first, second]}, json=json)


@app.command
def rerun(
    number: Number, /, *, absolute: float = 1e-5, relative: float = 1e-4, dig: InDig = None, json: Json = False
) -> int:
    """Runs the command of a run once more, and says whether the numbers agree.

    What the command writes to --out, --figure or --report goes to a folder that is thrown away: what you have stays.

    Args:
        absolute: Differences up to this are none.
        relative: Differences up to this share of the larger number are none.
    """
    from digsite.journal import Dig
    from digsite.journal import compare as compared

    here = Dig.here(dig)
    run = _run(here, number)
    before = here.result(run.id)
    new = _repeated(here, run)
    found = compared(before, here.result(new.id), absolute=absolute, relative=relative)
    _show(found, {"runs": [run.id, new.id]}, json=json)
    return 0 if found.agrees else 1


@app.command(name="note")
def note_(number: Number, text: str, /, *, dig: InDig = None) -> None:
    """Writes something down about a run; the file is yours to edit.

    Args:
        text: What is to be remembered, in Markdown.
    """
    from digsite.journal import Dig

    here = Dig.here(dig)
    answers().print(f"note: {here.note(_run(here, number).id, text)}", soft_wrap=True)


@app.command
def tag(number: Number, /, *names: str, remove: bool = False, dig: InDig = None) -> None:
    """Gives words to a run, by which it is found again.

    Args:
        names: One word each.
        remove: Take the words away instead.
    """
    from digsite.journal import Dig

    here = Dig.here(dig)
    run = _run(here, number)
    (here.untag if remove else here.tag)(run.id, *names)
    answers().print(f"run {run.id}: {' '.join(here.run(run.id).tags) or 'no tags'}")


@app.command
def rm(*numbers: Number, dig: InDig = None) -> None:
    """Forgets runs, with their results; notes about them stay."""
    from digsite.journal import Dig

    here = Dig.here(dig)
    for run in [_run(here, number) for number in numbers]:
        here.remove(run.id)
        answers().print(f"run {run.id} is gone")


# -- the parts -------------------------------------------------------------------------------------------------------
def _run(dig: "Dig", number: str) -> "RunRecord":
    from digsite.journal.dig import numbers

    return dig.run(numbers([number])[0])


def _cost(run: "RunRecord") -> str:
    cost = run.cost
    passes = int(cost.get("forwards", 0) + cost.get("backwards", 0))
    peak = f", {cost['peak_mb']:.0f} MB at most" if "peak_mb" in cost else ""
    return f"{int(cost.get('rows', 0)):,} rows in {passes:,} passes, {duration(cost.get('seconds', 0.0))}{peak}"


def _show(found: "Comparison", about: dict[str, Any], *, json: bool) -> None:
    rows = found.to_frame().to_dicts()
    if json:
        origins = [dict(zip(("field", "first", "second"), one, strict=True)) for one in found.origins]
        print_json(about | {"verdict": found.verdict, "agrees": found.agrees, "fields": rows, "origins": origins})
        return
    out = answers()
    out.print(found.verdict)
    wrong = [row for row in rows if not row["agrees"]]
    if wrong:
        table = columns("field", "largest", "of its size", "")
        for row in wrong[:20]:
            table.add_row(row["field"], f"{row['largest']:.3g}", f"{row['relative']:.3g}", row["words"])
        out.print(table)
    if found.origins:
        table = columns("origin", "first", "second", left=3)
        for one in found.origins:
            table.add_row(*one)
        out.print(table)


def _repeated(dig: "Dig", run: "RunRecord") -> "RunRecord":
    """The run that the command of another one makes, in a process of its own."""
    if run.command is None:
        asked = f"Run {run.id} was called from Python, and only a command can be run again from here"
        do = f"call it again inside the dig, then: digsite runs compare {run.id} <its number>"
        raise BadInput(explain(asked, found=run.call, do=do))
    if not run.place.is_dir():
        raise BadInput(explain(f"The working directory of run {run.id} is gone", found=str(run.place)))
    last = max((one.id for one in dig.runs(last=1)), default=0)
    note(f"running again: {run.command}")
    program = (sys.executable, "-c", "from digsite.cli.main import main; main()")
    with tempfile.TemporaryDirectory() as spare:
        words = _redirected(shlex.split(run.command)[1:], Path(spare))
        environment = os.environ | {"DIGSITE_DIG": str(dig.folder)}
        quiet = subprocess.DEVNULL
        ended = subprocess.run([*program, *words], cwd=run.place, env=environment, stdout=quiet, check=False)
    new = [one for one in reversed(dig.runs(method=run.method)) if one.id > last]
    if ended.returncode != 0 or not new:
        found = f"it ended with exit code {ended.returncode}" if ended.returncode else f"it called no {run.method}"
        asked = f"The command of run {run.id} cannot be repeated"
        raise BadInput(explain(asked, found=found, do="see what it said above"))
    dig.repeats(new[0].id, run.id)
    return dig.run(new[0].id)


def _redirected(words: Sequence[str], spare: Path) -> list[str]:
    made, turned = [], ""
    for word in words:
        name, equals, value = word.partition("=")
        if turned:
            word = str(spare / f"{turned}{Path(word).suffix}")
        elif equals and name in _REDIRECTED:
            word = f"{name}={spare / (name.strip('-') + Path(value).suffix)}"
        turned = word.strip("-") if word in _REDIRECTED else ""
        made.append(word)
    return made
