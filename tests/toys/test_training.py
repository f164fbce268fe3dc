"""Training learns, goes on after a kill with the same end, and writes its folder whole or not at all."""

import json
import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from digsite._core.errors import BadInput
from digsite.toys import builtin, train
from digsite.toys.tinyworld import training as module
from digsite.toys.tinyworld.documents import Author
from digsite.toys.tinyworld.families import FAMILIES
from digsite.toys.tinyworld.training import Training, weighted_loss
from digsite.toys.tinyworld.training import train as train_tinyworld
from digsite.toys.training import train as train_recipe
from digsite.toys.training import warm_cosine

SHORT = Training(tokens=300, warm_up=2, threads=1).shortened(4)


@pytest.fixture(autouse=True)
def quick_table(monkeypatch):
    families = tuple(family for family in FAMILIES if family.name in ("ioi", "greater than"))
    evaluate = module.evaluate
    monkeypatch.setattr(module, "evaluate", lambda network: evaluate(network, n=20, families=families))


def test_the_folder_loads_with_transformers_and_has_a_card(tmp_path):
    threads = torch.get_num_threads()
    out = train_tinyworld(tmp_path / "world", SHORT)
    assert torch.get_num_threads() == threads
    loaded: Any = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    network, report = loaded
    assert not any(report.values())
    assert network.config.vocab_size == len(AutoTokenizer.from_pretrained(out))
    card = (out / "README.md").read_text()
    assert "digsite toys train tinyworld --steps 4 --seed 0" in card
    assert re.search(r"\| ioi \| accuracy \| 0\.\d+ \| 20 \| 0\.\d+ \| 0\.95 held out \(missed\) \|", card)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["world"]


def test_a_killed_training_goes_on_and_ends_in_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SAVE_EVERY", 2)
    straight = load_file(train_tinyworld(tmp_path / "straight", SHORT) / "model.safetensors")

    class Killed(Exception):
        pass

    calls = []

    def loss_until_killed(network: Any, rows: Any):
        calls.append(1)
        if len(calls) == 4:
            raise Killed
        return weighted_loss(network, rows)

    monkeypatch.setattr(module, "weighted_loss", loss_until_killed)
    with pytest.raises(Killed):
        train_tinyworld(tmp_path / "killed", SHORT)
    assert not (tmp_path / "killed").exists()
    assert (tmp_path / "killed.training" / "state.safetensors").exists()

    with pytest.raises(BadInput, match="An unfinished training with other settings lies in"):
        train_tinyworld(tmp_path / "killed", replace(SHORT, seed=1))

    resumed = load_file(train_tinyworld(tmp_path / "killed", SHORT) / "model.safetensors")
    assert len(calls) == 4 + 2  # steps 2 and 3 again, 0 and 1 not
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    assert not (tmp_path / "killed.training").exists()


def test_another_seed_gives_other_weights_and_the_same_seed_the_same(tmp_path):
    one, same, other = (
        load_file(train_tinyworld(tmp_path / name, replace(SHORT, seed=seed).shortened(1)) / "model.safetensors")
        for name, seed in (("one", 5), ("same", 5), ("other", 6))
    )
    name = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(one[name], same[name])
    assert not torch.equal(one[name], other[name])


@pytest.mark.slow
def test_the_loss_falls(tmp_path):
    rows = Author().step(0, 10_000, 1500, notes=0.1)
    recipe = module.recipe(replace(SHORT, tokens=600, warm_up=10).shortened(25))
    torch.manual_seed(0)
    network: Any = recipe.network()
    with torch.no_grad():
        before = float(weighted_loss(network, rows))
    trained = train_recipe(recipe, tmp_path / "state")
    assert len(trained.losses) == 25
    with torch.no_grad():
        after = float(weighted_loss(trained.network, rows))
    assert before > 6.0
    assert after < before - 1.0


def test_an_error_while_writing_leaves_the_training_and_no_folder(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(OSError, match="could not be written"):
        train_tinyworld(tmp_path / "world", SHORT.shortened(1))
    assert [path.name for path in tmp_path.iterdir()] == ["world.training"]
    monkeypatch.setattr(module, "save_file", save_file)
    monkeypatch.setattr(module, "weighted_loss", None)  # nothing is left to be trained
    train_tinyworld(tmp_path / "world", SHORT.shortened(1))
    assert [path.name for path in tmp_path.iterdir()] == ["world"]


def test_the_lessons_follow_each_other_and_each_warms_up():
    training = Training()
    first, second = training.lessons
    assert first.notes == 0 < second.notes < 1
    assert training.lesson(0) == (first, 0)
    assert training.lesson(first.steps - 1) == (first, first.steps - 1)
    assert training.lesson(first.steps) == (second, 0)
    assert training.lesson(training.steps - 1) == (second, second.steps - 1)
    rate = module.recipe(training).rate
    assert rate is not None
    assert rate(first.steps - 1) == pytest.approx(first.rate * first.last, rel=1e-3)
    assert rate(first.steps) == pytest.approx(second.rate / training.warm_up)


@pytest.mark.parametrize("steps", [1, 2, 4, 25, 7000])
def test_a_shorter_training_has_the_same_lessons(steps):
    short = Training().shortened(steps)
    assert short.steps == steps
    for lesson, whole in zip(short.lessons, Training().lessons, strict=True):
        assert abs(lesson.steps - whole.steps * steps / Training().steps) <= 1
        assert replace(lesson, steps=0) == replace(whole, steps=0)
    assert Training().shortened(Training().steps) == Training()


def test_each_lesson_has_its_documents():
    author = Author()
    sentinel = author.words["▁Notes"]
    for lesson in Training().lessons:
        ids = author.step(seed=0, step=0, tokens=20_000, notes=lesson.notes).ids
        documents = (ids == author.words["<bos>"]).sum()
        assert abs((ids == sentinel).sum() / documents - lesson.notes) < 0.03


def test_the_learning_rate_rises_and_falls():
    rate = warm_cosine(peak=2e-3, steps=1000, warm_up=100)
    rates = [rate(step) for step in range(1000)]
    assert rates.index(max(rates)) in (99, 100)
    assert rates[99] == pytest.approx(2e-3)
    assert rates[0] == pytest.approx(2e-5)
    assert rates[-1] < 3e-5
    assert all(later <= earlier for earlier, later in pairwise(rates[100:]))


def test_bad_settings_are_refused(tmp_path):
    with pytest.raises(BadInput, match="at least one step"):
        train("tinyworld", tmp_path / "x", steps=0)
    with pytest.raises(BadInput, match="did you mean tinyworld"):
        train("tinyword", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_the_built_in_models_have_their_folders():
    toy, *_ = builtin()
    assert (toy.name, toy.kind) == ("tinyworld", "trained")
    assert toy.path is not None
    names = {path.name for path in toy.path.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"} <= names
    assert json.loads((toy.path / "config.json").read_text())["model_type"] == "llama"
    assert all(one.path is not None and (one.path / "model.safetensors").is_file() for one in builtin())
