"""`digsite dig` and `digsite search`: a working folder that remembers, and what it remembers found again."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from digsite.cli.outputs import Json, answers, facts, print_json

app = App(name="dig", help="A working folder that remembers what was tried: init, show.")

InDig = Annotated[Path | None, Parameter(name="--dig", help="The dig; else the one that the working directory is in.")]


@app.command
def init(folder: Path = Path(), /, *, title: str = "", question: str = "") -> None:
    """Makes a dig: from then on, every digsite command that is run inside is remembered.

    Args:
        folder: The folder; it is made if need be, and files that are there stay.
        title: Of its pages; the folder's name unless given.
        question: What is asked, in a sentence.
    """
    from digsite.journal import Dig

    made = Dig.init(folder, title=title, question=question)
    out = answers()
    out.print(f"dig: {made.folder}", soft_wrap=True)
    out.print("Run any digsite command inside it, then: digsite runs list")


@app.command
def show(*, dig: InDig = None, json: Json = False) -> None:
    """What is in a dig: how many runs of each status, what they took, and the last of them."""
    from digsite.journal import Dig

    found = Dig.here(dig)
    runs = found.runs()
    counts = {
        status: sum(run.status == status for run in runs) for status in ("done", "failed", "interrupted", "running")
    }
    seconds = sum(run.cost.get("seconds", 0.0) for run in runs)
    if json:
        last = runs[0].to_dict() if runs else None
        print_json({"dig": str(found.folder), "title": found.title, "runs": counts, "seconds": seconds, "last": last})
        return
    rows = [("dig", found.folder), ("title", found.title)]
    rows += [("runs", ", ".join(f"{count} {status}" for status, count in counts.items() if count) or "none yet")]
    rows += [("computed", f"{seconds / 60:.1f} min")] if runs else []
    rows += [("last", f"{runs[0].id} {runs[0].method}: {runs[0].verdict or runs[0].error}")] if runs else []
    answers().print(facts(rows))


def search(*words: str, last: int = 20, dig: InDig = None, json: Json = False) -> None:
    """Where do these words occur? Runs, findings, notes and days of the log, the best first.

    Args:
        words: Words or beginnings of words; all of them must occur.
        last: Show no more than this many.
    """
    from digsite.journal import Dig

    found = Dig.here(dig).search(" ".join(words), last=last)
    if json:
        print_json({"words": list(words), "found": [vars(hit) for hit in found]})
        return
    out = answers()
    for hit in found:
        out.print(f"{hit.ref}  {hit.title}")
        if hit.snippet:
            out.print(f"    {hit.snippet}")
    if not found:
        out.print("nothing found")
