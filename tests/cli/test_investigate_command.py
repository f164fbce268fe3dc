import json
import re
from pathlib import Path

import pytest
from command import MODEL, fits, run

WORDS = ["investigate", "--model", MODEL, "--task", "ioi", "--n", "16", "--random-sets", "5"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("investigate")


@pytest.fixture(scope="module")
def told(place):
    """The text of one investigation in the default folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        return run(*WORDS)


@pytest.fixture(scope="module")
def document(place):
    """The JSON of the same investigation in a folder of its own."""
    shown = run(*WORDS, "--json", "--out", str(place / "own"))
    assert shown.code == 0, shown.err
    return json.loads(shown.out)


def test_the_answer_comes_first_then_the_claims_then_the_report(told, place):
    assert told.code == 0, told.err
    order = [told.out.index(part) for part in ("the task", "share [95 %]", "cost:", "report:", "open it:")]
    assert order == sorted(order)
    report = place / "investigations" / "ioi_tinyworld" / "report.html"
    assert f"report: {report.relative_to(place)}" in told.out
    assert "<html" in report.read_text(encoding="utf-8")


def test_it_fits_80_columns_and_is_plain_in_a_pipe(told):
    assert fits(told.out)


def test_it_says_beforehand_what_it_will_need(told, document):
    needed = re.search(r"needs up to ([\d,]+) rows", told.err)
    assert needed
    rows = int(needed.group(1).replace(",", ""))
    assert rows / 3 < document["cost"]["rows"] < rows * 1.05


def test_json_has_the_stable_keys_and_the_files_are_there(document, place):
    assert " ".join(document) == (
        "question verdict model task accuracy holds components knockout keep random claims cost provenance "
        "report folder"
    )
    assert document["folder"] == str(place / "own")
    assert Path(document["report"]).is_file()
    assert document["claims"][0]["claim"] == "knocking out the set breaks the behaviour"
    assert document["random"]["sets"] == 5


def test_the_result_comes_back_and_names_the_command(document, place):
    import digsite

    result = digsite.load_result(place / "own")
    assert result.provenance.made_by == f"digsite {' '.join(WORDS)} --json --out {place / 'own'}"
    assert document["provenance"] == result.provenance.to_dict()
    assert result.verdict == document["verdict"]


def test_an_earlier_result_is_not_replaced_unasked(told, place):
    from digsite.cli.investigate import unused

    assert unused(place / "fresh") == place / "fresh"
    assert unused(place / "investigations" / "ioi_tinyworld") == place / "investigations" / "ioi_tinyworld-2"


def test_every_key_is_documented(document):
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)`", page))
    found = set()

    def walk(value, inside=""):
        if isinstance(value, dict):
            for key, item in value.items():
                found.add(key)
                if key not in ("groups", "dropped"):  # their keys are data
                    walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)

    walk(document)
    assert not found - named
