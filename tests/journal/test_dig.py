"""Runs are remembered, whatever becomes of them, and found again."""

import dataclasses
import json
import os
import sqlite3

import pytest
import torch

import digsite
from adding import Sum, add_twice, add_up
from digsite._core.errors import BadInput, LoadError
from digsite._core.provenance import command_line
from digsite.journal import Dig, compare
from digsite.journal.schema import STEPS, opened


def test_a_method_is_recorded_with_all_that_makes_it_again(dig):
    with dig, command_line(["sum", "--count", "5"]):
        given = add_up(5, seed=3)
    (run,) = dig.runs()
    assert (run.id, run.status, run.method) == (1, "done", "adding.add_up")
    assert run.verdict == given.verdict and run.command == "digsite sum --count 5" == run.again
    assert run.provenance == given.provenance.to_dict() and run.cost["seconds"] >= 0
    assert run.ended is not None and run.started <= run.ended
    again = dig.result(1)
    assert isinstance(again, Sum) and torch.equal(again.numbers, given.numbers)
    assert run.call.endswith("add_up(count=5, seed=3)")


def test_outside_a_dig_nothing_is_written(dig, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    add_up(3)
    assert dig.runs() == [] and sorted(tmp_path.rglob("*")) == before
    monkeypatch.chdir(dig.folder / "notes")
    add_up(3)
    assert len(dig.runs()) == 1, "the working directory lies in the dig"
    monkeypatch.setenv("DIGSITE_DIG", "off")
    add_up(3)
    assert len(dig.runs()) == 1


def test_only_the_outermost_method_is_a_run(dig):
    with dig:
        add_twice(2)
    assert [run.method for run in dig.runs()] == ["adding.add_twice"]


def test_failed_and_interrupted_runs_are_kept_with_the_reason(dig, monkeypatch):
    with dig, pytest.raises(RuntimeError):
        add_up(-1)

    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", stop)
    with dig, pytest.raises(KeyboardInterrupt):
        add_up(1, wait=1.0)
    stopped, failed = dig.runs()
    assert (failed.status, stopped.status) == ("failed", "interrupted")
    assert failed.error.startswith("RuntimeError: ") and not failed.folder.exists()
    with pytest.raises(BadInput, match=r"(?s)Run 1 has no result.*it is failed: RuntimeError"):
        dig.result(1)
    assert list((dig.folder / "runs").glob(".*")) == [], "no lock and no half folder is left"


def test_runs_are_tagged_noted_filtered_and_forgotten(dig):
    with dig:
        for seed in range(3):
            add_up(2, seed=seed)
    dig.tag(2, "good", "negative")
    dig.tag(2, "good")
    dig.untag(2, "negative")
    assert [run.id for run in dig.runs(tag="good")] == [2]
    assert dig.run(2).tags == ("good",)
    assert [run.id for run in dig.runs(last=2)] == [3, 2]
    assert dig.runs(method="add_twice") == [] == dig.runs(status="failed")
    file = dig.note(2, "The sum surprised me.")
    dig.note(2, "Not any more.")
    assert file.read_text().splitlines() == [
        "# Run 2: adding.add_up",
        "",
        "The sum surprised me.",
        "",
        "Not any more.",
    ]
    dig.remove(1)
    assert [run.id for run in dig.runs()] == [3, 2] and not (dig.folder / "runs" / "0001-add-up").exists()
    for wrong, message in ((lambda: dig.run(1), "no run 1"), (lambda: dig.tag(2, "two words"), "is no tag")):
        with pytest.raises(BadInput, match=message):
            wrong()
    with pytest.raises(BadInput, match="no status of a run"):
        dig.runs(status="finished")


def test_everything_can_be_searched(dig):
    with dig:
        add_up(4)
    (dig.folder / "notes" / "ideas.md").write_text("# Größe\n\nTry the *circumflex* heads again.\n")
    (dig.folder / "log" / "2026-03-24.md").write_text("---\ntitle: Reading && Thesis\n---\nCircuits all day.\n")
    dig.note(1, "artefact of the BOS")
    assert {hit.ref for hit in dig.search("circu")} == {"notes/ideas.md", "log/2026-03-24.md"}
    (hit,) = dig.search("großE heads") or dig.search("GRÖße heads")
    assert (hit.ref, hit.title) == ("notes/ideas.md", "Größe")
    assert dig.search("artefact")[0].ref == "notes/run-0001.md"
    assert {hit.ref for hit in dig.search("add_up")} == {"run/1", "notes/run-0001.md"}
    assert "⟦circumflex⟧" in dig.search("circumflex")[0].snippet
    (dig.folder / "notes" / "ideas.md").write_text("nothing")
    assert dig.search("circumflex") == [], "what has changed is read again"
    (dig.folder / "notes" / "ideas.md").unlink()
    assert [hit.ref for hit in dig.search("nothing")] == []
    dig.remove(1)
    assert all(hit.ref != "run/1" for hit in dig.search("sum"))
    for words in ('"unfinished', "NEAR(", "a*b:c", "title:x -y"):
        dig.search(words)
    with pytest.raises(BadInput, match="needs a word"):
        dig.search("?!")


# -- results side by side --------------------------------------------------------------------------------------------
def test_two_results_agree_or_say_where_they_differ():
    one, same, other = add_up(5), add_up(5), add_up(5, seed=1)
    assert compare(one, same).agrees and "bit for bit" in compare(one, same).verdict
    near = dataclasses.replace(one, numbers=one.numbers + 1e-6)
    assert compare(one, near).agrees and not compare(one, near, absolute=1e-8, relative=1e-8).agrees
    far = compare(one, other)
    assert not far.agrees and "numbers" in far.verdict and far.origins[0][0] == "made_by"
    worst = next(field for field in far.fields if field.field == "numbers")
    assert worst.largest == pytest.approx(float((one.numbers - other.numbers).abs().max()))
    assert "shapes [5] and [4]" in compare(one, add_up(4)).verdict
    assert "at 1: 'b' and 'c'" in compare(one, dataclasses.replace(one, words=("a", "c"))).verdict
    lost = dataclasses.replace(one, numbers=torch.tensor([float("nan")] * 5))
    assert not compare(one, lost).agrees and compare(lost, lost).agrees


# -- digs ------------------------------------------------------------------------------------------------------------
def test_making_and_opening(dig, tmp_path, monkeypatch):
    assert (dig.folder / "README.md").read_text().startswith("# dig\n\nWhat is the sum?")
    assert dig.title == "dig"
    with pytest.raises(BadInput, match="is a dig already"):
        Dig.init(dig.folder)
    with pytest.raises(LoadError, match=r"(?s)is no dig.*dig init"):
        Dig(tmp_path)
    monkeypatch.chdir(dig.folder / "runs")
    assert Dig.here().folder == dig.folder
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="lies in no dig"):
        Dig.here()
    assert digsite.Dig is Dig


