import json
import re
from pathlib import Path

import pytest
from command import MODEL, fits, run

from digsite.cli.investigate_where import sought_in

WORDS = ["investigate", "--model", MODEL, "--task", "gendered-pronoun", "--n", "160"]
WHERE = [*WORDS, "--question", "Where is gender represented?"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("where")


@pytest.fixture(scope="module")
def told(place):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        return run(*WHERE)


@pytest.fixture(scope="module")
def document(place):
    text = place / "plain.txt"
    text.write_text("Lily gave the ball to Tim.\n\n" * 400, encoding="utf-8")
    shown = run(*WHERE, "--text", str(text), "--json", "--out", str(place / "own"))
    assert shown.code == 0, shown.err
    return json.loads(shown.out)


@pytest.mark.slow
def test_the_answer_comes_first_then_the_claims_then_the_report(told, place):
    assert told.code == 0, told.err
    order = [told.out.index(part) for part in ("gender is read", "effect [95 %]", "cost:", "report:", "open it:")]
    assert order == sorted(order) and fits(told.out)
    assert (place / "investigations" / "where_gendered-pronoun_tinyworld" / "report.html").is_file()


@pytest.mark.slow
def test_it_says_beforehand_what_it_will_need(told):
    needed = re.search(r"needs up to ([\d,]+) rows", told.err)
    spent = re.search(r"cost: ([\d,]+) rows", told.out)
    assert needed and spent
    most, rows = (int(found[1].replace(",", "")) for found in (needed, spent))
    assert most / 4 < rows < most * 1.05


def test_json_has_the_stable_keys_and_every_key_is_documented(document, place):
    assert " ".join(document) == (
        "question verdict model task label by site place as_good cells neutral holds failures claims cost provenance "
        "report folder"
    )
    assert document["label"] == "gender" and document["neutral"] == "plain.txt"
    assert Path(document["report"]).is_file() and document["folder"] == str(place / "own")
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    assert not set(document) - set(re.findall(r"`(\w+)`", page))


@pytest.mark.parametrize(
    ("question", "sought"),
    [
        (None, None),
        ("How does it do this?", None),
        ("where is gender represented?", "gender"),
        ("Where are  names of people encoded", "names of people"),
        ("where is number?", "number"),
    ],
)
def test_a_question_names_its_sequence(question, sought):
    assert sought_in(question) == sought


@pytest.mark.parametrize("question", ["why is the sky blue?", "where?", "where is represented?"])
def test_another_question_is_refused_with_what_is_possible(question):
    shown = run(*WORDS, "--question", question)
    assert shown.code != 0 and "No sequence answers" in shown.err and "where is X represented?" in shown.err


def test_options_of_the_other_question_are_refused():
    shown = run(*WORDS, "--others", "ioi")
    assert shown.code != 0 and "--others belongs to the question where" in shown.err
