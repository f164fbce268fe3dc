"""Trained again on the same model, a dictionary comes out the same, bit for bit; on another it does not."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import digsite
from byte_tokenizer import N_IDS, byte_tokenizer
from digsite._core.errors import BadInput
from digsite.dictionaries import TopK, sae, train, transcoder
from digsite.dictionaries.recipes import JUMPRELU_SHORT, TRANSCODER
from digsite.dictionaries.retraining import retrain_like
from digsite.models import untrained
from digsite.store import Held, LiveSource
from digsite.tasks import Corpus

SITE = "layers.1.resid_post"
SMALL: dict[str, Any] = {"rows": 512, "batch": 64, "buffer": 128}


@pytest.fixture(scope="module")
def model():
    shape: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    torch.manual_seed(0)
    hf = LlamaForCausalLM(LlamaConfig(**shape, num_key_value_heads=2, vocab_size=N_IDS, max_position_embeddings=64))
    return digsite.load(hf.eval(), tokenizer=byte_tokenizer(), verify=False)


@pytest.fixture(scope="module")
def text(model):
    return Corpus.of(["a small dog ran over the hill and far away"] * 8, model, length=16)


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_on_the_same_model_it_is_the_same_dictionary(model, text):
    recipe = replace(JUMPRELU_SHORT, l0=4.0)
    empty = sae({SITE: 16}, 64, recipe.activation)
    empty.config = replace(empty.config, origin={"l0": 4.0})
    made = train(LiveSource(model, text, SITE), empty, recipe, seed=3, **SMALL).dictionary
    again = retrain_like(made, text)
    assert equal(again(model), made)
    assert not equal(again(untrained(model)), made)


def test_a_transcoder_reads_and_writes_again(model, text):
    reads, writes = "layers.0.mlp.norm", "layers.0.mlp.out"
    empty = transcoder({reads: 16}, {writes: 16}, 32, TopK(k=4))
    made = train(LiveSource(model, text, [reads, writes]), empty, TRANSCODER, **SMALL).dictionary
    assert equal(retrain_like(made, text)(model), made)


def test_without_a_record_it_is_refused(text):
    with pytest.raises(BadInput, match=r"does not say how it was trained\.\nFound: no recipe, rows, batch"):
        retrain_like(sae({SITE: 16}, 64), text)
    made = train(Held({"a:x": torch.randn(64, 8)}), sae({"a:x": 8}, 16, TopK(k=2)), batch=32).dictionary
    with pytest.raises(BadInput, match="reads several models"):
        retrain_like(made, text)
