"""A dig as pages: what is asked, what was found and on what evidence, what was tried, what failed, the hours.

Two shapes of the same parts:

- One file, in which a link opens what it leads to further down (`dig_report`).
- A folder of static pages for any file server: an index, a page for each finding and run, the log; beside the page of
  a run lie its figures (SVG, PNG, PDF), their numbers (Parquet) and the command that made them (`write_site`).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markupsafe import Markup

from digsite._core.errors import DigsiteError, Unsupported
from digsite._core.figures import drawing_of
from digsite._core.files import whole_folder, write_whole
from digsite.artifacts import Result
from digsite.journal import Dig, RunRecord
from digsite.journal.findings import Finding
from digsite.journal.log import LogSummary
from digsite.viz.figure import Figure
from digsite.viz.html import render
from digsite.viz.log import log_report
from digsite.viz.page import Part, Report, Section, picture
from digsite.viz.table import Chip, Status, data_table

MARKER = "index.html"
_CHIPS: dict[str, Status] = {"supported": "good", "refuted": "bad", "artefact": "bad", "open": "open"}
_RUN_CHIPS: dict[str, Status] = {"done": "plain", "failed": "bad", "interrupted": "open", "running": "open"}
_SHOWN = 200
"""Runs on the front page; every run of a site has its own."""


@dataclass(frozen=True)
class Links:
    """Where things are, seen from a page.

    Attributes:
        run: The address of a run.
        finding: The address of a finding.
    """

    run: Callable[[int], str]
    finding: Callable[[int], str]


INSIDE = Links(lambda number: f"#run-{number}", lambda number: f"#finding-{number}")
FRONT = Links(lambda number: f"runs/{number}.html", lambda number: f"findings/{number}.html")
BELOW = Links(lambda number: f"../runs/{number}.html", lambda number: f"../findings/{number}.html")


def dig_report(dig: Dig, log: LogSummary | None) -> Report:
    """A whole dig as one page.

    Args:
        dig: The dig.
        log: Its daily log; None where none was kept.
    """
    runs, findings = dig.runs(), dig.findings.list()
    bodies = [
        render("entry.html", kind="finding", about=_finding_line(one), inner=_finding_body(dig, one, INSIDE))
        for one in findings
    ]
    tried = [
        render("entry.html", kind="run", about=_run_line(run), inner=_parts(_run_body(dig, run), 1000 * run.id))
        for run in runs
    ]
    sections = [
        _question(dig),
        _section("What was found", bodies, "Nothing was written down as found yet: `digsite finding add`."),
        _section("What was tried", tried, "No run yet: any digsite command that is run in the dig is one."),
        _failures(runs, findings, INSIDE),
        *(() if log is None else (_renamed(section) for section in log_report(log).sections)),
    ]
    return _framed(dig, runs, findings, log, [one for one in sections if one is not None])


def write_site(dig: Dig, folder: str | Path, log: LogSummary | None) -> Path:
    """A whole dig as a folder of static pages; it is there whole or not at all.

    Args:
        dig: The dig.
        folder: A new folder, or one with an older site of a dig, which is replaced.
        log: Its daily log; None where none was kept.

    Raises:
        BadInput: The folder holds something else.
        NotWritten: The disk is full, or the place cannot be written.
    """
    runs, findings = dig.runs(), dig.findings.list()
    front = [
        _question(dig),
        _section(
            "What was found",
            [_line("finding", _finding_line(one), FRONT.finding(one.id)) for one in findings],
            "Nothing was written down as found yet: `digsite finding add`.",
        ),
        _section(
            "What was tried",
            [_line("run", _run_line(run), FRONT.run(run.id)) for run in runs[:_SHOWN]],
            "No run yet: any digsite command that is run in the dig is one.",
        ),
        _failures(runs, findings, FRONT),
        None if log is None else _hours(log),
    ]
    with whole_folder(folder, marker=MARKER, parts=("findings", "runs", "log.html")) as new:
        _framed(dig, runs, findings, log, [one for one in front if one is not None]).write(new / MARKER)
        for one in findings:
            _finding_page(dig, one).write(new / "findings" / f"{one.id}.html")
        for run in runs:
            _write_run(dig, run, new / "runs")
        if log is not None:
            _with_way_back(log_report(log), MARKER).write(new / "log.html")
    return Path(folder)


# -- the front -------------------------------------------------------------------------------------------------------
def _framed(
    dig: Dig, runs: Sequence[RunRecord], findings: Sequence[Finding], log: LogSummary | None, sections: list[Section]
) -> Report:
    seconds = sum(run.cost.get("seconds", 0.0) for run in runs)
    last = max((run.started for run in runs), default=None)
    meta = [_counted(len(runs), "run"), f"{seconds / 60:.1f} min computed"]
    meta += [] if last is None else [f"last run {last.astimezone():%Y-%m-%d}"]
    return Report(
        kind="Dig",
        title=dig.title,
        verdict=_verdict(runs, findings, log),
        meta=tuple(meta),
        sections=tuple(sections),
        command="digsite report",
    )


def _verdict(runs: Sequence[RunRecord], findings: Sequence[Finding], log: LogSummary | None) -> str:
    """The state of the dig in one sentence."""
    states = {state: sum(one.status == state for one in findings) for state in _CHIPS}
    said = ", ".join(f"{count} {state}" for state, count in states.items() if count)
    lost = sum(run.status in ("failed", "interrupted") for run in runs)
    words = f"{_counted(len(findings), 'finding')} ({said})" if findings else "no finding yet"
    words += f" from {_counted(len(runs), 'run')}" + (f", of which {lost} did not end well" if lost else "")
    hours = "" if log is None else f"; {log.verdict[0].lower()}{log.verdict[1:].rstrip('.')}"
    best = next((one for one in findings if one.status == "supported"), None)
    first = f"{best.claim.rstrip('.')}: " if best is not None else ""
    return f"{first}{words}{hours}."


def _question(dig: Dig) -> Section | None:
    try:
        text = (dig.folder / "README.md").read_text(encoding="utf-8")
    except OSError:
        return None
    body = re.sub(r"\A\s*#[^\n]*\n", "", text)
    return Section(title="What is asked", body=(Markup('<div class="prose">') + prose(body) + Markup("</div>"),))


def _section(title: str, entries: Sequence[Markup], nothing: str) -> Section:
    body: tuple[Part, ...] = (Markup("\n").join(entries),) if entries else (nothing,)
    return Section(title=title, body=body)


def _failures(runs: Sequence[RunRecord], findings: Sequence[Finding], links: Links) -> Section | None:
    """What did not hold, and what did not end well: most of the work, and the part that is forgotten first."""
    wrong = [one for one in findings if one.status in ("refuted", "artefact")]
    lost = [run for run in runs if run.status in ("failed", "interrupted")]
    lines = [_line("finding", _finding_line(one) | {"said": one.reason}, links.finding(one.id)) for one in wrong]
    lines += [_line("run", _run_line(run), links.run(run.id)) for run in lost]
    return Section(title="What did not hold", body=(Markup("\n").join(lines),)) if lines else None


def _hours(log: LogSummary) -> Section:
    said = render("caption.html", text=log.verdict)
    return Section(title="Hours", body=(said, Markup('<p><a href="log.html">The daily log</a></p>')))


def _renamed(section: Section) -> Section:
    return Section(title=f"Log: {section.title}", chips=section.chips, body=section.body)


def _line(kind: str, about: dict[str, object], href: str) -> Markup:
    return render("entry_line.html", kind=kind, about=about, href=href)


# -- findings --------------------------------------------------------------------------------------------------------
def _finding_line(finding: Finding) -> dict[str, object]:
    return {
        "id": finding.id,
        "title": finding.claim,
        "said": f"`{finding.subject}`",
        "meta": finding.level,
        "chip": Chip(finding.status, _CHIPS[finding.status]),
    }


def _finding_body(dig: Dig, finding: Finding, links: Links) -> Markup:
    setting = ", ".join(f"{name} {value}" for name, value in finding.setting.items())
    battery = next((one for one in reversed(finding.evidence) if one.stance == "battery"), None)
    shown = _parts(_drawn(dig, battery.run), 500_000 + finding.id) if battery is not None else Markup("")
    return render(
        "finding.html",
        finding=finding,
        setting=setting,
        evidence=[(one, links.run(one.run)) for one in finding.evidence],
        origin=None if finding.moved_from is None else (finding.moved_from, links.finding(finding.moved_from)),
        battery=shown,
    )


def _finding_page(dig: Dig, finding: Finding) -> Report:
    body = (_back("../" + MARKER), _finding_body(dig, finding, BELOW))
    return Report(
        kind=f"Finding {finding.id}",
        title=finding.claim,
        verdict=f"{finding.status}" + (f": {finding.reason}" if finding.reason else ": not yet decided"),
        meta=(finding.level, f"`{finding.subject}`", f"{finding.created.astimezone():%Y-%m-%d}"),
        sections=(Section(title="Evidence", body=body),),
        command=f"digsite finding show {finding.id}",
    )


# -- runs ------------------------------------------------------------------------------------------------------------
def _run_line(run: RunRecord) -> dict[str, object]:
    return {
        "id": run.id,
        "title": run.verdict or run.error.partition("\n")[0] or "still running",
        "said": "",
        "meta": f"{run.method.rpartition('.')[2].replace('_', ' ')} · {run.started.astimezone():%Y-%m-%d %H:%M}",
        "chip": Chip(run.status, _RUN_CHIPS[run.status]) if run.status != "done" else None,
    }


def _run_body(dig: Dig, run: RunRecord) -> list[Part]:
    about = [("again", run.again), ("cost", _cost(run)), ("tags", " ".join(run.tags))]
    about += [(name, str(run.provenance[name])) for name in ("model", "weights", "seed") if run.provenance.get(name)]
    rows = [(name, value) for name, value in about if value]
    notes = dig.folder / "notes" / f"run-{run.id:04d}.md"
    body: list[Part] = [render("facts.html", facts=rows)]
    if notes.is_file():
        text = re.sub(r"\A\s*#[^\n]*\n", "", notes.read_text(encoding="utf-8"))
        body.append(Markup('<div class="prose">') + prose(text) + Markup("</div>"))
    if run.error:
        body.append(render("error.html", text=run.error))
    return body + _drawn(dig, run.id)


def _drawn(dig: Dig, number: int) -> list[Part]:
    """The figures of a run's result, or its table where it has none; or why there is neither."""
    run = dig.run(number)
    if run.status != "done" or not run.folder.is_dir():
        return []
    try:
        result = dig.result(number)
    except DigsiteError as error:  # a result of a kind or version that is not known here is shown as such, not left out
        return [f"Its result cannot be shown: {' '.join(str(error).split())}"]
    return _pictures(result)


