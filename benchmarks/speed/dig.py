"""What it costs to look into a dig of ten thousand runs, to record one more, and to sum up ten years of a log.

1. The dig: one run is really recorded; its row is written 9,999 times more into the same tables, with other methods,
   times, verdicts and tags, in one transaction, and each is made findable as a recorded run is. Result folders are
   left out: neither the list nor the search reads them. 200 findings, 1,000 notes, and the log of 3. lie in it too.
2. Looking: the list as `digsite runs list` shows it, filtered, and whole; a search for a rare, a frequent and a
   beginning of a word, which first looks whether any of the 4,650 Markdown files has changed; the findings; opening
   it. Held to 50 ms each.
3. The log: 3,650 days of two sessions with goals, tags, notes and two tasks. Read, judged, summed, and written as
   README.md, tags.md and todo.md; held to 1,000 ms. Beside it the one HTML page, with its figure.
4. Recording: a function that returns a small result, without `@method`, with it outside a dig, and inside one, where
   each call writes its row, a folder with the result, and what is found of it, each forced to the disk.

Milliseconds of processor time (a disk that makes one wait takes longer on the clock). Where something is held to a
limit the ratio is its time by the limit; in 4. it is by the bare function.
"""

import os
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from digsite._core.cost import measure as measured
from digsite._core.provenance import record
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.journal import Dig
from digsite.journal.log import Log, summarise, summary_page, tags_page, todo_page
from digsite.journal.searching import indexed
from digsite.viz.log import log_report

from .rounds import interleaved
from .table import Row, Table, conditions

RUNS, NOTES, FINDINGS, DAYS, CALLS = 10_000, 1_000, 200, 3_650, 10
LOOKING, LOG = 50.0, 1_000.0
METHODS = ("patching.activation_patching", "lenses.answer_by_depth", "circuits.eap_ig", "directions.probe_sweep")
WORDS = [
    "head",
    "layer",
    "receiver",
    "circuit",
    "probe",
    "latent",
    "residual",
    "stream",
    "carries",
    "token",
    "answer",
    "shuffled",
    "labels",
    "null",
    "effect",
]
TODAY = date(2026, 11, 30)
_DAY = """---
date: {day}
zone: Europe/Zurich
title: "Reading && {word} {number}"
goal: "read the paper | write"
summary: "the {word} does nothing once the labels are shuffled"
tags: [PCD, {tag}]
project: [thesis]
sessions:
  - in: "08:05"
    out: "12:10"
  - in: "14:00"
    out: "17:30"
---

The direction $h = z w + \\epsilon$ separates the classes and does nothing when it is added.

- [ ] try the other {word} {number}
- [x] read appendix {number}
"""


@dataclass(frozen=True, kw_only=True)
class Ten(Result):
    """Ten numbers."""

    SCHEMA: ClassVar[str] = "benchmarks.ten/1"

    numbers: Float[Tensor, " example"]

    @property
    def verdict(self) -> str:
        """Their sum."""
        return f"The sum is {float(self.numbers.sum()):.3f}"

    def to_frame(self) -> pl.DataFrame:
        """One row each."""
        return pl.DataFrame({"number": self.numbers.tolist()})


def ten() -> Ten:
    """A method that does nearly nothing."""
    with measured() as cost:
        numbers = torch.ones(10)
    return Ten(numbers=numbers, provenance=record("ten()", seed=0), cost=cost)


recorded = method(ten)


