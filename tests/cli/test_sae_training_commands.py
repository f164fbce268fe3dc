"""From a text file to a trained, judged, compared and exported dictionary, as a newcomer does it."""

import json
import re
import shutil
from itertools import permutations
from pathlib import Path

import pytest
import torch
from command import MODEL, fits, run

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
SMALL = ["--latents", "64", "--batch", "128", "--length", "32"]


def slow(*case):
    return pytest.param(*case, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def notes(tmp_path_factory):
    people, places, things = ("Mary", "John", "Emma", "Tom"), ("store", "park", "garden"), ("drink", "book", "ring")
    lines = [
        f"When {a} and {b} went to the {place}, {b} gave a {thing} to {a}."
        for a, b in permutations(people, 2)
        for place in places
        for thing in things
    ]
    path = tmp_path_factory.mktemp("text") / "notes.txt"
    path.write_text("\n\n".join(lines), encoding="utf-8")
    return path


def train(notes, out, *more, rows=1024):
    return run("sae", "train", MODEL, "--corpus", str(notes), "--out", str(out), "--rows", str(rows), *SMALL, *more)


@pytest.fixture(scope="module")
def trained(notes, tmp_path_factory):
    """Two dictionaries of one harvest, and what was said."""
    out = tmp_path_factory.mktemp("trained") / "several"
    shown = train(notes, out, "--site", "layers.2.resid_post", "--k", "2", "8", "--json")
    assert shown.code == 0, shown.err
    return out, json.loads(shown.out), shown.err


def document(*words):
    shown = run(*words, "--json")
    assert shown.code == 0, shown.err
    return json.loads(shown.out)


def keys_of(verb):
    section = PAGE.read_text(encoding="utf-8").split(f"\n## digsite sae {verb}\n")[1].split("\n## ")[0]
    return set(re.findall(r"`(\w+)`", section))


# -- train -----------------------------------------------------------------------------------------------------------
def test_several_sizes_learn_from_one_reading(trained):
    out, made, _ = trained
    assert [one["name"] for one in made["dictionaries"]] == ["k2", "k8"]
    for one, k in zip(made["dictionaries"], (2, 8), strict=True):
        assert (one["family"], one["reads"], one["latents"]) == ("sae", ["layers.2.resid_post"], 64)
        assert one["l0"] == pytest.approx(k, rel=0.05) and 0 < one["fvu"] < 1
        assert (Path(one["folder"]) / "dictionary.json").is_file()
    assert made["dictionaries"][1]["fvu"] < made["dictionaries"][0]["fvu"]
    assert Path(made["figure"]).read_text(encoding="utf-8").startswith("<?xml")
    assert {*made, *made["dictionaries"][0], *made["plan"]} <= keys_of("train")
    assert made["next"].startswith(f"digsite sae compare {out} --model {MODEL}")


def test_it_says_first_what_it_will_take_and_then_how_it_goes(trained):
    said = " ".join(trained[2].split())
    assert "50 sequences of 32 tokens; 8 more held out" in said
    assert re.search(r"2 dictionaries of 33,152 numbers; 1,024 rows in 8 steps of 128; \S+ kB of memory", said)
    assert said.index("about ") < said.index("of 1,024 rows")
    assert "k8: FVU" in said and "\x1b" not in said


def test_the_record_says_how_it_was_trained(trained):
    from digsite.dictionaries import TrainedDictionaries

    made = TrainedDictionaries.load(trained[0])
    origin = made.dictionaries["k8"].config.origin
    assert (origin["length"], origin["sequences"], origin["rows"], origin["recipe"]) == (32, 50, 1024, "TopK")
    assert made.provenance.made_by.startswith("digsite sae train digsite/tinyworld --corpus")


@pytest.mark.parametrize(
    ("words", "families"),
    [
        (["--family", "clt", "--reads", "layers.0-1.mlp.norm", "--writes", "layers.0-1.mlp.out"], ["clt"]),
        (["--family", "molt", "--reads", "layers.0.mlp.norm", "--writes", "layers.0.mlp.out"], ["molt"]),
        (["--recipe", "matryoshka", "jumprelu-short", "--l0", "8"], ["sae", "sae"]),
        slow(["--reads", "layers.0-1.mlp.norm", "--writes", "layers.0-1.mlp.out"], ["transcoder"] * 2),
        slow(["--family", "crosscoder", "--site", "layers.0-1.resid_post"], ["crosscoder"]),
        slow(["--family", "matryoshka"], ["sae"]),
        slow(["--family", "skip"], ["transcoder"] * 4),
    ],
)
def test_every_family_learns_without_a_configuration(words, families, notes, tmp_path):
    shown = train(notes, tmp_path / "made", *words, "--json", rows=256)
    assert shown.code == 0, shown.err
    made = json.loads(shown.out)["dictionaries"]
    assert [one["family"] for one in made] == families
    assert all(one["rows"] == 256 for one in made)


def test_a_store_is_learned_from_as_its_text_is(notes, tmp_path):
    from digsite.dictionaries import TrainedDictionaries

    store = ["harvest", MODEL, "--corpus", str(notes), "--length", "32", "--out", str(tmp_path / "store")]
    assert run(*store, "--site", "layers.1.resid_post", "layers.2.resid_post", "--encoding", "fp32").code == 0
    words = ["sae", "train", str(tmp_path / "store"), "--out", str(tmp_path / "made"), "--rows", "512", *SMALL]
    refused = run(*words)
    assert (refused.code, "choose with --site" in refused.err) == (1, True)
    assert "has its text already" in run(*words, "--corpus", str(notes)).err
    near = run(*words, "--site", "layers.2.resid_pots")
    assert "did you mean layers.2.resid_post?" in near.err
    shown = run(*words, "--site", "layers.2.*")
    assert shown.code == 0, shown.err
    assert TrainedDictionaries.load(tmp_path / "made").dictionary.reads == ("layers.2.resid_post",)
    assert "--model MODEL --corpus TEXT" in shown.out


def test_text_is_plain_and_fits_80_columns(notes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(notes, "notes.txt")
    shown = train("notes.txt", "my-sae")
    assert shown.code == 0, shown.err
    assert fits(shown.out.split("judge it:")[0])
    judged = run(*shown.out.split("judge it: digsite ")[1].split())
    assert judged.code == 0, judged.err
    assert fits(judged.out) and "the end of notes.txt, which was held out" in judged.err
    out = run("sae", "export", "my-sae", "--format", "saelens", "--out", "for-saelens")
    assert out.code == 0 and Path("for-saelens/cfg.json").is_file()


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_learned_and_the_same_command_goes_on(notes, tmp_path, monkeypatch):
    from digsite.cli.dashboard import Dashboard
    from digsite.dictionaries import load

    assert train(notes, tmp_path / "whole").code == 0
    with monkeypatch.context() as patched:

        def pressed(self, step, metrics):
            if step == 5:
                raise KeyboardInterrupt

        patched.setattr(Dashboard, "__call__", pressed)
        stopped = train(notes, tmp_path / "made")
    assert stopped.code == 130 and "the same command goes on from there" in " ".join(stopped.err.split())
    early = run("sae", "eval", str(tmp_path / "made"), "--model", MODEL, "--corpus", str(notes))
    assert early.code == 1 and "is not finished" in early.err
    other = train(notes, tmp_path / "made", "--seed", "1")
    assert other.code == 1 and "other settings" in other.err and "seed 0 there, 1 here" in " ".join(other.err.split())
    again = train(notes, tmp_path / "made")
    assert again.code == 0 and "goes on with what was learned" in " ".join(again.err.split())
    assert not (tmp_path / "made.training").exists()
    first, second = (load(tmp_path / name / "sae") for name in ("whole", "made"))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize(
    ("words", "telling"),
    [
        (["--site", "layers.9.resid_post"], "layer 0 to 3"),
        (["--site", "layers.2.resid_pots"], "resid_post"),
        (["--k", "65"], "--k 65 of 64 latents cannot fire in a row. Possible: --k 1 to 64."),
        (["--recipe", "topkk"], "There is no recipe topkk. Possible: did you mean topk?"),
        (["--recipe", "jumprelu", "--k", "4"], "The recipe jumprelu takes no --k. Do: --l0 says"),
        (["--l0", "4"], "The recipe topk takes no --l0"),
        (["--family", "clt", "--site", "layers.0.mlp.out"], "The family clt takes no --site. Possible: --reads"),
        (["--reads", "layers.0.mlp.norm"], "A transcoder reads as many sites as it writes. Found: 1 to read"),
        (["--family", "crosscoder", "--site", "layers.0.mlp.out"], "A crosscoder reads several sites"),
        (["--length", "1000"], "length=1000"),
        (["--length", "16", "--corpus", "short.txt"], "is too little text to learn from and to judge on"),
        (["--corpus", "none.txt"], "A corpus file is not there"),
    ],
)
def test_what_cannot_be_trained_is_said_with_what_can(words, telling, notes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("short.txt").write_text("Mary and John went to the store. " * 8, encoding="utf-8")
    corpus = [] if "--corpus" in words else ["--corpus", str(notes)]
    shown = run("sae", "train", MODEL, "--out", "made", "--latents", "64", "--rows", "256", *corpus, *words)
    assert (shown.code, shown.out) == (1, "")
    assert telling in " ".join(shown.err.split())
    assert not Path("made").exists()


def test_a_model_needs_text_and_a_folder_of_its_own(notes, trained, tmp_path):
    assert "--corpus notes.txt" in run("sae", "train", MODEL, "--out", str(tmp_path / "made")).err
    assert "A finished training lies in" in train(notes, trained[0]).err
    (tmp_path / "thesis.tex").write_text("two years")
    assert "thesis.tex" in train(notes, tmp_path).err


# -- eval ------------------------------------------------------------------------------------------------------------
def test_eval_judges_on_the_held_out_end_beside_baselines(trained, notes, tmp_path):
    out = tmp_path / "judged"
    words = ["sae", "eval", str(trained[0] / "k8"), "--model", MODEL, "--corpus", str(notes), "--out", str(out)]
    made = document(*words, "--retrain")
    assert made["held_out"] is True and made["missing"] == []
    names = [row["judged"] for row in made["judged"]]
    assert {"dictionary", "step 0", "PCA", "shuffled activations", "random-weights model"} <= set(names)
    best = {row["judged"]: row["fvu"] for row in made["judged"]}
    assert best["dictionary"] < best["step 0"]
    fields = {re.sub("_(low|high)$", "", field) for field in made["judged"][0]}
    assert {*made, *fields} <= keys_of("eval")
    assert sorted(path.name for path in out.glob("*.svg")) == ["density.svg", "fvu.svg", "loss.svg"]


def test_eval_takes_other_text_whole_and_does_not_retrain_on_it(trained, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("The cat sat near the door. Mary went to the park.\n\n" * 40, encoding="utf-8")
    words = ["sae", "eval", str(trained[0] / "k8"), "--model", MODEL, "--corpus", str(other), "--no-baselines"]
    made = document(*words)
    assert made["held_out"] is False and [row["judged"] for row in made["judged"]] == ["dictionary"]
    refused = run(*words, "--retrain")
    assert refused.code == 1 and "which is another text" in refused.err


def test_one_of_several_has_to_be_named(trained, notes):
    shown = run("sae", "eval", str(trained[0]), "--model", MODEL, "--corpus", str(notes))
    assert shown.code == 1 and "holds 2 dictionaries" in shown.err and "sae compare" in shown.err


# -- compare ---------------------------------------------------------------------------------------------------------
def test_compare_puts_dictionaries_of_one_site_side_by_side(trained, notes, tmp_path):
    words = ["sae", "compare", str(trained[0]), "--model", MODEL, "--corpus", str(notes), "--no-baselines"]
    made = document(*words, "--out", str(tmp_path / "frontier"), "--figure", str(tmp_path / "frontier.svg"))
    (found,) = made["frontiers"]
    assert [row["name"] for row in found["points"]] == ["k2", "k8"]
    assert found["points"][1]["fvu"] < found["points"][0]["fvu"]
    (pair,) = found["shared"]
    assert (pair["of"], pair["found_in"], pair["same_seed"]) == ("k2", "k8", True)
    assert 0 <= pair["by_chance"] < pair["share"] <= 1
    fields = {re.sub("_(low|high)$", "", field) for field in found["points"][0]}
    assert {*made, *found, *fields, *pair} <= keys_of("compare")
    assert (tmp_path / "frontier.svg").is_file() and (tmp_path / "frontier" / "result.json").is_file()
    text = run(*words)
    assert fits(text.out) and "on the frontier of L0 and FVU" in " ".join(text.out.split())


@pytest.mark.slow
def test_dictionaries_of_different_sites_are_kept_apart(trained, notes, tmp_path):
    assert train(notes, tmp_path / "early", "--site", "layers.0.resid_post", rows=256).code == 0
    words = ["sae", "compare", str(trained[0]), str(tmp_path / "early"), "--model", MODEL, "--corpus", str(notes)]
    made = document(*words, "--no-baselines", "--out", str(tmp_path / "out"))
    assert [found["columns"] for found in made["frontiers"]] == [["layers.2.resid_post"], ["layers.0.resid_post"]]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["layers.0.resid_post", "layers.2.resid_post"]
    refused = run(*words, "--figure", str(tmp_path / "one.svg"))
    assert refused.code == 1 and "draws dictionaries of one site" in refused.err
