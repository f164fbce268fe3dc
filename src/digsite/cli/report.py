"""`digsite report`: everything a dig holds, as one page or as a folder of pages."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from digsite.cli.dig import InDig
from digsite.cli.outputs import Json, answers, opening, print_json

if TYPE_CHECKING:
    from digsite.journal import Dig
    from digsite.journal.log import LogSummary


def report(*, out: Path | None = None, site: Path | None = None, dig: InDig = None, json: Json = False) -> None:
    """Writes a dig as a page: what is asked, what was found on what evidence, what was tried, what failed, the hours.

    Args:
        out: The page; report.html in the dig unless given.
        site: Write a folder of static pages instead, for any file server, with every figure as SVG, PNG and PDF.
    """
    from digsite.journal import Dig
    from digsite.viz.dig import dig_report, write_site

    found = Dig.here(dig)
    log = _log(found)
    if site is not None:
        path = write_site(found, site, log) / "index.html"
    else:
        path = dig_report(found, log).write(out or found.folder / "report.html")
    if json:
        print_json({"report": str(path), "runs": len(found.runs()), "findings": len(found.findings.list())})
        return
    answers().print(f"report: {path}\nopen it: {opening(path)}", soft_wrap=True)


def _log(dig: "Dig") -> "LogSummary | None":
    """The daily log; None where no day was written."""
    from digsite.journal.log import Log, RunLine, summarise

    entries = Log(dig.folder / "log").entries()
    runs = [
        RunLine(started=run.started.astimezone(), id=str(run.id), title=run.method, status=run.status)
        for run in reversed(dig.runs())
    ]
    return summarise(entries, now=datetime.now().astimezone(), runs=runs) if entries else None