def test_a_dig_of_a_newer_digsite_is_refused(dig):
    dig.tables.execute(
        "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('digsite.journal', 'time_travel', '')"
    )
    with pytest.raises(LoadError, match=r"(?s)made by a newer digsite.*time_travel.*update digsite"):
        Dig(dig.folder)


def test_a_dig_of_an_older_schema_migrates_and_keeps_what_it_had(dig, monkeypatch):
    with dig:
        add_up(2)

    def a_later_step(db):
        db.execute("ALTER TABLE run ADD COLUMN mood TEXT NOT NULL DEFAULT 'calm'")

    monkeypatch.setattr(STEPS, "_migrations", list(STEPS._migrations))
    STEPS()(a_later_step)
    later = Dig(dig.folder)
    assert later.run(1).verdict == dig.run(1).verdict
    assert later.tables.execute("SELECT mood FROM run").fetchone()[0] == "calm"


def test_a_step_that_fails_changes_nothing(dig, monkeypatch):
    def a_broken_step(db):
        db.execute("ALTER TABLE run ADD COLUMN mood TEXT")
        raise ValueError("half way")

    monkeypatch.setattr(STEPS, "_migrations", list(STEPS._migrations))
    STEPS()(a_broken_step)
    with pytest.raises(ValueError, match="half way"):
        Dig(dig.folder)
    monkeypatch.undo()
    columns = [row[1] for row in Dig(dig.folder).tables.execute("PRAGMA table_info(run)")]
    assert "mood" not in columns


def test_a_broken_file_is_said_to_be(tmp_path):
    (tmp_path / "dig.sqlite").write_bytes(b"not a database at all" * 100)
    with pytest.raises(LoadError, match="is broken"):
        opened(tmp_path / "dig.sqlite")


def test_records_are_plain_data(dig):
    with dig:
        add_up(1)
    told = json.loads(json.dumps(dig.run(1).to_dict()))
    assert told["status"] == "done" and told["provenance"]["seed"] == 0
    assert os.fspath(dig.run(1).folder) == told["folder"]
    assert isinstance(dig.tables, sqlite3.Connection)
