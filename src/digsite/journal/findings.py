"""Findings: claims in one sentence, with what speaks for and against them, and whether they have been tested.

1. A finding is about one subject (an address, a folder) in one setting (a model and a task). It begins open.
2. Runs of the dig are evidence for it or against it. One against a finding that was supported opens it again.
3. It becomes supported only by a battery of sanity checks (`digsite.investigations.battery`) that is recorded in the
   dig, is about this subject in this setting (see `batteries`), was begun after the newest evidence, and passed all its
   checks. The newest battery counts: one that failed is not outvoted by an older one that passed.
4. Refuted (the claim is wrong) and artefact (what was seen is no fact about the model) each need a reason.
"""

import json
import re
import sqlite3
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

from digsite._core.errors import BadInput, explain
from digsite.artifacts import Result
from digsite.journal.batteries import BATTERY, SETTING, Battery, Setting, tests
from digsite.journal.records import RunRecord, now
from digsite.journal.searching import indexed

LEVELS = ("neuron", "head", "latent", "circuit", "graph", "behaviour", "direction")
"""What a claim can be about. MLPs are of the level of heads; a graph is any set of components."""
STATES = ("open", "supported", "refuted", "artefact")
STANCES = ("for", "against")


@runtime_checkable
class Home(Protocol):
    """What findings need of the dig that they are in."""

    tables: sqlite3.Connection

    def writing(self) -> AbstractContextManager[sqlite3.Connection]:
        """One transaction."""
        ...

    def run(self, number: int) -> RunRecord:
        """One run."""
        ...

    def runs(self, *, status: str | None = None, method: str | None = None) -> list[RunRecord]:
        """The runs, the newest first."""
        ...

    def result(self, number: int) -> Result:
        """What a run has given."""
        ...


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A run that says something about a finding.

    Attributes:
        run: Its number.
        stance: for, against, or battery.
        words: What it says about the finding.
        verdict: What the run found.
        added: When it was put there.
    """

    run: int
    stance: str
    words: str
    verdict: str
    added: datetime


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A claim, and what is known of it.

    Attributes:
        id: Its number in the dig, from 1.
        claim: One sentence.
        level: One of `LEVELS`.
        subject: What it is about: `layers.2.attn.z[3]`, `digsite/tinyworld/sae-0#12`, the folder of a circuit, …; see
            `digsite.investigations.battery`.
        setting: The model and the task, and with which options the examples are made.
        status: One of `STATES`.
        reason: Why it has its status.
        created: When it was written down.
        changed: When its status was last decided.
        moved_from: The finding at another level that led here.
        evidence: What speaks for and against it, the oldest first.
    """

    id: int
    claim: str
    level: str
    subject: str
    setting: dict[str, str | int | float]
    status: str
    reason: str
    created: datetime
    changed: datetime
    moved_from: int | None
    evidence: tuple[Evidence, ...]

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON."""
        times = {name: getattr(self, name).isoformat() for name in ("created", "changed")}
        return vars(self) | times | {"evidence": [vars(e) | {"added": e.added.isoformat()} for e in self.evidence]}


class Findings:
    """The findings of a dig, reached as `dig.findings`."""

    def __init__(self, dig: Home):
        self._dig = dig

    # -- writing down ------------------------------------------------------------------------------------------------
    def add(
        self, claim: str, *, level: str, subject: str, setting: Setting | None = None, moved_from: int | None = None
    ) -> Finding:
        """1. Write a claim down; it is open.

        Args:
            claim: One sentence, such as "Head 3 of layer 2 carries the receiver to the end".
            level: One of `LEVELS`.
            subject: The address of what it is about.
            setting: What it is tested with: "model" and "task", and options of the task such as "n" and "seed".
            moved_from: The finding at another level that led here.

        Raises:
            BadInput: No claim or more than one sentence, no such level, no subject, or a setting that is no plain data.
        """
        claim, subject = " ".join(claim.split()), subject.strip()
        if not claim or re.search(r"[.!?] [A-Z]", claim):
            found = repr(claim) if claim else "nothing"
            raise BadInput(explain("A claim is one sentence", found=found, do="make a finding of each sentence"))
        if level not in LEVELS:
            raise BadInput(explain(f"{level!r} is no level of a finding", possible=LEVELS, near=level))
        if not subject:
            do = "say what it is about, such as layers.2.attn.z[3], or behaviour"
            raise BadInput(explain("A finding needs a subject", found="nothing", do=do))
        plain = dict(setting or {})
        if wrong := [name for name, value in plain.items() if not isinstance(value, str | int | float)]:
            found = f"{wrong[0]}={plain[wrong[0]]!r}"
            raise BadInput(explain("A setting holds names and numbers", found=found, do='{"model": …, "task": …}'))
        if moved_from is not None:
            self.get(moved_from)
        row = (claim, level, "open", subject, json.dumps(plain, ensure_ascii=False), moved_from, *[now()] * 2, "")
        with self._dig.writing() as tables:
            columns = "claim, level, status, subject, setting, moved_from, created, changed, reason"
            number = tables.execute(f"INSERT INTO finding ({columns}) VALUES (?,?,?,?,?,?,?,?,?)", row).lastrowid
            assert number is not None
            self._index(number)
        return self.get(number)

    def add_evidence(self, number: int, run: int, *, stance: str = "for", words: str = "") -> Finding:
        """2. A run speaks for a finding, or against it; against one that was supported, it opens it again.

        Args:
            number: The finding.
            run: The run.
            stance: "for" or "against".
            words: What it says.

        Raises:
            BadInput: No such finding or run, no such stance, or a run that has not ended well.
        """
        if stance not in STANCES:
            raise BadInput(explain(f"Evidence is not {stance!r}", possible=STANCES, near=stance))
        return self._linked(number, run, stance, words, reopens=stance == "against")

    def add_battery(self, number: int, run: int) -> Finding:
        """3. A battery has tested a finding; one that failed opens a finding that was supported again.

        Raises:
            BadInput: No such finding or run, or the run is no battery about its subject and setting.
        """
        finding, result = self.get(number), self._dig.result(run)
        if not isinstance(result, Battery) or not tests(result, finding.subject, finding.setting):
            found = f"{type(result).__name__}: {result.verdict}"
            raise BadInput(explain(f"Run {run} does not test finding {number}", found=found, do=_test(finding)))
        return self._linked(number, run, "battery", "; ".join(result.failed), reopens=bool(result.failed))

    def withdraw(self, number: int, run: int) -> Finding:
        """A run no longer is evidence of a finding.

        Raises:
            BadInput: No such finding, the run is no evidence of it, or it is what a supported finding rests on.
        """
        finding = self.get(number)
        if not (there := [one for one in finding.evidence if one.run == run]):
            possible = [str(one.run) for one in finding.evidence] or "it has none"
            raise BadInput(explain(f"Run {run} is no evidence of finding {number}", possible=possible))
        if finding.status == "supported" and any(one.stance == "battery" for one in there):
            asked = f"Finding {number} is supported by the battery of run {run}"
            raise BadInput(explain(asked, do=f"digsite finding reopen {number} --reason … first"))
        with self._dig.writing() as tables:
            tables.execute("DELETE FROM evidence WHERE finding = ? AND run = ?", (number, run))
            self._index(number)
        return self.get(number)

    # -- deciding ----------------------------------------------------------------------------------------------------
    def support(self, number: int, reason: str = "") -> Finding:
        """3. Call a finding supported, which its newest battery must allow.

        Args:
            number: The finding.
            reason: Why, beside the battery.

        Raises:
            BadInput: It was not tested, the newest battery is older than the newest evidence (or than its refutation),
                or a check of it failed; says which, and the command that tests it.
        """
        with self._dig.writing() as tables:
            finding = self.get(number)
            run = self._passed(finding)
            when = now()
            row = (number, run.id, "battery", "", when)
            tables.execute(
                "INSERT OR IGNORE INTO evidence (finding, run, stance, words, added) VALUES (?,?,?,?,?)", row
            )
            self._decide(
                number,
                "supported",
                "; ".join(filter(None, (reason.strip(), f"the battery of run {run.id} passed"))),
                when,
            )
        return self.get(number)

    def refute(self, number: int, reason: str) -> Finding:
        """4. The claim is wrong."""
        return self._with_reason(number, "refuted", reason)

    def artefact(self, number: int, reason: str) -> Finding:
        """4. What was seen is no fact about the model: a bug, a lucky draw, something that any model shows."""
        return self._with_reason(number, "artefact", reason)

    def reopen(self, number: int, reason: str) -> Finding:
        """The question is open again."""
        return self._with_reason(number, "open", reason)

    # -- reading -----------------------------------------------------------------------------------------------------
    def get(self, number: int) -> Finding:
        """One finding.

        Raises:
            BadInput: There is none of this number.
        """
        row = self._dig.tables.execute("SELECT * FROM finding WHERE id = ?", (number,)).fetchone()
        if row is None:
            count = self._dig.tables.execute("SELECT max(id) FROM finding").fetchone()[0]
            possible = f"1 to {count}" if count else "this dig has none yet"
            raise BadInput(
                explain(f"There is no finding {number}", possible=possible, do="digsite finding list shows them")
            )
        return self._of(row)

    def list(self, *, status: str | None = None, level: str | None = None) -> list[Finding]:
        """What was found, the newest first.

        Args:
            status: Only those of this status.
            level: Only those of this level.

        Raises:
            BadInput: No such status or level.
        """
        for what, given, possible in (("status", status, STATES), ("level", level, LEVELS)):
            if given is not None and given not in possible:
                raise BadInput(explain(f"{given!r} is no {what} of a finding", possible=possible, near=given))
        query = (
            "SELECT * FROM finding WHERE status = coalesce(?, status) AND level = coalesce(?, level) ORDER BY id DESC"
        )
        return [self._of(row) for row in self._dig.tables.execute(query, (status, level)).fetchall()]

    # -- within ------------------------------------------------------------------------------------------------------
    def _passed(self, finding: Finding) -> RunRecord:
        """The run of the newest battery about a finding, if it supports it."""
        asked = f"Finding {finding.id} cannot be called supported"
        if missing := [name for name in SETTING if not finding.setting.get(name)]:
            found = f"it does not say in which {' and '.join(missing)}"
            raise BadInput(explain(asked, found=found, do="add it anew with a setting: --model and --task"))
        run, battery = self._newest(finding)
        if run is None or battery is None:
            found = f"no battery about {finding.subject} in this setting is recorded in the dig"
            raise BadInput(explain(asked, found=found, do=_test(finding)))
        if battery.failed:
            found = f"the battery of run {run.id} failed: {'; '.join(battery.failed)}"
            do = f"digsite finding artefact {finding.id} --reason …, or mend what failed and {_test(finding)}"
            raise BadInput(explain(asked, found=found, do=do))
        since = [one.added for one in finding.evidence if one.stance in STANCES]
        since += [finding.changed] if finding.status in ("refuted", "artefact") else []
        if since and run.started < max(since):
            found = (
                f"its newest evidence is of {max(since):%Y-%m-%d %H:%M:%S}, and the battery of run {run.id} is older"
            )
            raise BadInput(explain(asked, found=found, do=_test(finding)))
        return run

    def _newest(self, finding: Finding) -> tuple[RunRecord | None, Battery | None]:
        for run in self._dig.runs(status="done", method=BATTERY):
            result = self._dig.result(run.id)
            if isinstance(result, Battery) and tests(result, finding.subject, finding.setting):
                return run, result
        return None, None

    def _linked(self, number: int, run: int, stance: str, words: str, *, reopens: bool) -> Finding:
        record = self._dig.run(run)
        if record.status != "done":
            raise BadInput(
                explain(f"Run {run} is no evidence: it is {record.status}", found=record.error or "no result")
            )
        row = (number, run, stance, words.strip(), now())
        with self._dig.writing() as tables:
            finding = self.get(number)
            tables.execute(
                "INSERT OR REPLACE INTO evidence (finding, run, stance, words, added) VALUES (?,?,?,?,?)", row
            )
            self._index(number)
            if reopens and finding.status == "supported":
                why = f"run {run} {'speaks against it' if stance == 'against' else 'failed the battery'}"
                self._decide(number, "open", f"{why}: {words.strip() or record.verdict}", row[-1])
        return self.get(number)

    def _with_reason(self, number: int, status: str, reason: str) -> Finding:
        self.get(number)
        if not reason.strip():
            asked = f"Finding {number} cannot become {status} without a reason"
            raise BadInput(explain(asked, do="say in a sentence why: --reason"))
        with self._dig.writing():
            self._decide(number, status, reason.strip(), now())
        return self.get(number)

    def _decide(self, number: int, status: str, reason: str, when: str) -> None:
        sets = "UPDATE finding SET status = ?, reason = ?, changed = ? WHERE id = ?"
        self._dig.tables.execute(sets, (status, reason, when, number))
        self._index(number)

    def _index(self, number: int) -> None:
        one = self.get(number)
        about = (one.level, one.subject, one.status, one.reason, *map(str, one.setting.values()))
        body = "\n".join([*about, *(evidence.words for evidence in one.evidence)])
        indexed(self._dig.tables, f"finding/{number}", (f"Finding {number}: {one.claim}", body))

    def _of(self, row: sqlite3.Row) -> Finding:
        query = (
            "SELECT evidence.*, run.verdict FROM evidence JOIN run ON run.id = evidence.run "
            "WHERE finding = ? ORDER BY added, evidence.run"
        )
        evidence = tuple(
            Evidence(
                run=one["run"],
                stance=one["stance"],
                words=one["words"],
                verdict=one["verdict"] or "",
                added=datetime.fromisoformat(one["added"]),
            )
            for one in self._dig.tables.execute(query, (row["id"],))
        )
        return Finding(
            id=row["id"],
            claim=row["claim"],
            level=row["level"],
            subject=row["subject"],
            setting=json.loads(row["setting"] or "{}"),
            status=row["status"],
            reason=row["reason"] or "",
            created=datetime.fromisoformat(row["created"]),
            changed=datetime.fromisoformat(row["changed"]),
            moved_from=row["moved_from"],
            evidence=evidence,
        )


def _test(finding: Finding) -> str:
    return f"digsite finding test {finding.id}"
