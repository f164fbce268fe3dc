import json

import pytest
from command import MODEL, fits, run

TEXT = (
    "The key near the flowers is old. The capital of France is Paris. Mary and John went to the store. "
    "A cat is an animal. The dog behind the letters was old. In Japan, the capital is Tokyo.\n\n"
) * 60
ASK = ("--model", MODEL, "--site", "layers.1.resid_post", "--coefficients", "-0.1", "0.1", "0.25", "--draws", "2")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "plain.txt"
    path.write_text(TEXT)
    return str(path)


def test_a_card_of_a_task_and_what_is_written_with_its_direction(text, tmp_path):
    towards = ("--towards", " she", " She", "--against", " he", " He")
    where = ("--out", str(tmp_path / "card"), "--keep", str(tmp_path / "direction"))
    done = run("steer", *ASK, "--task", "gendered-pronoun", "--n", "48", "--text", text, *towards, *where)
    assert done.code == 0, done.err
    assert "moves log odds of ·she, ·She" in " ".join(done.out.split()) and "chosen" in done.out
    assert (tmp_path / "card" / "steer.html").is_file() and (tmp_path / "card" / "result.json").is_file()
    table = [line for line in done.out.splitlines() if "[" in line]
    assert fits("\n".join(table))
    prompt = "One day, Tim went to the park."
    ask = ("--model", MODEL, "--direction", str(tmp_path / "direction"), "--prompt", prompt, "--tokens", "2")
    wrote = run("steer", "generate", *ask, "--coefficient", "1", "--json")
    assert wrote.code == 0, wrote.err
    (made,) = json.loads(wrote.out)["generations"]
    assert made["plain"].startswith(" He") and made["steered"].startswith(" She")
    assert "steered  One day" in run("steer", "generate", *ask).out


@pytest.mark.slow
def test_a_card_of_two_files_of_prompts(text, tmp_path):
    frames = (
        "One day, {} went to the park.",
        "{} was very happy.",
        "{} had a big red ball.",
        "One day, {} was very sad.",
    )
    for name, people in (("plus", ("Lily", "Mia", "Sara")), ("minus", ("Tim", "Ben", "Max"))):
        lines = [frame.format(person) for person in people for frame in frames]
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    files = ("--plus", str(tmp_path / "plus.txt"), "--minus", str(tmp_path / "minus.txt"))
    done = run("steer", *ASK, *files, "--text", text, "--towards", " She", "--against", " He", "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert [row["coefficient"] for row in told["coefficients"]] == [-0.1, 0.1, 0.25]
    assert told["coefficients"][2]["effect"] > 3 and told["provenance"]["made_by"].startswith("digsite steer")


def test_what_cannot_be_steered_is_said(text):
    done = run("steer", *ASK, "--text", text, "--towards", " She")
    assert done.code == 1 and "two sets of prompts" in done.err and "--task, or --plus and --minus" in done.err
    ask = ("--task", "gendered-pronoun", "--n", "16", "--text", text)
    assert "not parted by --towards" in run("steer", *ASK, *ask, "--towards", " key").err
    done = run("steer", *ASK, *ask, "--towards", " she", " She", "--read-at", "subject")
    assert done.code == 1 and "--read-at subject is no position" in done.err and "name" in done.err
