"""Processes are really killed, disks are really full: the dig opens, and no run is half there."""

import multiprocessing
import os
import random
import signal
import time

import pytest

import digsite.journal.dig as dig_module
from adding import add_up
from digsite._core.errors import BadInput
from digsite._core.files import NotWritten
from digsite.artifacts import load_result
from digsite.journal import Dig
from digsite.journal.searching import indexed
from digsite.viz.dig import write_site
from slowly import slow_but

FORK = multiprocessing.get_context("fork")


def work(folder, count, wait):
    """Record runs without end, or some of them."""
    with Dig(folder):
        for seed in range(count):
            add_up(200, seed=seed, wait=wait)


def whole(dig):
    """Every run is whole: done with a result that can be read, or ended with a reason and nothing on disk."""
    runs = dig.runs()
    for run in runs:
        assert run.status in ("done", "failed", "interrupted"), run
        assert run.ended is not None
        if run.status == "done":
            assert load_result(run.folder).verdict == run.verdict
        else:
            assert run.error and not run.folder.exists()
    kept = {run.folder.name for run in runs if run.status == "done"}
    left = {path.name for path in (dig.folder / "runs").iterdir() if not path.name.endswith(".lock")}
    assert left == kept, "no folder without its run, no half folder"
    assert dig.tables.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    return runs


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("times", slow_but([20], [20, 100]))
def test_killed_at_any_moment(dig, times):
    chance, enough, kills = random.Random(0), False, 0
    while kills < times or (not enough and kills < 4 * times):
        child = FORK.Process(target=work, args=(dig.folder, 10_000, 0.0))
        child.start()
        time.sleep(chance.uniform(0.0, 0.08 * (1 + kills // times)))  # longer where the machine is too busy for runs
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        kills += 1
        again = Dig(dig.folder)
        runs = again.runs()
        enough = len(runs) > times // 5 and {run.status for run in runs} == {"done", "interrupted"}
        assert all(run.status != "running" for run in runs), "what a killed process left behind is marked"
        again.close()
    runs = whole(Dig(dig.folder))
    assert enough, (len(runs), {run.status for run in runs})
    assert any("without a word" in run.error for run in runs)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_processes_that_write_one_dig_lose_nothing(dig):
    children = [FORK.Process(target=work, args=(dig.folder, 12, 0.0)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    runs = whole(dig)
    assert len(runs) == 48 and all(run.status == "done" for run in runs)
    assert sorted(run.id for run in runs) == list(range(1, 49))
    assert len(dig.search("add_up", last=100)) == 48


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_run_that_still_runs_is_left_alone(dig):
    child = FORK.Process(target=work, args=(dig.folder, 1, 3.0))
    child.start()
    deadline = time.monotonic() + 10
    while not dig.runs() and time.monotonic() < deadline:
        time.sleep(0.01)
    (run,) = Dig(dig.folder).runs()
    assert run.status == "running"
    with pytest.raises(BadInput, match="still running"):
        dig.remove(1)
    child.kill()
    child.join()
    (run,) = Dig(dig.folder).runs()
    assert run.status == "interrupted"


def test_a_result_that_was_whole_when_the_process_died_is_not_lost(dig, monkeypatch):
    """Killed between the result's folder and its row."""
    monkeypatch.setattr(dig_module.Recording, "_close", lambda self, about: self.lock.release())
    with dig:
        given = add_up(3)
    assert dig.run(1).status == "running"
    monkeypatch.undo()
    (run,) = Dig(dig.folder).runs()
    assert (run.status, run.verdict) == ("done", given.verdict)
    assert "run/1" in {hit.ref for hit in Dig(dig.folder).search("sum")}


def test_a_site_that_replaces_one_has_no_pages_of_the_old_one(dig, tmp_path):
    site = write_site(dig, tmp_path / "site", None)
    (site / "findings").mkdir()
    for page in ("findings/1.html", "log.html", "mine.html"):
        (site / page).write_text("old")
    write_site(dig, site, None)
    assert {path.name for path in site.iterdir()} == {"index.html", "mine.html"}


def test_a_full_disk_leaves_the_last_good_state(dig):
    with dig:
        add_up(3)
    limit = dig.tables.execute("PRAGMA page_count").fetchone()[0]
    dig.tables.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    dig.tables.execute(f"PRAGMA max_page_count = {limit}")
    with dig, pytest.raises(NotWritten, match=r"(?s)full.*Free some space"):
        for seed in range(5000):
            dig.note(1, "x" * 10)
            with dig.writing() as tables:
                indexed(tables, f"notes/{seed}", ("title", "word " * 5000))
    again = Dig(dig.folder)
    assert again.run(1).status == "done" and again.tables.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


def test_a_result_that_cannot_be_written_is_still_the_callers(dig, monkeypatch):
    def full(self, folder):
        raise NotWritten("No space left on device")

    monkeypatch.setattr("digsite.artifacts.Result.save", full)
    with dig, pytest.warns(UserWarning, match="run 1: the result could not be written: No space left"):
        given = add_up(3)
    assert given.numbers.shape == (3,)
    (run,) = dig.runs()
    assert run.status == "failed" and "No space left" in run.error and run.verdict == given.verdict
