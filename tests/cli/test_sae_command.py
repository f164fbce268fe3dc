"""Dictionaries on the command line: in from other libraries, out for them."""

import json
import re
from pathlib import Path

from command import fits, run

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
FIXTURES = Path(__file__).parents[1] / "dictionaries" / "fixtures"


def document(*words):
    shown = run(*words, "--json")
    assert shown.code == 0, shown.err
    return json.loads(shown.out)


def keys_of(verb):
    section = PAGE.read_text(encoding="utf-8").split(f"\n## digsite sae {verb}\n")[1].split("\n## ")[0]
    return set(re.findall(r"`(\w+)`", section))


def test_a_dictionary_of_another_library_comes_in_and_goes_out_again(tmp_path):
    made = document("sae", "import", str(FIXTURES / "saelens-topk"), "--out", str(tmp_path / "here"))
    assert set(made) == keys_of("import") == keys_of("export")
    assert made["reads"] == made["writes"] == ["layers.3.resid_post"] and made["latents"] == [12]
    assert (made["activation"], made["format"], made["model"]) == ("topk", "saelens", "tiny")
    out = document("sae", "export", str(tmp_path / "here"), "--format", "saelens", "--out", str(tmp_path / "there"))
    assert out | {"folder": ""} == made | {"folder": ""}
    assert document("sae", "import", str(tmp_path / "there"), "--out", str(tmp_path / "again"))["centred"] is True


def test_text_is_plain_and_fits_80_columns(tmp_path):
    words = ["sae", "import", str(FIXTURES / "circuit-tracer-skip"), "--out", str(tmp_path / "here")]
    shown = run(*words, "--reads", "layers.*.resid_mid")
    assert shown.code == 0, shown.err
    assert fits(shown.out.replace(str(tmp_path), "")) and "layers.2.resid_mid" in shown.out and "yes" in shown.out


def test_what_cannot_be_done_says_why(tmp_path):
    shown = run("sae", "import", str(FIXTURES / "openai-topk" / "sae.pt"), "--out", str(tmp_path / "here"))
    assert shown.code == 1 and "sae.pt does not say what it reads" in shown.err and "--column" in shown.err
    assert not (tmp_path / "here").exists()
    document(*("sae", "import", str(FIXTURES / "sparsify-groupmax" / "layers.3"), "--out", str(tmp_path / "here")))
    shown = run("sae", "export", str(tmp_path / "here"), "--format", "saelens", "--out", str(tmp_path / "there"))
    assert shown.code == 1 and "SAELens has no form for this dictionary" in shown.err
