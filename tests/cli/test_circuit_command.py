"""Circuits on the command line: found, tested, compared, made smaller, handed on; each reads what the other wrote."""

import json
import re
from pathlib import Path

import pytest
from command import MODEL, fits, run

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
ASK = ["--model", MODEL, "--task", "ioi", "--n", "3"]


def document(*words):
    shown = run(*words)
    assert shown.code == 0, shown.err
    return json.loads(shown.out)


def keys_of(verb):
    section = PAGE.read_text(encoding="utf-8").split(f"\n## digsite circuit {verb}\n")[1].split("\n## ")[0]
    return set(re.findall(r"`(\w+)`", section))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("circuits") / "found"
    made = document("circuit", "find", *ASK, "--method", "eap", "--size", "0.2", "--out", str(folder), "--json")
    return folder, made


def test_find_saves_what_evaluate_reads_and_says_beforehand_what_it_needs(found):
    folder, made = found
    assert set(made) <= keys_of("find") and made["size"] == len(made["kept"]) <= 0.2 * made["edges"]
    told = document("circuit", "evaluate", str(folder), *ASK, "--random-circuits", "2", "--json")
    assert set(told) <= keys_of("evaluate") and told["size"] == made["size"]
    share = (told["kept"]["mean"] - told["empty"]["mean"]) / (told["full"]["mean"] - told["empty"]["mean"])
    assert told["share"]["mean"] == pytest.approx(share)
    assert told["random"]["circuits"] == 2


def test_export_writes_a_file_that_evaluate_reads_as_the_same_circuit(found, tmp_path):
    folder, made = found
    assert run("circuit", "export", str(folder), "--to", str(tmp_path / "a.json")).code == 0
    words = [str(tmp_path / "a.json"), *ASK, "--random-circuits", "1", "--json"]
    assert document("circuit", "evaluate", *words)["size"] == made["size"]


def test_a_circuit_overlaps_with_itself(found):
    folder, made = found
    told = document("circuit", "compare", str(folder), str(folder), "--json")
    assert set(told) <= keys_of("compare") and set(told["pairs"][0]) <= keys_of("compare")
    assert told["pairs"][0]["edges"] == 1.0 > told["pairs"][0]["edges_by_chance"]
    assert len(told["core"]) == made["size"]
    assert fits(run("circuit", "compare", str(folder), str(folder)).out.replace(str(folder), "found"))


def test_roles_are_saved_with_a_circuit_and_compared(found):
    folder, _ = found
    told = run("circuit", "compare", str(folder), str(folder), "--by", "role")
    assert told.code == 1 and "digsite circuit roles FOLDER" in told.err
    roles = document("circuit", "roles", str(folder), *ASK, "--steps", "1", "--json")
    assert set(roles) <= keys_of("roles") and roles["nodes"][0]["importance"] > roles["nodes"][-1]["importance"]
    told = document("circuit", "compare", str(folder), str(folder), "--by", "role", "--json")
    assert set(told) <= keys_of("compare") and set(told["numbers"][0]) <= keys_of("compare")
    assert [row["value"] for row in told["numbers"]] == pytest.approx([1.0] * 3, abs=1e-4)
    assert all(pair["first"] == pair["second"] for pair in told["matched"])


@pytest.mark.parametrize(
    ("words", "telling"),
    [
        (["--method", "acdc", "--size", "5"], "acdc takes no --size"),
        (["--threshold", "0.1"], "eap-ig takes no --threshold"),
        (["--size", "few"], "no size of a circuit"),
    ],
)
def test_what_cannot_be_asked_says_why(words, telling):
    shown = run("circuit", "find", *ASK, *words)
    assert shown.code == 1 and telling in shown.err