def _pictures(result: Result) -> list[Part]:
    try:
        drawn = drawing_of(type(result))(result)
    except Unsupported:
        return [data_table(result.to_frame())]
    if isinstance(drawn, Report):
        return [part for section in drawn.sections for part in (_heading(section.title), *section.body)]
    return [drawn]


def _heading(title: str) -> Markup:
    return render("heading.html", title=title)


def _write_run(dig: Dig, run: RunRecord, folder: Path) -> None:
    """The page of a run, and beside it its figures with their numbers and the command that made them."""
    body = _run_body(dig, run)
    figures = [part for part in body if isinstance(part, Figure)]
    files = []
    for number, figure in enumerate(figures, 1):
        name = f"{run.id}/{number}-{figure.name}"
        for ending in ("svg", "png", "pdf"):
            figure.save(folder / f"{name}.{ending}")
        figure.data.write_parquet(folder / f"{name}.parquet")
        files.append((figure.title, [(ending, f"{name}.{ending}") for ending in ("svg", "png", "pdf", "parquet")]))
    if figures:
        write_whole(folder / f"{run.id}" / "command.txt", f"{run.again}\n")
    beside: list[Part] = [render("files.html", files=files, command=f"{run.id}/command.txt")] if files else []
    Report(
        kind=f"Run {run.id}: {run.method}",
        title=run.method.rpartition(".")[2].replace("_", " "),
        verdict=run.verdict or run.error or run.status,
        meta=(run.status, f"{run.started.astimezone():%Y-%m-%d %H:%M}"),
        sections=(Section(title="What it gave", body=(_back("../" + MARKER), *body, *beside)),),
        command=run.again,
        provenance={name: str(value) for name, value in run.provenance.items() if value is not None},
    ).write(folder / f"{run.id}.html")


