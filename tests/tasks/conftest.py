"""Models small enough to be made in a test, with tokenizers whose every decision is known."""

import os
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")


def word_tokenizer(words, *, bos):
    """One token a word; anything else is <unk>. Words are cut at spaces and at punctuation."""
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys([*SPECIAL, *words]))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = dict(zip(("unk_token", "bos_token", "eos_token", "pad_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


@lru_cache
def _word_model(words, bos, n_ctx):
    from digsite.models import load

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(SPECIAL) + len(set(words)), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=n_ctx, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    hf = LlamaForCausalLM(config).eval()
    return load(hf, tokenizer=word_tokenizer(words, bos=bos))


@pytest.fixture(scope="session")
def word_model():
    """Makes a random two-layer Llama that knows exactly the given words."""

    def make(words, *, bos=True, n_ctx=64):
        return _word_model(tuple(words.split() if isinstance(words, str) else words), bos, n_ctx)

    return make


@pytest.fixture(scope="session")
def public():
    """The folder of public models and data, or a skip with the reason."""
    folder = os.environ.get("DIGSITE_TEST_DATA")
    if not folder:
        pytest.skip("DIGSITE_TEST_DATA is not set")
    return Path(folder)


@pytest.fixture(scope="session")
def stories(public):
    """A trained model of 260 thousand parameters whose tokenizer cuts most words into pieces."""
    from digsite.models import load

    return load(public / "models" / "stories260K")
