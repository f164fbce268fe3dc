"""The glossary and the code say the same."""

from pathlib import Path

import pytest

from digsite.models.edits import HOW
from digsite.sites import SITES, SiteKind
from digsite.sites.table import GATED
from digsite.tasks.metrics import METRICS

PAGE = (Path(__file__).parents[2] / "docs" / "glossary.md").read_text()
EDITS = ("replace", "add", "scale", "cap", "swap", "apply", "patch", "ablate")


def rows(heading: str) -> list[list[str]]:
    """The body of the table under a heading, cell by cell."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    table = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    assert set("".join(table[1])) == set("|-")
    return table[2:]


def hook(kind: SiteKind) -> str:
    prefix = "blocks.<layer>." if kind.per_layer else ""
    plain = f"`{prefix}{kind.transformer_lens}`" if kind.transformer_lens else "–"
    return plain + (f"; gated `{prefix}{GATED[kind.name]}`" if kind.name in GATED else "")


def test_the_table_of_sites_is_that_of_the_code():
    expected = [[f"`{kind.name}`", " ".join(kind.axes), hook(kind), kind.meaning] for kind in SITES.values()]
    assert rows("Sites") == expected


def test_the_table_of_metrics_is_that_of_the_code():
    assert rows("Metrics") == [[name, one.unit, one.better, one.formula] for name, one in METRICS.items()]


def test_the_axes_of_sites_are_in_the_list():
    words = {row[0].strip("`") for row in rows("Axes")}
    assert {axis for kind in SITES.values() for axis in kind.axes} - {"1"} <= words


WORDS = [
    f"Words of {what}"
    for what in (
        "an experiment",
        "a circuit",
        "heads and tokens",
        "a store",
        "training",
        "a dictionary",
        "the toys",
        "the log",
    )
]
HEADINGS = ["Sites", "Axes", "Metrics", *WORDS]


@pytest.mark.parametrize("heading", HEADINGS)
def test_each_word_has_one_line_and_no_cell_is_empty(heading):
    table = rows(heading)
    words = [row[0] for row in table]
    assert len(set(words)) == len(words) > 5
    assert all(len(row) == len(table[0]) and all(cell.strip() for cell in row) for row in table)


def test_every_word_that_a_method_takes_or_gives_is_explained():
    explained = {row[0] for row in rows("Words of an experiment")}
    assert explained >= {*EDITS, *HOW, "corrupt", "denoise", "noise"}
    assert explained >= {
        "clean",
        "steer",
        "effect",
        "share",
        "edit",
        "knockout",
        "keep",
        "direct attribution",
        "logit lens",
        "null",
    }
    assert not explained & {row[0] for row in rows("Metrics")}


def test_every_word_of_the_toys_is_one_that_they_use_and_means_nothing_else():
    words = {row[0] for row in rows("Words of the toys")}
    pages = [path.read_text() for path in (Path(__file__).parents[2] / "docs" / "toys").glob("*.md")]
    code = [path.read_text() for path in (Path(__file__).parents[2] / "src" / "digsite" / "toys").rglob("*.py")]
    used = " ".join(" ".join([*pages, *code]).split()).lower()
    assert not [word for word in words if word.lower() not in used]
    others = {row[0] for heading in ("Words of an experiment", "Metrics") for row in rows(heading)}
    assert not words & others
