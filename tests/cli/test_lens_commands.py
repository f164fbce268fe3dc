"""`digsite lens fit` and `digsite lens compare`, and the answer through a lens that was fitted."""

import json
import re
from pathlib import Path

import pytest
from command import MODEL, fits, run

import digsite
from digsite.lenses import LensComparison, load_lens

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"


def keys_of(command):
    section = PAGE.read_text(encoding="utf-8").split(f"\n## digsite {command}\n")[1].split("\n## ")[0]
    return set(re.findall(r"`(\w+)`", section))


def document(*words):
    shown = run(*words, "--json")
    assert shown.code == 0, shown.err
    return json.loads(shown.out)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a text and a tuned lens."""
    folder = tmp_path_factory.mktemp("lens")
    model = digsite.load(MODEL)
    prompts = digsite.tasks.ioi(model, n=200).clean
    rows = [row[mask] for row, mask in zip(prompts.ids, prompts.mask, strict=True)]
    lines = [model.tokenizer.decode(row, skip_special_tokens=True) for row in rows]
    (folder / "text.txt").write_text("\n\n".join(lines), encoding="utf-8")
    return folder


def text(place):
    return ["--model", MODEL, "--corpus", str(place / "text.txt")]


@pytest.fixture(scope="module")
def tuned(place):
    words = ["lens", "fit", "tuned", *text(place), "--length", "24", "--steps", "10", "--out", str(place / "mine")]
    return document(*words, "--figure", str(place / "fit.svg"))


def test_a_lens_is_fitted_on_a_text_and_judged_on_its_end(place, tuned):
    assert {*tuned, *tuned["text"], *tuned["points"][0]} <= keys_of("lens fit") | {"steps", "batch"}
    lens = load_lens(place / "mine", digsite.load(MODEL))
    assert lens.fit.verdict == tuned["verdict"] and lens.origin["sequences"] == tuned["text"]["sequences"]
    assert lens.fit.provenance.made_by.startswith("digsite lens fit tuned --model")
    assert (place / "fit.svg").is_file()


def test_lenses_are_compared_on_what_was_held_out(place, tuned):
    words = ["lens", "compare", str(place / "mine"), *text(place), "--rows", "6"]
    shown = run(*words)
    assert shown.code == 0 and fits(shown.out) and "the end of text.txt" in shown.err
    made = document(*words, "--out", str(place / "compared"))
    assert {*made, *made["points"][0]} <= keys_of("lens compare")
    assert set(made["area"]) == {"logit", "mine"} and made["area"]["mine"] < made["area"]["logit"]
    assert LensComparison.load(place / "compared").verdict == made["verdict"]


def test_the_answer_is_read_through_a_lens(place, tuned):
    ask = ["lens", "--model", MODEL, "--task", "ioi", "--n", "8"]
    made = document(*ask, "--lens", str(place / "mine"))
    assert made["lens"] == "tuned" and made["verdict"].startswith("Through the tuned lens the answer is")
    assert made["layers"][-1] == document(*ask)["layers"][-1]


def test_a_jacobian_lens_fits_the_screen(place):
    words = ["lens", "fit", "jacobian", *text(place), "--length", "24", "--prompts", "2", "--probes", "4"]
    shown = run(*words, "--out", str(place / "jacobian"))
    assert shown.code == 0 and fits(shown.out) and "4 random probes a prompt" in " ".join(shown.out.split())


def test_what_is_not_there_is_said(place, tuned):
    assert "There is no lens in nowhere" in run("lens", "compare", "nowhere", *text(place)).err
    twice = run("lens", "compare", str(place / "mine"), str(place / "mine"), *text(place))
    assert twice.code == 1 and "told apart by the names of their folders" in twice.err
    assert run("lens", "fit", "new", *text(place), "--out", "x").code == 2
