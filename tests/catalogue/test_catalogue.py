"""The catalogue and the methods are held together: none without an entry, no entry without a method."""

import os
import re
from pathlib import Path

import pytest

from digsite._core.errors import BadInput
from digsite.catalogue import choose, define, find, methods, methods_page
from digsite.catalogue.entries import entries
from digsite.catalogue.source import documented
from digsite.catalogue.vocabulary import BRANCHES, EVIDENCE, LEVELS

ROOT = Path(__file__).parents[2]


def test_every_method_has_an_entry_and_every_entry_a_method():
    told = entries()
    source = {name for name in documented() if not name.startswith("toys.")}
    assert source - told.keys() == set() and told.keys() - source == set()


@pytest.mark.parametrize("name", sorted(entries()))
def test_an_entry_speaks_the_words_of_the_catalogue(name):
    entry = entries()[name]
    assert "?" in entry.question and entry.assumes.endswith(".")
    assert set(entry.level) <= LEVELS.keys() and entry.branch in BRANCHES and entry.evidence in EVIDENCE
    assert (ROOT / "docs" / entry.read.partition("#")[0]).is_file()
    if entry.example.startswith("digsite."):
        called = re.match(r"digsite\.([\w.]+)\(", entry.example)
        assert called and called[1].rpartition(".")[2] == name.partition(".")[2]


def test_a_method_is_found_by_its_question_its_level_and_its_branch():
    names = {one.name for one in choose("steering cost")}
    assert "directions.steer_card" in names and "lenses.logit_lens" not in names
    assert all("head" in one.entry.level for one in choose(level="head")) and choose(level="head")
    assert all(one.entry.branch == "linear" for one in choose(branch="linear")) and choose(branch="linear")
    with pytest.raises(BadInput, match="neuron, head"):
        choose(level="galaxy")
    found = find("activation_patching")
    assert found is not None and found.source.sections.get("Source") and found.cost is not None
    assert find("nothing_of_this_name") is None
    assert len(methods()) == len(entries())


def test_the_page_of_methods_is_the_catalogue():
    """DIGSITE_WRITE_GOLDEN=1 writes it anew."""
    page = ROOT / "docs" / "methods.md"
    head, mark, _ = page.read_text(encoding="utf-8").partition("<!-- the catalogue -->\n")
    assert mark
    made = f"{head}{mark}\n{methods_page().strip()}\n"
    if os.environ.get("DIGSITE_WRITE_GOLDEN"):
        page.write_text(made, encoding="utf-8")
    assert page.read_text(encoding="utf-8") == made


def test_the_glossary_answers_offline():
    assert any(term.word == "faithfulness" for term in define("faithfulness"))
    with pytest.raises(BadInput):
        define("zzzz")
