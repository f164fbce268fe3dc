"""`digsite probe card` and `digsite probe monitor` from end to end."""

import json

import pytest
from command import MODEL, fits, run

CARD = ("probe", "card", "--model", MODEL, "--task", "gendered-pronoun", "--site", "layers.2.resid_post", "--n", "40")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("card")
    code, out, _ = run(
        *CARD, "--fit", "mean-difference", "--out", str(folder / "card"), "--page", str(folder / "card.html")
    )
    assert code == 0 and fits(out.split("folder: ")[0]), out
    return folder, out


def test_a_card_says_what_failed_and_is_saved(saved):
    folder, out = saved
    assert "AUROC" in out and "bag of words" in out and "no neutral text was given" in " ".join(out.split())
    page = (folder / "card.html").read_text()
    assert "Does the model use it?" in page


def test_the_card_gives_its_direction_to_a_monitor(saved, tmp_path):
    text = tmp_path / "prompts.txt"
    text.write_text("\n\n".join(["When Mary and John went to the park,", "One day, Lily", "The capital of"] * 20))
    words = ("--direction", str(saved[0] / "card"), "--text", str(text), "--tokens", "25", "--temperature", "3")
    code, out, err = run("probe", "monitor", "--model", MODEL, *words, "--prompt-tokens", "4", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["thresholds"] and (told["fires"] is None) == ("no tail fits" in told["verdict"])


def test_texts_of_one_label_and_no_texts_are_refused(tmp_path):
    code, _, err = run(*CARD[:4], "--site", "layers.2.resid_post")
    assert code == 1 and "give either --task or --texts" in err
    code, _, err = run("probe", "monitor", "--model", MODEL, "--direction", str(tmp_path), "--text", "nowhere.txt")
    assert code == 1 and "nowhere.txt" in err
