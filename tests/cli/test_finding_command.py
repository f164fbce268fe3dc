"""`digsite finding`: from a claim to a tested finding, in 80 columns and as JSON."""

import json
import re
from pathlib import Path

import pytest
from command import MODEL, fits, run

from digsite.investigations import neighbours
from digsite.journal import Dig
from digsite.toys.aligned import aligned

SAID = ("Head 5 of layer 0 tells who receives", "--level", "head", "--subject", "layers.0.attn.z[5]")
WHERE = ("--model", MODEL, "--task", "ioi", "--n", "8")
FINDING = "id claim level subject setting status reason created changed moved_from evidence"


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Dig.init(tmp_path).close()
    return tmp_path


def told(*words):
    shown = run("finding", *words, "--json")
    assert shown.code == 0, shown.err
    return json.loads(shown.out)


def refused(*words):
    shown = run("finding", *words)
    assert shown.code == 1 and not shown.out
    return shown.err


def test_a_claim_is_written_down_listed_shown_and_decided(place):
    assert "There is no finding yet" in run("finding", "list").out
    made = told("add", *SAID, *WHERE)
    assert " ".join(made) == FINDING
    assert made["setting"] == {"model": MODEL, "task": "ioi", "n": 8, "seed": 0} and made["status"] == "open"
    shown = run("finding", "show", "1")
    assert fits(shown.out) and "layers.0.attn.z[5]" in shown.out
    assert [one["id"] for one in told("list", "--status", "open")["findings"]] == [1]
    assert told("refute", "1", "--reason", "the mask was wrong")["reason"] == "the mask was wrong"
    assert told("list", "--status", "open") == {"findings": []}
    assert told("reopen", "1", "--reason", "mended")["status"] == "open"
    assert told("artefact", "1", "--reason", "any model shows it")["status"] == "artefact"
    assert fits(run("finding", "list").out)


def test_support_is_refused_with_the_command_that_tests_it(place):
    told("add", *SAID, *WHERE)
    assert "digsite finding test 1" in refused("support", "1")
    told("add", *SAID)
    assert "does not say in which model and task" in refused("support", "2")
    assert "does not say in which model and task" in refused("test", "2")
    assert "There is no finding 9" in refused("show", "9")


def test_a_run_is_evidence_and_can_be_withdrawn(place):
    told("add", *SAID, *WHERE)
    toy = aligned("aligned-induction")
    with Dig(place):
        neighbours(toy.model, "behaviour", "head", task=toy.task(8))
    made = told("evidence", "1", "--run", "1", "--stance", "against", "--words", "another head does as much")
    assert [(one["run"], one["stance"]) for one in made["evidence"]] == [(1, "against")]
    assert fits(run("finding", "show", "1").out)
    assert told("evidence", "1", "--run", "1", "--withdraw")["evidence"] == []


def test_outside_a_dig_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "digsite dig init" in refused("list")
    Dig.init(tmp_path / "there").close()
    assert "There is no finding yet" in run("finding", "list", "--dig", "there").out


@pytest.mark.slow
def test_a_finding_is_tested_supported_and_moved(place):
    told("add", *SAID, "--model", MODEL, "--task", "ioi", "--n", "40")
    shown = run("finding", "test", "1")
    assert shown.code == 0 and fits(shown.out), shown.err
    assert "passes all five checks" in shown.out and "next: digsite finding support 1" in shown.out
    (needed,), (spent,) = (
        [int(found.replace(",", "")) for found in re.findall(pattern, text)]
        for pattern, text in ((r"needs up to ([\d,]+) rows", shown.err), (r"cost: ([\d,]+) rows", shown.out))
    )
    assert spent / 2 < needed < 2 * spent
    assert told("support", "1")["status"] == "supported"
    made = told("move", "1", "--to", "latent")
    assert [one["moved_from"] for one in made["findings"]] == [1, 1, 1]
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    tested = told("test", "1")
    keys = {*tested, *tested["finding"], *tested["checks"][0], *made, *made["candidates"][0]}
    assert keys <= set(re.findall(r"`(\w+)`", page))


def test_your_own_file_is_halved(place, monkeypatch):
    """One half is tested, the other half are the new examples."""
    from digsite.cli.finding import _setting
    from digsite.cli.inputs import AS_STORED

    rows = "clean,corrupt,right,wrong\n"
    names = [("Mary", "John"), ("Emma", "Tom"), ("Anna", "Jack")]
    rows += "".join(f"{a} and {b} saw {b},{a} and {b} saw {a}, {a}, {b}\n" for a, b in names for _ in range(4))
    (place / "mine.csv").write_text(rows)
    told("add", *SAID, "--model", MODEL, "--task", "mine.csv")
    finding = Dig(place).findings.get(1)
    assert finding.setting["task"] == "mine" and str(finding.setting["file"]).endswith("mine.csv")
    _, task, again = _setting(finding, AS_STORED)
    assert (len(task), len(again), task.name) == (6, 6, "mine")
