"""The weights that come with digsite know their world: held-out combinations, as the card says."""

import re

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from digsite.models.load import builtin_path
from digsite.toys.tinyworld import FAMILIES, evaluate, tokenizer, vocabulary

FOLDER = builtin_path("digsite/tinyworld")


@pytest.fixture(scope="module")
def network():
    return AutoModelForCausalLM.from_pretrained(FOLDER).eval()


@pytest.fixture(scope="module")
def scores(network):
    return {score.family: score for score in evaluate(network, n=50, seed=11)}


def test_it_is_as_small_as_promised(network):
    assert sum(weight.numel() for weight in network.parameters()) <= 2_000_000
    assert (FOLDER / "model.safetensors").stat().st_size <= 8_000_000
    assert 4 <= network.config.num_hidden_layers <= 6


def test_its_tokenizer_is_the_worlds():
    shipped = AutoTokenizer.from_pretrained(FOLDER)
    assert shipped.get_vocab() == vocabulary()
    text = "When Mary and John went to the store, John gave a drink to"
    assert shipped(text).input_ids == tokenizer()(text).input_ids


@pytest.mark.slow
@pytest.mark.parametrize("name", [family.name for family in FAMILIES if family.target is not None])
def test_it_knows_what_it_never_saw(name, scores):
    score = scores[name]
    assert score.reached, score


@pytest.mark.slow
def test_its_card_tells_the_truth(scores):
    rows = re.findall(r"\| ([^|]+) \| \w+ \| ([\d.]+) \| (\d+) \|", (FOLDER / "README.md").read_text())
    told = {name: float(value) for name, value, _ in rows}
    assert set(told) == set(scores)
    # Another seed draws other prompts of the same families.
    assert all(abs(told[name] - score.unseen) < 0.15 for name, score in scores.items())
