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
    assert told["ways"][0]["kept"] == pytest.approx(share)
    assert len(told["ways"]) == 1 and told["ways"][0]["random"] <= told["ways"][0]["random_best"]


def test_edges_without_a_score_are_not_called_the_strongest(found, monkeypatch):
    from dataclasses import replace

    from digsite.cli.circuit import FINDERS
    from digsite.graphs import Circuit

    scored = Circuit.load(found[0])
    bare = replace(scored, scores=scored.scores * float("nan"))
    for circuit, called in ((scored, "the strongest 20 of"), (bare, "the first 20 of")):
        finder = FINDERS["acdc"]._replace(find=lambda model, task, options, circuit=circuit: circuit)
        monkeypatch.setitem(FINDERS, "acdc", finder)
        assert called in run("circuit", "find", *ASK, "--method", "acdc").out


def test_export_writes_a_file_that_evaluate_reads_as_the_same_circuit(found, tmp_path):
    folder, made = found
    assert run("circuit", "export", str(folder), "--to", str(tmp_path / "a.json")).code == 0
    words = [str(tmp_path / "a.json"), *ASK, "--random-circuits", "1", "--json"]
    assert document("circuit", "evaluate", *words)["size"] == made["size"]


def test_disable_says_what_else_breaks_and_bakes_a_copy(found, tmp_path):
    folder, _ = found
    (tmp_path / "text.txt").write_text("The capital of Cuba is Havana. " * 20)
    words = [
        str(folder),
        *ASK,
        "--others",
        "capital-of",
        "--neutral",
        str(tmp_path / "text.txt"),
        "--random-parts",
        "1",
    ]
    told = document("circuit", "disable", *words, "--json")
    assert set(told) <= keys_of("disable") and set(told["changes"][0]) <= keys_of("disable")
    assert [one["on"] for one in told["changes"]] == ["ioi", "capital-of", "neutral text", "neutral text"]
    shown = run(
        "circuit",
        "disable",
        *words[:7],
        "--random-parts",
        "1",
        "--nodes",
        "--how",
        "zero",
        "--bake",
        str(tmp_path / "copy"),
    )
    assert shown.code == 0 and "heads and MLPs (zero)" in shown.out and (tmp_path / "copy" / "baked.json").is_file()
    refused = run("circuit", "disable", *words[:7], "--bake", str(tmp_path / "more"))
    assert refused.code == 1 and "Only whole heads and MLPs, at zero or a mean, can be baked" in refused.err
    refused = run("circuit", "disable", *words[:7], "--figure", str(tmp_path / "a.svg"))
    assert refused.code == 1 and "circuit disable draws no figure" in refused.err


def test_a_circuit_overlaps_with_itself(found):
    folder, made = found
    told = document("circuit", "compare", str(folder), str(folder), "--json")
    assert set(told) <= keys_of("compare") and set(told["pairs"][0]) <= keys_of("compare")
    assert told["pairs"][0]["edges"] == 1.0 > told["pairs"][0]["edges_by_chance"]
    assert len(told["core"]) == made["size"]
    assert fits(run("circuit", "compare", str(folder), str(folder)).out.replace(str(folder), "found"))


def test_a_circuit_keeps_its_places_and_is_judged_every_way(tmp_path):
    folder = str(tmp_path / "placed")
    made = document("circuit", "find", *ASK, "--method", "eap", "--at", "S2", "--out", folder, "--json")
    assert {row["place"] for row in made["kept"]} <= {"S2", "elsewhere"}
    words = ["--random-circuits", "1", "--side-by-side", "--minimality", "--json"]
    told = document("circuit", "evaluate", folder, *ASK, *words)
    assert set(told) <= keys_of("evaluate") and told["edges"] == made["edges"] == 2 * 1519
    assert len(told["ways"]) == 5 and len(told["without"]) == made["size"]


@pytest.mark.slow
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
