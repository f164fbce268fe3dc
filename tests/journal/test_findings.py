"""A claim is supported by a battery that passed, and by nothing else."""

from dataclasses import dataclass
from typing import ClassVar

import polars as pl
import pytest

from adding import add_up
from digsite._core.cost import Cost
from digsite._core.errors import BadInput
from digsite._core.provenance import record
from digsite.artifacts import Result
from digsite.journal import numbered

HEAD = "layers.2.attn.z[3]"
USUAL = {"corruption": "flip", "modulus": "7"}
SETTING = {"model": "toy", "task": "pairs", "n": 40}


@dataclass(frozen=True, kw_only=True)
class Tried(Result):
    """A battery of which only the end is looked at."""

    SCHEMA: ClassVar[str] = "tests.battery/1"

    subject: str
    model: str
    task: str
    options: dict[str, str]
    usual: dict[str, str]
    failed: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        return "passed" if not self.failed else "failed"

    def to_frame(self) -> pl.DataFrame:
        return pl.DataFrame()


def tried(dig, *, subject=HEAD, model="toy", task="pairs", options=None, failed=()):
    """Records a battery; the number of its run."""
    run = dig.begin("investigations.battery", "battery(…)")
    told = {"subject": subject, "model": model, "task": task, "failed": failed}
    told |= {"options": USUAL | (options or {}), "usual": USUAL}
    run.done(Tried(**told, provenance=record("battery(…)"), cost=Cost()))
    return run.number


def some_run(dig):
    with dig:
        add_up(2)
    return dig.runs()[0].id


def claim(dig, **changes):
    told = {"level": "head", "subject": HEAD, "setting": SETTING} | changes
    return dig.findings.add("Head 3 of layer 2 carries the receiver", **told).id


def test_a_finding_begins_open_and_is_found_again(dig):
    number = claim(dig)
    finding = dig.findings.get(number)
    assert (finding.status, finding.level, finding.setting, finding.evidence) == ("open", "head", SETTING, ())
    assert [hit.ref for hit in dig.search("receiver")] == [f"finding/{number}"]
    other = claim(dig, level="latent", moved_from=number)
    assert [one.id for one in dig.findings.list()] == [other, number]
    assert [one.id for one in dig.findings.list(level="latent", status="open")] == [other]
    assert dig.findings.get(other).moved_from == number


def test_untested_it_is_not_supported(dig):
    number = claim(dig)
    with pytest.raises(BadInput, match=rf"(?s)cannot be called supported.*no battery about .*finding test {number}"):
        dig.findings.support(number)
    assert dig.findings.get(number).status == "open"


@pytest.mark.parametrize(
    "other",
    [
        {"subject": "layers.2.attn.z[4]"},
        {"model": "other"},
        {"task": "other"},
        {"options": {"corruption": "abc"}},
        {"options": {"templates": "1f2e"}},
    ],
    ids=str,
)
def test_a_battery_about_something_else_does_not_count(dig, other):
    number, run = claim(dig), tried(dig, **other)
    with pytest.raises(BadInput, match="no battery about"):
        dig.findings.support(number)
    with pytest.raises(BadInput, match=f"Run {run} does not test finding {number}"):
        dig.findings.add_battery(number, run)


def test_a_battery_of_another_variant_of_the_task_does_not_count(dig):
    number = claim(dig, setting=SETTING | {"corruption": "abc", "modulus": 7})
    run = tried(dig)
    with pytest.raises(BadInput, match=r"no battery about .* in this setting"):
        dig.findings.support(number)
    with pytest.raises(BadInput, match=f"Run {run} does not test finding {number}"):
        dig.findings.add_battery(number, run)
    tried(dig, options={"corruption": "abc"})
    assert dig.findings.support(number).status == "supported"
    said = claim(dig, setting=SETTING | {"corruption": "flip", "seed": 3})
    assert dig.findings.support(said).status == "supported", "the usual option may be said, and any seed counts"


def test_a_battery_that_passed_supports_it_and_is_its_evidence(dig):
    number = claim(dig)
    dig.findings.add_evidence(number, some_run(dig), words="the sum is right")
    run = tried(dig)
    finding = dig.findings.support(number, "it all fits")
    assert finding.status == "supported" and finding.reason == f"it all fits; the battery of run {run} passed"
    assert [(one.run, one.stance) for one in finding.evidence] == [(1, "for"), (run, "battery")]
    with pytest.raises(BadInput, match=rf"Run {run} is evidence of finding {number}"):
        dig.remove(run)


