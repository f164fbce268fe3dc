"""Every command beside investigate, as text and as JSON."""

import json
import re
from pathlib import Path

import pytest
from command import MODEL, fits, pages, run

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
ASK = ["--model", MODEL, "--task", "ioi", "--n", "8"]
COMMANDS = {
    "lens": ["lens", *ASK],
    "heads": ["heads", "--model", MODEL, "--rows", "4", "--kinds", "induction", "copying", "entropy"],
    "patch": ["patch", *ASK, "--sites", "layers.*.attn.z[*]", "layers.3.mlp.out"],
    "generate": ["generate", "--model", MODEL, "--prompt", "Mary and John", "--prompt", "The", "--tokens", "2"],
    "probe sweep": ["probe", "sweep", "--model", MODEL, "--task", "gendered-pronoun", "--n", "80", "--fit", "lda"],
    "task list": ["task", "list"],
    "task show": ["task", "show", "ioi", "--model", MODEL, "--n", "4"],
    "model info": ["model", "info", MODEL],
    "model verify": ["model", "verify", MODEL],
    "toys list": ["toys", "list"],
    "scoreboard": ["scoreboard", "--programs", "either", "--methods", "random,knock-out (zero)", "--n", "4"],
}


def document(words):
    shown = run(*words, "--json")
    assert shown.code == 0, shown.err
    return json.loads(shown.out)


@pytest.mark.parametrize("name", COMMANDS)
def test_text_is_plain_and_fits_80_columns(name):
    shown = run(*COMMANDS[name])
    assert shown.code == 0, shown.err
    assert shown.out.strip()
    long = {"model verify"}  # its table is a model's own, wider where a contract has something to say
    assert fits(shown.out) or name in long


@pytest.mark.parametrize("name", COMMANDS)
def test_every_json_key_stands_in_the_commands_section(name):
    section = PAGE.read_text(encoding="utf-8").split(f"\n## digsite {name}\n")[1].split("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", section))
    for key, value in document(COMMANDS[name]).items():
        assert key in named
        if isinstance(value, list) and value and isinstance(value[0], dict):
            fields = {re.sub("_(low|high)$", "", field) if name == "lens" else field for field in value[0]}
            assert not fields - named


def test_dictionaries_have_a_scoreboard_too(tmp_path):
    words = ["scoreboard", "--dictionaries", "--programs", "together", "--methods", "PCA,k-means", "--seeds", "1"]
    assert fits(run(*words).out)
    made = document([*words, "--out", str(tmp_path / "board")])
    section = PAGE.read_text(encoding="utf-8").split("\n## digsite scoreboard\n")[1].split("\n## ")[0]
    assert {*made, *made["rows"][0], *made["summary"][0]} <= set(re.findall(r"`(\w+)`", section))
    assert [row["learner"] for row in made["summary"]] == ["k-means", "PCA"]
    assert made["verdict"] in Path(made["report"]).read_text(encoding="utf-8")


def test_toys_of_one_kind():
    everything = {(toy["name"], toy["kind"]) for toy in document(["toys", "list"])["toys"]}
    for kind in ("trained", "compiled"):
        shown = {(toy["name"], toy["kind"]) for toy in document(["toys", "list", "--kind", kind])["toys"]}
        assert shown == {toy for toy in everything if toy[1] == kind} and len(shown) > 5
    assert run("toys", "list", "--kind", "planted").code == 2


def test_every_command_has_a_section():
    text = PAGE.read_text(encoding="utf-8")
    every = pages()
    # A group has a section of its own for all its verbs, or one for each of them.
    groups = [words for words in every if any(words == other[:-1] for other in every if other)]
    alone = [words for words in groups if words and f"\n## digsite {words[0]}\n" in text]
    verbs = [" ".join(words) for words in every if words not in groups and words[:-1] not in alone]
    verbs += [" ".join(words) for words in alone]
    assert len(verbs) > 25
    for verb in verbs:
        assert f"\n## digsite {verb}\n" in text


def test_lens_measures_what_the_method_measures():
    import digsite

    model = digsite.load(MODEL)
    found = digsite.logit_lens(model, digsite.tasks.ioi(model, 8))
    made = document(COMMANDS["lens"])
    assert made["verdict"] == found.verdict
    assert [row["layer"] for row in made["layers"]] == list(found.layers)
    assert made["layers"][-1]["right"] == pytest.approx(float(found.right[-1].mean()))


def test_patch_takes_places_and_saves_result_and_figure(tmp_path):
    import digsite

    words = ["patch", *ASK, "--sites", "layers.*.resid_pre", "--at", "S2", "answer", "--direction", "noise"]
    files = ["--out", str(tmp_path / "found"), "--figure", str(tmp_path / "found.svg")]
    made = document([*words, *files])
    assert {cell["place"] for cell in made["cells"]} == {"S2", "answer"}
    assert made["direction"] == "noise"
    assert made["source"] < made["base"]
    assert (made["folder"], made["figure"]) == (files[1], files[3])
    assert (tmp_path / "found.svg").read_text(encoding="utf-8").startswith("<?xml")
    assert digsite.load_result(tmp_path / "found").provenance.made_by.startswith("digsite patch --model")


def test_patch_takes_a_negative_position_and_says_what_it_will_need():
    shown = run("patch", *ASK, "--sites", "layers.3.resid_pre", "--at", "-1", "--json")
    made = json.loads(shown.out)
    assert [cell["place"] for cell in made["cells"]] == ["position -1"]
    needed = re.search(r"needs up to ([\d,]+) rows", shown.err)
    assert needed
    assert made["cost"]["rows"] <= int(needed.group(1).replace(",", ""))


