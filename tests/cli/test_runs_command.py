"""A dig from the command line: made, worked in, looked at, compared, run again."""

import json

import pytest
from command import MODEL, fits, run


@pytest.fixture
def dig(tmp_path, monkeypatch):
    folder = tmp_path / "dig"
    made = run("dig", "init", str(folder), "--question", "Who receives the gift?")
    assert made.code == 0 and f"dig: {folder}" in made.out
    monkeypatch.chdir(folder)
    return folder


def lens(*more):
    return run("lens", "--model", MODEL, "--task", "ioi", "--n", "8", *more)


def shown(*words):
    done = run(*words, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_what_is_run_in_a_dig_is_remembered(dig):
    empty = run("runs", "list")
    assert empty.code == 0 and "no run yet" in empty.out
    assert lens("--out", "kept").code == 0
    assert run("lens", "--model", MODEL, "--task", "no-such-task").code == 1
    (only,) = shown("runs", "list")["runs"]
    assert (
        only["status"] == "done"
        and only["command"] == "digsite lens --model digsite/tinyworld --task ioi --n 8 --out kept"
    )
    listed, one = run("runs", "list"), run("runs", "show", "1")
    assert fits(listed.out) and "logit_lens" in listed.out
    assert "again" in one.out and only["verdict"][:40] in one.out
    assert run("runs", "tag", "1", "first", "look").out == "run 1: first look\n"
    assert "notes" in run("runs", "note", "1", "Odd: the MLPs are silent.").out
    assert "⟦silent⟧" in run("search", "silent").out
    assert [hit["ref"] for hit in shown("search", "ioi")["found"]] == ["run/1"]
    about = shown("dig", "show")
    assert about["runs"]["done"] == 1 and about["title"] == "dig"
    assert run("runs", "rm", "1").code == 0 and shown("runs", "list")["runs"] == []


def test_a_rerun_agrees_and_changes_nothing_that_was_there(dig):
    lens("--out", "kept")
    stamp = (dig / "kept" / "result.json").stat().st_mtime_ns
    done = run("runs", "rerun", "1")
    assert done.code == 0 and "agree in all" in done.out, done.err
    assert (dig / "kept" / "result.json").stat().st_mtime_ns == stamp
    second = shown("runs", "show", "2")
    assert second["rerun_of"] == 1 and second["command"] == shown("runs", "show", "1")["command"]
    lens("--seed", "1")
    other = run("runs", "compare", "1", "3")
    assert other.code == 0 and "differ in" in other.out and fits(other.out)


def test_mistakes_say_what_to_do(dig, tmp_path, monkeypatch):
    for words, message in (
        (("runs", "show", "7"), "There is no run 7"),
        (("runs", "show", "seven"), "is no number of a run"),
        (("runs", "list", "--status", "over"), "no status of a run"),
        (("dig", "init", "."), "is a dig already"),
        (("search",), "needs a word"),
    ):
        done = run(*words)
        assert done.code == 1 and message in done.err, done.err
    monkeypatch.chdir(tmp_path)
    outside = run("runs", "list")
    assert outside.code == 1 and "lies in no dig" in outside.err and "digsite dig init" in outside.err
    assert run("runs", "list", "--dig", str(dig)).code == 0
