"""The dictionaries that come with digsite load, can be spliced in, and are as good as their card says."""

import re

import pytest
import torch

import digsite
from digsite._core.errors import LoadError
from digsite.dictionaries import Dictionary, builtin, evaluate, load, splice
from digsite.dictionaries.evaluation import DictionaryEvaluation
from digsite.dictionaries.files import builtin_path
from digsite.dictionaries.tinyworld import Training, texts
from digsite.dictionaries.tinyworld.card import Fires, card, fires_on
from digsite.dictionaries.tinyworld.training import planned
from digsite.models import untrained
from digsite.models.prediction import cross_entropy, predicted
from digsite.tasks import Corpus

NAMES = [*(f"{kind}-{layer}" for kind in ("sae", "transcoder") for layer in range(4)), "clt"]
WEIGHTS = builtin_path("digsite/tinyworld/clt").parent


@pytest.fixture(scope="module")
def model():
    return digsite.load("digsite/tinyworld")


@pytest.fixture(scope="module")
def corpus(model):
    return Corpus.of(texts(7, 60), model, length=48, packed=False, name="other documents")


def test_all_are_there_and_small():
    assert builtin() == sorted(f"digsite/tinyworld/{name}" for name in NAMES)
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*")) <= 6_000_000


@pytest.mark.parametrize("name", NAMES)
def test_each_is_of_this_model_and_says_how_it_was_made(name, model):
    dictionary = load(f"digsite/tinyworld/{name}")
    assert isinstance(dictionary, Dictionary)
    assert all(column.width == model.d_model for column in dictionary.config.columns.values())
    assert dictionary.config.origin["weights"] == model.fingerprint
    made, _ = planned(model, Training())[name]
    assert made.config.blocks == dictionary.config.blocks


def test_a_name_that_is_not_there_is_an_error():
    with pytest.raises(
        LoadError, match=r"There is no built-in dictionary digsite/tinyworld/sae-9\.\nPossible: .*sae-0"
    ):
        load("digsite/tinyworld/sae-9")


@pytest.mark.parametrize("name", ["sae-1", "transcoder-2", "clt"])
def test_its_card_tells_the_truth(name, model, corpus):
    found = evaluate(model, load(f"digsite/tinyworld/{name}"), corpus, baselines=False, rows=30, batch=30)
    row = found.to_frame().row(0, named=True)
    told = re.search(
        rf"^\| {name} \| ([\d.]+) \| ([\d.]+) \| .*? \| ([\d.]+) \|", (WEIGHTS / "README.md").read_text(), re.M
    )
    assert told is not None
    l0, fvu, recovered = map(float, told.groups())
    assert row["l0"] == pytest.approx(l0, abs=0.15 * l0)
    assert row["fvu"] == pytest.approx(fvu, rel=0.5)  # documents are few and of many kinds
    assert row["recovered"] == pytest.approx(recovered, abs=0.03)
    assert not found.warnings


def test_it_is_said_where_one_is_judged_on_other_weights(model, corpus):
    found = evaluate(untrained(model), load("digsite/tinyworld/sae-2"), corpus, baselines=False, rows=4)
    assert f"trained on other weights ({model.fingerprint})" in found.verdict


@torch.no_grad()
def test_the_model_goes_on_speaking_with_one_in_its_place(model):
    tokens = model.tokens(texts(8, 20))
    dictionary = load("digsite/tinyworld/clt")
    own, spliced = (model.run(tokens, edits=edits).logits for edits in ([], splice(dictionary, tokens)))
    assert not torch.equal(own, spliced)
    assert float(cross_entropy(predicted(spliced), tokens).mean() - cross_entropy(predicted(own), tokens).mean()) < 0.2


def test_documents_are_the_worlds_and_those_left_out_are_not_there(model):
    some = texts(0, 50)
    assert some == texts(0, 50)
    assert not set(texts(0, 50, but=frozenset(some))) & set(some)
    assert all(len(model.tokenizer(text).input_ids) <= 48 and text.endswith("<eos>") for text in some)
    assert not (model.tokens(some).ids == model.tokenizer.unk_token_id).any()


def test_a_latent_is_shown_where_it_is_strongest(model):
    dictionary, some = load("digsite/tinyworld/sae-0"), texts(9, 30)
    (one,) = fires_on(model, dictionary, some, count=1)
    found = re.fullmatch(r"(.*?) ?\[\[(.+?)\]\] ?(.*)", one.strongest, re.S)
    assert found is not None
    before, token, after = found.groups()
    assert 0 < one.density < 1
    text = next(text for text in some if re.sub(r"\s", "", text) == re.sub(r"\s", "", before + token + after))
    tokens = model.tokens([text])
    run = model.run(tokens, read=dictionary.reads, logits=None)
    values = dictionary.encode({name: run[name][0] for name in dictionary.reads})[0].dense()[:, one.latent]
    at = int(values[1:].argmax()) + 1
    assert model.tokenizer.decode([int(tokens.ids[0, at])]).strip() == token


def test_the_card_names_what_loses(model, corpus):
    weak = load("digsite/tinyworld/sae-3")
    found: DictionaryEvaluation = evaluate(model, weak, corpus, rows=8, batch=8, retrain=lambda _: weak)
    shown = Fires(latent=1, density=0.5, tokens=(("|", 1.0),), strongest="a\n[[b]]")
    told = card({"seed": 3, "judged": 8}, {"sae-3": found}, {"sae-3": [shown]}, cpu_seconds=60.0)
    assert "--seed 3" in told and "| 1 | 50.0% | \\| 100% | a [[b]] |" in told
    assert found.fvu()[-1] > found.fvu()[0], "a dictionary of this model does not fit the one of random weights"
