"""Token tables are the top of the dense tables, and attention's own scores."""

from typing import Any

import pytest
import torch

from architectures import tiny
from digsite._core.errors import BadInput
from digsite.lenses import TokenTable, neuron_inputs, neuron_outputs, ov_table, qk_table
from digsite.lenses import token_tables as room
from digsite.models.load import wrap
from digsite.models.token_streams import token_streams

EVERY = torch.arange(97)


def untrained(name):
    return wrap(tiny(name), None, name=name, revision=None, attention="eager")


def same_top(table, part, dense):
    """The kept entries are the highest of the dense rows."""
    values = dense.topk(table.values.shape[-1], dim=1).values
    torch.testing.assert_close(table.values[part], values, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(dense.gather(1, table.ids[part]), values, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "falcon_grouped", "granite"])
def test_ov_is_the_top_of_the_dense_table(name, monkeypatch):
    monkeypatch.setattr(room, "ROWS", 20)  # several chunks
    model = untrained(name)
    table = ov_table(model, [(0, 1), (2, 3)])
    for at, (layer, head) in enumerate([(0, 1), (2, 3)]):
        block: Any = model.anatomy.blocks[layer]
        kv = head * model.weights.W_V[layer].shape[0] // model.n_heads
        norm: Any = model.anatomy.final_norm
        read = block.norm1(token_streams(model, EVERY, layer=layer))
        written = read @ model.weights.W_V[layer][kv] @ model.weights.W_O[layer][head] * model.anatomy.multiplier
        if name == "gemma2":
            written = written * (block.parts["attn_out"].weight + 1)
        logits = norm.linear(written, torch.ones(1)) @ model.weights.W_U
        logits = logits * (0.5 if name == "granite" else 1.0)
        same_top(table, at, logits - logits.mean(1, keepdim=True))
    assert table.values.shape == (2, 97, 8) and table.null.shape == (2, 97)


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "gptj", "qwen2", "mpt", "opt", "granite"])
@pytest.mark.parametrize("distance", [1, 3])
def test_qk_is_what_attention_scores_at_that_distance(name, distance):
    """In the first layer of a model without learned positions: the scores of a run, whatever stands between."""
    model = untrained(name)
    table = qk_table(model, [(0, 2)], distance=distance, tokens=[5, 9], top=97)
    keys = torch.arange(97)
    for row, query in enumerate([5, 9]):
        ids = torch.full((97, distance + 1), 7)
        ids[:, 0], ids[:, -1] = keys, query
        if name == "opt":  # learned positions: the table is without them
            from digsite.models import ablate

            edits = [ablate("pos_embed")]
        else:
            edits = []
        run = model.run(ids, read=["layers.0.attn.scores"], edits=edits)
        dense = run["layers.0.attn.scores"][:, 2, distance, 0]
        mine = torch.empty(97)
        mine[table.ids[0, row]] = table.values[0, row]
        if name == "mpt":  # ALiBi adds the same to every token
            mine, dense = mine - mine.mean(), dense - dense.mean()
        torch.testing.assert_close(mine, dense, rtol=1e-3, atol=1e-4)


def test_a_rotating_model_needs_a_distance_and_another_does_not():
    with pytest.raises(BadInput, match="give distance=1"):
        qk_table(untrained("llama"), [(1, 0)])
    table = qk_table(untrained("gpt2"), [(1, 0)], tokens=[3])
    assert table.distance is None and table.values.shape == (1, 1, 8)
    with pytest.raises(BadInput, match="not within the context"):
        qk_table(untrained("llama"), [(1, 0)], distance=64)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_neurons_in_and_out(name):
    model = untrained(name)
    chosen = [(0, 3), (2, 17)]
    inward, outward = neuron_inputs(model, chosen), neuron_outputs(model, chosen)
    for at, (layer, neuron) in enumerate(chosen):
        norm2: Any = model.anatomy.blocks[layer].norm2
        read = norm2(token_streams(model, EVERY, layer=layer))
        weight = (model.weights.W_gate if name == "llama" else model.weights.W_in)[layer][:, neuron]
        same_top(inward, at, (read @ weight)[None])
        norm: Any = model.anatomy.final_norm
        logits = norm.linear(model.weights.W_out[layer][neuron], torch.ones(1)) @ model.weights.W_U
        same_top(outward, at, (logits - logits.mean())[None])


def test_the_embedding_alone_is_another_table():
    model = untrained("llama")
    plain, effective = (ov_table(model, [(2, 0)], effective=one) for one in (False, True))
    assert not torch.allclose(plain.values, effective.values, rtol=1e-2)
    first = [ov_table(model, [(0, 0)], effective=one).values for one in (False, True)]
    torch.testing.assert_close(*first)


def test_a_planted_copier_has_the_token_itself_on_top(tmp_path):
    hf = tiny("llama")
    with torch.no_grad():
        basis = torch.linalg.svd(hf.model.embed_tokens.weight, full_matrices=False).Vh[:16]
        hf.model.layers[0].self_attn.v_proj.weight[:16] = basis
        hf.model.layers[0].self_attn.o_proj.weight[:, :16] = basis.T
        hf.lm_head.weight = torch.nn.Parameter(hf.model.embed_tokens.weight.clone())
        hf.model.norm.weight.fill_(1.0)
        hf.model.layers[0].input_layernorm.weight.fill_(1.0)
    model = wrap(hf, None, name="planted", revision=None, attention="eager")
    table = ov_table(model, [(0, 0), (0, 3)])
    assert float(table.onto_itself[0]) > 0.6 > 0.2 > float(table.onto_itself[1])
    assert "0.0 has the token itself on top" in table.verdict
    assert float((table.values[0, :, 0] > table.null[0]).float().mean()) > 0.7
    back = TokenTable.load(table.save(tmp_path / "table"))
    assert back.verdict == table.verdict and back.to_frame().height == 2 * 97


def test_tokens_of_another_model_are_refused():
    for wrong in ([97], []):
        with pytest.raises(BadInput, match="A table needs tokens of this model"):
            ov_table(untrained("llama"), [(0, 0)], tokens=wrong)