def test_a_check_that_failed_is_named_and_an_older_pass_does_not_outvote_it(dig):
    number = claim(dig)
    tried(dig)
    run = tried(dig, failed=("null input (2.1 logits)",))
    with pytest.raises(BadInput, match=rf"the battery of run {run} failed: null input \(2.1 logits\)"):
        dig.findings.support(number)
    tried(dig)
    assert dig.findings.support(number).status == "supported"


def test_evidence_newer_than_the_battery_asks_for_another(dig):
    number = claim(dig)
    run = tried(dig)
    dig.findings.add_evidence(number, some_run(dig))
    with pytest.raises(BadInput, match=f"the battery of run {run} is older"):
        dig.findings.support(number)
    tried(dig)
    assert dig.findings.support(number).status == "supported"


def test_evidence_against_what_was_supported_opens_it_again(dig):
    number = claim(dig)
    tried(dig)
    dig.findings.support(number)
    run = some_run(dig)
    finding = dig.findings.add_evidence(number, run, stance="against", words="another head does as much")
    assert finding.status == "open" and finding.reason == f"run {run} speaks against it: another head does as much"
    tried(dig)
    assert dig.findings.support(number).status == "supported"
    failed = tried(dig, failed=("other seed (gone)",))
    assert dig.findings.add_battery(number, failed).status == "open", "a retest that fails opens it too"


def test_what_was_refuted_needs_a_new_battery(dig):
    number = claim(dig)
    tried(dig)
    with pytest.raises(BadInput, match="cannot become refuted without a reason"):
        dig.findings.refute(number, "  ")
    assert dig.findings.refute(number, "the mask was wrong").status == "refuted"
    with pytest.raises(BadInput, match="is older"):
        dig.findings.support(number)
    assert dig.findings.artefact(number, "any model shows it").reason == "any model shows it"
    assert dig.findings.reopen(number, "the bug is mended").status == "open"
    assert [hit.ref for hit in dig.search("mended")] == [f"finding/{number}"]


def test_without_a_model_and_a_task_nothing_can_be_supported(dig):
    number = claim(dig, setting={"task": "pairs"})
    with pytest.raises(BadInput, match="does not say in which model"):
        dig.findings.support(number)


def test_evidence_can_be_withdrawn_but_not_what_support_rests_on(dig):
    number, run = claim(dig), some_run(dig)
    dig.findings.add_evidence(number, run)
    assert dig.findings.withdraw(number, run).evidence == ()
    dig.remove(run)
    battery = tried(dig)
    dig.findings.support(number)
    with pytest.raises(BadInput, match=f"is supported by the battery of run {battery}"):
        dig.findings.withdraw(number, battery)
    with pytest.raises(BadInput, match=f"Run 99 is no evidence of finding {number}"):
        dig.findings.withdraw(number, 99)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"level": "hed"}, "'hed' is no level of a finding.*did you mean head"),
        ({"subject": " "}, "needs a subject"),
        ({"setting": {"model": None}}, "A setting holds names and numbers"),
        ({"moved_from": 7}, "There is no finding 7"),
    ],
    ids=str,
)
def test_bad_input_is_refused_in_words(dig, changes, message):
    with pytest.raises(BadInput, match=f"(?s){message}"):
        claim(dig, **changes)


def test_a_claim_is_one_sentence(dig):
    for words in ("", "It does this. It does that."):
        with pytest.raises(BadInput, match="A claim is one sentence"):
            dig.findings.add(words, level="head", subject=HEAD)
    kept = dig.findings.add("It carries e.g. names,\n and dates", level="head", subject=HEAD)
    assert kept.claim == "It carries e.g. names, and dates"


def test_a_run_that_failed_is_no_evidence(dig):
    number = claim(dig)
    with dig, pytest.raises(RuntimeError):
        add_up(-1)
    with pytest.raises(BadInput, match="Run 1 is no evidence: it is failed"):
        dig.findings.add_evidence(number, 1)
    with pytest.raises(BadInput, match="Evidence is not 'pro'"):
        dig.findings.add_evidence(number, 1, stance="pro")
    with pytest.raises(BadInput, match="There is no finding 9"):
        dig.findings.get(9)


def test_the_numbers_of_runs_are_told_as_they_begin(dig):
    with numbered(dig) as runs:
        add_up(1)
        add_up(2)
    assert runs == [1, 2] == [run.id for run in reversed(dig.runs())]