def _cost(run: RunRecord) -> str:
    if not run.cost:
        return ""
    return f"{int(run.cost.get('rows', 0)):,} rows, {run.cost.get('seconds', 0.0):.1f} s"


# -- parts -----------------------------------------------------------------------------------------------------------
def _parts(parts: Sequence[Part], first: int) -> Markup:
    """Parts as markup, where a section is not what they stand in."""
    made = []
    for number, part in enumerate(parts):
        if isinstance(part, Figure):
            made.append(render("figures.html", figures=[picture(part, first + number)]))
        else:
            made.append(part if isinstance(part, Markup) else render("caption.html", text=part))
    return Markup("\n").join(made)


def _back(where: str) -> Markup:
    return render("back.html", href=where)


def _with_way_back(report: Report, where: str) -> Report:
    first, *others = report.sections
    sections = (Section(title=first.title, chips=first.chips, body=(_back(where), *first.body)), *others)
    return Report(
        kind=report.kind,
        title=report.title,
        verdict=report.verdict,
        meta=report.meta,
        sections=sections,
        command=report.command,
    )


def prose(text: str) -> Markup:
    """Markdown as HTML; what is HTML in it is shown as it is written."""
    return Markup(MarkdownIt("commonmark", {"html": False}).enable("table").render(text))


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
