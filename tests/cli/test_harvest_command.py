"""`digsite harvest`: text to a store, and what stops it."""

import json
import re
from pathlib import Path

import pytest
from command import MODEL, fits, run

from digsite.store import Store

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"


@pytest.fixture
def words(tmp_path):
    text = tmp_path / "my.txt"
    text.write_text("Mary and John went to the store.\n\nThe cat sat near the door.\n\n" * 20)
    return ["harvest", MODEL, "--corpus", str(text), "--length", "16", "--out", str(tmp_path / "store")]


def test_text_becomes_a_store_and_sites_are_added(words, tmp_path):
    first = run(*words, "--site", "layers.*.mlp.out")
    assert first.code == 0, first.err
    assert fits(first.out.partition("store: ")[0]) and "layers.3.mlp.out" in first.out and "bytes a row" in first.err
    second = run(*words, "--site", "layers.1.resid_post", "--encoding", "int8", "--json")
    assert second.code == 0, second.err
    made = json.loads(second.out)
    store = Store(tmp_path / "store")
    assert {row["column"]: row["encoding"] for row in made["columns"]} == {
        **{f"layers.{layer}.mlp.out": "bf16" for layer in range(4)},
        "layers.1.resid_post": "int8",
    }
    assert made["rows"] == store.rows and made["identity"]["bos"].endswith(", left out")
    kept = store.manifest.columns["layers.1.resid_post"].provenance["made_by"]
    assert kept.startswith("digsite harvest digsite/tinyworld --corpus") and "--encoding int8" in kept
    section = PAGE.read_text(encoding="utf-8").split("\n## digsite harvest\n")[1].split("\n## ")[0]
    assert {*made, *made["columns"][0], *made["plan"]} <= set(re.findall(r"`(\w+)`", section))


def test_tokens_bound_the_text(words, tmp_path):
    assert run(*words, "--site", "final.norm", "--tokens", "70", "--keep-bos").code == 0
    assert Store(tmp_path / "store").rows == 64


@pytest.mark.slow
def test_what_cannot_be_done_is_said_before_any_work(words, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10}))
    full = run(*words, "--site", "final.norm")
    assert full.code == 1 and "The harvest does not fit into" in full.err and not (tmp_path / "store").exists()
    monkeypatch.undo()
    assert run(*words, "--site", "final.norm").code == 0
    other = run(*words, "--site", "final.norm", "--encoding", "fp16")
    assert other.code == 1 and "encoding of final.norm bf16 there, fp16 here" in other.err
    longer = run(*words[:4], "--length", "12", *words[6:], "--site", "final.norm")
    assert longer.code == 1 and re.search(r"tokens \w{16} there, \w{16} here", longer.err)
