"""What heads do by their weights: the eigenvalues are those of the dense matrix, and planted heads are found."""

import copy
from typing import Any

import pytest
import torch

import digsite
from architectures import tiny
from digsite.heads import head_scores
from digsite.heads.circuits import copying, known_orders, succession
from digsite.models.load import wrap
from digsite.models.token_streams import token_streams
from digsite.tasks.words import SEQUENCES


def untrained(name):
    return wrap(tiny(name), None, name=name, revision=None, attention="eager")


@pytest.mark.parametrize("name", ["gpt2", "llama", "falcon_grouped", "olmo2", "gemma2", "granite", "gptj"])
def test_the_score_is_that_of_the_dense_product(name):
    """W_E W_V W_O W_U [vocab, vocab], with nothing folded but by the modules themselves."""
    model = untrained(name)
    found, null = copying(model, [0, 2], seed=0)
    every = torch.arange(model.d_vocab)
    for at, layer in enumerate((0, 2)):
        block: Any = model.anatomy.blocks[layer]
        stream = token_streams(model, every, layer=layer)
        stream = stream if block.norm1 is None else block.norm1(stream)
        for head in range(model.n_heads):
            kv = head // (model.n_heads // model.weights.W_V[layer].shape[0])
            written = stream @ model.weights.W_V[layer][kv] @ model.weights.W_O[layer][head]
            post = block.parts.get("attn_out")
            if post is not None and post is not block.parts["o"]:
                written = written * (post.weight + (1.0 if "gemma" in name else 0.0))
            norm: Any = model.anatomy.final_norm
            logits = norm.linear(written, torch.ones(1)) @ model.weights.W_U
            values = torch.linalg.eigvals((logits - logits.mean(1, keepdim=True)).double())
            wanted = float(values.real.sum() / values.abs().sum())
            assert float(found[at, head, 0]) == pytest.approx(wanted, abs=2e-3)
    assert null.shape == (2, model.n_heads, 10) and float(null.abs().mean()) < 0.6


def test_layers_after_the_first_read_the_embedding_with_the_first_mlp():
    for name in ("llama", "gpt2", "granite", "gptj"):
        model = untrained(name)
        ids = torch.tensor([5, 9])
        bare, with_mlp = (token_streams(model, ids, layer=1, effective=effective) for effective in (False, True))
        torch.testing.assert_close(token_streams(model, ids, layer=0), bare)
        edits = [digsite.ablate("layers.0.attn.out")]
        edits += [digsite.ablate("pos_embed")] if name == "gpt2" else []
        run = model.run(ids[:, None], read=["layers.0.mlp.out"], edits=edits, logits=None)
        torch.testing.assert_close(with_mlp, bare + run["layers.0.mlp.out"][:, 0], rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def days():
    """A model whose head 1 of layer 0 was made to say the day after."""
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import WordLevel
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    items = SEQUENCES["days"][0]
    core = Tokenizer(WordLevel({word: i for i, word in enumerate(("<unk>", *items))}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8, hidden_size=32, intermediate_size=16, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, tie_word_embeddings=False,
    )  # fmt: skip
    hf = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        basis = torch.linalg.qr(torch.randn(32, 32)).Q
        hf.model.embed_tokens.weight.copy_(basis[:8])
        hf.lm_head.weight.copy_(basis[8:16])
        after = [0, *(1 + (i + 1) % 7 for i in range(7))]
        attn: Any = hf.model.layers[0].self_attn
        attn.v_proj.weight[:8] = basis[:8]  # value head 0 serves heads 0 and 1
        attn.o_proj.weight[:, 8:16] = basis[8:16][after].T
        attn.o_proj.weight[:, 0:8] = basis[8:16].T  # head 0 copies
    return digsite.load(copy.deepcopy(hf), tokenizer=tokenizer)


def test_a_planted_successor_and_a_planted_copier_are_told_apart(days):
    scores = head_scores(days, kinds=["copying", "successor"], random_weights=True)
    assert scores.found("successor") == [(0, 1)]
    assert scores.found("copying") == [(0, 0)]
    one = scores.of("successor")
    assert one.values.shape == (1, 4, 7) and float(one.mean[0, 1]) == 1.0
    assert float(one.null[0, 0].max()) == 1.0 and float(one.mean[0, 0]) == 0.0  # the copier says the item itself


def test_an_order_is_cut_to_what_is_one_token(days):
    ((ids, goes_round),) = known_orders(days, SEQUENCES)
    assert goes_round and ids.tolist() == list(range(1, 8))
    items = ("Nowhere", *SEQUENCES["days"][0])
    ((ids, goes_round),) = known_orders(days, {"days": (items, True)})
    assert not goes_round and len(ids) == 7
    values, null = succession(days, [0], {"days": (items, True)})
    assert values.shape == (1, 4, 6) and null.shape == (1, 4, 5)