def measure(*, peers: bool, rounds: int | None) -> Table:
    """Runs the benchmark; it has no peers."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        dig = _dig(place / "dig")
        rows = [*_looking(dig, rounds or 15), *_log(dig, rounds or 7), *_recording(place, rounds or 9)]
        dig.close()
    return Table(
        name="dig",
        question="What does a dig of ten thousand runs cost, and a log of ten years?",
        unit="ms",
        rows=rows,
        conditions=conditions(rounds=rounds or "15, 7, 9"),
    )


def _dig(folder: Path) -> Dig:
    """1. The dig."""
    drawn = random.Random(0)
    dig = Dig.init(folder, question="What carries the receiver?")
    with dig:
        recorded()
    row = dict(dig.tables.execute("SELECT * FROM run").fetchone())
    begun = datetime(2024, 1, 1, tzinfo=UTC)
    with dig.writing() as tables:
        for number in range(2, RUNS + 1):
            said = " ".join(drawn.choices(WORDS, k=12))
            row |= {"id": number, "method": drawn.choice(METHODS), "folder": f"runs/{number:04d}-made"}
            row |= {"status": drawn.choices(("done", "failed"), (9, 1))[0], "verdict": f"{said} {number}"}
            row |= {"started": (begun + timedelta(hours=number)).isoformat(timespec="milliseconds")}
            tables.execute(f"INSERT INTO run ({', '.join(row)}) VALUES ({', '.join(f':{name}' for name in row)})", row)
            tables.execute("INSERT INTO tag VALUES (?, ?)", (number, drawn.choice(WORDS)))
            run = dig.run(number)
            words = "\n".join((run.call, run.command or "", run.verdict, run.status, *run.tags))
            indexed(tables, f"run/{number}", (f"Run {number}: {run.method}", words))
    for number in range(FINDINGS):
        claim = f"Head {number} {' '.join(drawn.choices(WORDS, k=8))}"
        dig.findings.add(claim, level="head", subject=f"layers.2.attn.z[{number}]")
    for number in range(NOTES):
        (folder / "notes" / f"note-{number}.md").write_text(
            f"# Note {number}\n\n{' '.join(drawn.choices(WORDS, k=150))}\n"
        )
    for number in range(DAYS):
        day = TODAY - timedelta(number)
        made = {"word": drawn.choice(WORDS), "tag": drawn.choice(("Apps", "AutoInterp", "Documentation"))}
        (folder / "log" / f"{day}.md").write_text(_DAY.format(day=day, number=number, **made))
    return dig


def _looking(dig: Dig, rounds: int) -> list[Row]:
    """2. Lists and searches."""
    calls: dict[str, Callable[[], Any]] = {
        "the newest 30 runs, as listed": lambda: dig.runs(last=30),
        "30 runs of a method that failed": lambda: dig.runs(last=30, method="patching", status="failed"),
        "30 runs with a tag": lambda: dig.runs(last=30, tag="probe"),
        "search: a word of one run": lambda: dig.search("5000"),
        "search: three frequent words": lambda: dig.search("head receiver null"),
        "search: the beginning of a word": lambda: dig.search("res"),
        "all findings": lambda: dig.findings.list(),
        "opening the dig": lambda: Dig(dig.folder).close(),
    }
    assert len(dig.runs()) == RUNS and len(dig.search("receiver", last=10**6)) > RUNS / 2
    assert len(dig.runs(last=30)) == 30 and {hit.ref for hit in dig.search("5000")} >= {"run/5000"}
    setting = f"{RUNS:,} runs, {FINDINGS} findings, {NOTES:,} notes, {DAYS:,} days; held to {LOOKING:.0f} ms each"
    whole: dict[str, Callable[[], Any]] = {"all runs, with provenance and cost": dig.runs}
    return _held(setting, calls, LOOKING, rounds) + _held("the whole list, held to nothing", whole, None, rounds)


def _log(dig: Dig, rounds: int) -> list[Row]:
    """3. Ten years."""
    log, now = Log(dig.folder / "log"), datetime(2026, 11, 30, 20, tzinfo=UTC)
    found = summarise(log.entries(), now=now)
    hours = timedelta(hours=7, minutes=35) * DAYS
    assert found.totals.time == hours == found.totals.by_tag["PCD"] and found.totals.longest.days == DAYS

    def pages() -> None:
        seen = summarise(log.entries(), now=now)
        for page in (summary_page(seen), tags_page(seen), todo_page(seen.todos)):
            assert page

    calls = {f"{DAYS:,} days read, summed, and three pages of Markdown": pages}
    more = {"the one HTML page of them": lambda: log_report(found).html()}
    return _held(f"a log of ten years; held to {LOG:,.0f} ms", calls, LOG, rounds) + _held(
        "its page, held to nothing", more, None, rounds
    )


def _recording(place: Path, rounds: int) -> list[Row]:
    """4. One run."""
    small = Dig.init(place / "small")

    def inside() -> None:
        with small:
            _often(recorded)

    def there() -> None:
        """As one that is called in a shell inside the dig: it is found and opened each time."""
        before = Path.cwd()
        os.chdir(small.folder)
        try:
            _often(recorded)
        finally:
            os.chdir(before)

    names = ("a bare function", "with @method, outside a dig", "recorded, in a `with dig:` block")
    names = (*names, "recorded, the dig found by the working directory")
    times = interleaved([lambda: _often(ten), lambda: _often(recorded), inside, there], rounds=rounds, warm=1)
    assert small.runs(last=1)[0].status == "done"
    small.close()
    return [
        Row(
            setting="recording one run; ratio by the bare function",
            who="digsite",
            name=name,
            value=one.ms / CALLS,
            ratio=one.ratio,
            low=one.low,
            high=one.high,
        )
        for name, one in zip(names, times, strict=True)
    ]


def _often(call: Callable[[], Any]) -> None:
    for _ in range(CALLS):
        call()


def _held(setting: str, calls: dict[str, Callable[[], Any]], limit: float | None, rounds: int) -> list[Row]:
    """Medians, each held to a limit."""
    rows = []
    for name, one in zip(calls, interleaved(list(calls.values()), rounds=rounds, warm=1), strict=True):
        ratio, target = (1.0, None) if limit is None else (one.ms / limit, 1.0)
        rows.append(Row(setting=setting, who="digsite", name=name, value=one.ms, ratio=ratio, target=target))
    return rows