def test_patch_shows_the_strongest_and_says_how_many_there_are():
    shown = run(*COMMANDS["patch"])
    assert "the strongest 20 of 33" in shown.out
    effects = [abs(float(value)) for value in re.findall(r"^layers\S+ +all +(\S+) \[", shown.out, re.MULTILINE)]
    assert len(effects) == 20
    assert effects == sorted(effects, reverse=True)


def test_generate_continues_each_prompt_and_shows_its_tokens():
    made = document(COMMANDS["generate"])
    first, second = made["generations"]
    assert first["prompt"] == "Mary and John"
    assert first["tokens"] == ["<bos>", " Mary", " and", " John"]
    assert len(second["ids"]) <= 2
    text = run(*COMMANDS["generate"]).out
    assert "BOS added by the tokenizer" in text
    assert f"{first['prompt']}{first['text']}" in text


def test_task_show_gives_every_prompt_and_its_spans():
    made = document(COMMANDS["task show"])
    assert len(made["prompts"]) == made["examples"] == 4
    one = made["prompts"][0]
    start, stop = one["spans"]["IO"]
    assert one["clean"][start:stop] == one["right"]
    assert len(one["clean"]) == len(one["corrupt"])


def test_task_show_shows_as_many_as_asked():
    shown = run(*COMMANDS["task show"], "--show", "2", "--language", "tavi", "--corruption", "flip")
    assert [f"example {i}" in shown.out for i in range(3)] == [True, True, False]


def test_a_file_of_ones_own_without_pairs(tmp_path):
    path = tmp_path / "gifts.csv"
    path.write_text('clean,right\n"Mary and John"," went"\n"Mary"," and"\n', encoding="utf-8")
    made = document(["task", "show", str(path), "--model", MODEL])
    assert (made["name"], made["paired"], made["examples"]) == ("gifts", False, 2)
    assert made["question"] == "How does tinyworld answer the prompts of gifts?"
    assert made["metric"] == "log_prob"
    assert document(["task", "show", str(path), "--model", MODEL, "--n", "1"])["examples"] == 1
    refused = run("patch", "--model", MODEL, "--task", str(path), "--sites", "layers.0.attn.z")
    assert refused.code == 1
    assert "no corrupt prompts" in refused.err


def test_rows_that_cannot_be_used_refuse_the_file_unless_they_may_be_left_out(tmp_path):
    path = tmp_path / "gifts.csv"
    path.write_text('clean,right\n"Mary and John"," went"\n"Mary"," xylophone"\n', encoding="utf-8")
    words = ["task", "show", str(path), "--model", MODEL]
    refused = run(*words)
    assert refused.code == 1
    assert "row 1" in refused.err
    made = document([*words, "--drop-unusable"])
    assert made["examples"] == sum(made["dropped"].values()) == 1


def test_prompts_of_long_answers_end_where_the_answer_begins(tmp_path):
    path = tmp_path / "long.jsonl"
    row = {"clean": "Mary and", "right": " John went to", "wrong": " Emma"}
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    one = document(["task", "show", str(path), "--model", MODEL])["prompts"][0]
    assert one["clean"] == ["<bos>", " Mary", " and"]
    assert one["right"] == [" John went to"]


def test_model_info_measures_shapes_and_gives_reasons():
    import digsite

    made = document(COMMANDS["model info"])
    model = digsite.load(MODEL)
    assert made["parameters"] == sum(p.numel() for p in model.hf.parameters())
    sites = {site["site"]: site for site in made["sites"]}
    assert sites["layers.*.attn.z"]["shape"] == [None, None, model.n_heads, model.d_head]
    assert sites["layers.*.attn.pattern"]["shape"] == [None, model.n_heads, None, None]
    assert sites["pos_embed"]["shape"] is None
    assert "rotary" in sites["pos_embed"]["refused"]
    assert sites["layers.*.mlp.gate"]["transformer_lens"] == "mlp.hook_pre"


def test_dtype_reaches_the_model():
    assert document([*COMMANDS["model info"], "--dtype", "bfloat16"])["dtype"] == "bfloat16"


def test_verify_exits_1_where_a_contract_is_broken(monkeypatch):
    from digsite.models import Model
    from digsite.models.contracts import Contract
    from digsite.models.verify import Verification

    broken = Verification(MODEL, (Contract("stream", 2, 0.5, 1e-6),))
    monkeypatch.setattr(Model, "verify", lambda self: broken)
    shown = run("model", "verify", MODEL)
    assert shown.code == 1
    assert "BROKEN" in shown.out
    assert run("model", "verify", MODEL, "--json").code == 1


def test_toys_train_says_where_the_model_goes_and_trains_it_there(tmp_path, monkeypatch):
    calls = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("digsite.toys.train", lambda *words, **options: calls.append((words, options)))
    shown = run("toys", "train", "digsite/tinyworld", "--steps", "3", "--seed", "2")
    assert shown.code == 0, shown.err
    assert calls == [(("tinyworld", Path("tinyworld")), {"steps": 3, "seed": 2})]
    assert "tinyworld/README.md" in shown.err
    assert "model: tinyworld\n" in shown.out


def test_json_has_no_number_that_json_lacks(capsys):
    from digsite.cli.outputs import print_json

    print_json({"a": [float("nan"), (float("inf"), 1.5)], "b": {2: float("-inf")}})
    assert json.loads(capsys.readouterr().out) == {"a": [None, [None, 1.5]], "b": {"2": None}}


def test_colour_is_for_terminals_and_no_color_is_respected(monkeypatch):
    from digsite.cli.outputs import answers

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert answers().color_system is not None
    monkeypatch.setenv("NO_COLOR", "1")
    assert answers().no_color
