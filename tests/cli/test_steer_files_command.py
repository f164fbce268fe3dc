"""Directions on the command line: in from other programs, out for them."""

import json
import re
from pathlib import Path

import pytest
import torch
from command import MODEL, fits, run

import digsite
from architectures import tiny
from digsite.cli.steer_files import stored
from digsite.directions import Direction, Subspace, save
from digsite.directions.exchange import read_directions
from digsite.models import made_by

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"


def document(*words):
    shown = run(*words, "--json")
    assert shown.code == 0, shown.err
    return json.loads(shown.out)


def keys_of(verb):
    section = PAGE.read_text(encoding="utf-8").split(f"\n## digsite steer {verb}\n")[1].split("\n## ")[0]
    return set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))


@pytest.fixture(scope="module")
def gguf():
    return pytest.importorskip("gguf", reason="gguf is not installed")


@pytest.fixture(scope="module")
def model():
    return digsite.load(MODEL, verify=False)


@pytest.fixture
def kept(model, tmp_path):
    """Directions of two layers in a folder."""
    made = made_by("drawn", model)
    draw = torch.Generator().manual_seed(0)
    several = [
        Direction(
            site=digsite.Site.parse(f"layers.{layer}.resid_post"),
            vector=torch.randn(model.d_model, generator=draw),
            name="drawn",
            provenance=made,
        )
        for layer in (1, 2)
    ]
    save(several, tmp_path / "kept")
    return tmp_path / "kept"


def test_what_goes_out_as_a_control_vector_comes_in_as_it_was(gguf, kept, tmp_path):
    out = document("steer", "export", str(kept), "--model", MODEL, "--out", str(tmp_path / "drawn.gguf"))
    assert set(out) == keys_of("export") and out["file"] == str(tmp_path / "drawn.gguf")
    made = document("steer", "import", out["file"], "--model", MODEL, "--out", str(tmp_path / "again"))
    assert set(made) == keys_of("import")
    assert [row["site"] for row in made["directions"]] == ["layers.1.resid_post", "layers.2.resid_post"]
    for before, after in zip(stored(kept), stored(tmp_path / "again"), strict=True):
        assert after.site == before.site and torch.equal(after.vector, before.vector)


def test_all_directions_of_a_folder_steer_together(model, kept):
    ask = ("--model", MODEL, "--direction", str(kept), "--prompt", "One day, Tim", "--tokens", "4")
    told = document("steer", "generate", *ask, "--coefficient", "1.5", "--unit", "raw")
    edits = [one.add(1.5) for one in stored(kept)]
    wanted = model.generate(model.tokens(["One day, Tim"]), max_new_tokens=4, edits=edits)
    assert told["generations"][0]["steered"] == wanted.texts[0] and len(told["directions"]) == 2
    shown = run("steer", "generate", *ask)
    assert shown.code == 1 and "units of norm" in shown.err and "unit='raw'" in shown.err


def test_a_file_of_steering_vectors_comes_in(model, tmp_path):
    vectors = {1: torch.arange(float(model.d_model))}
    torch.save({"layer_activations": vectors, "layer_type": "decoder_block"}, tmp_path / "theirs.pt")  # noqa: TID251
    shown = run("steer", "import", str(tmp_path / "theirs.pt"), "--model", MODEL, "--out", str(tmp_path / "here"))
    assert shown.code == 0, shown.err
    assert fits(shown.out.replace(str(tmp_path), "")) and "layers.1.resid_post" in shown.out and "theirs" in shown.out
    (one,) = stored(tmp_path / "here")
    assert torch.equal(one.vector, vectors[1])


def test_what_cannot_be_done_says_why(kept, tmp_path):
    def said(*words):
        shown = run("steer", *words)
        assert shown.code == 1
        return " ".join(shown.err.split())

    into = ("--model", MODEL, "--out", str(tmp_path / "here"))
    assert "cannot be read" in said("import", str(tmp_path / "none.gguf"), *into)
    (tmp_path / "text.pt").write_text("no vector")
    assert "cannot be read without running it" in said("import", str(tmp_path / "text.pt"), *into)
    assert not (tmp_path / "here").exists()
    there = ("--model", MODEL, "--out", str(tmp_path / "there.gguf"))
    assert "There are no directions in" in said("export", str(tmp_path / "here"), *there)
    (one, _) = stored(kept)
    plane = Subspace(site=one.site, basis=one.unit_vector[None], name="plane", provenance=one.provenance)
    save([one, plane], tmp_path / "mixed")
    assert "direction drawn, subspace plane" in said("export", str(tmp_path / "mixed"), *there)
    assert run("steer", "export", str(kept), "--model", MODEL, "--out", "there.bin").code == 2


def test_a_direction_that_does_not_fit_the_model_is_not_exported(gguf, tmp_path):
    other = digsite.load(tiny("llama"), verify=False)
    vector = torch.ones(other.d_model)
    one = Direction(site=digsite.Site.parse("layers.1.resid_post"), vector=vector, provenance=made_by("ones", other))
    save(one, tmp_path / "other")
    shown = run("steer", "export", str(tmp_path / "other"), "--model", MODEL, "--out", str(tmp_path / "there.gguf"))
    assert shown.code == 1 and "64 numbers, 128 there" in shown.err and not (tmp_path / "there.gguf").exists()


@pytest.mark.parametrize(
    ("name", "how"), [("repeng.gguf", "control vector"), ("steering_vectors.pt", "steering-vectors")]
)
def test_which_program_wrote_a_file_is_found(name, how):
    if name == "repeng.gguf":
        pytest.importorskip("gguf", reason="gguf is not installed")
    fixtures = Path(__file__).parents[1] / "directions" / "fixtures"
    read = read_directions(fixtures / name, digsite.load(tiny("llama"), verify=False))
    assert {one.how for one in read} == {how} and [one.site.layer for one in read] == [1, 2]
