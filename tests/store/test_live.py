"""A model that reads a corpus gives, row by row, what one run of the model gives."""

# Rows here have ids, numbers and places.
# pyright: reportArgumentType=false, reportOptionalMemberAccess=false, reportOptionalSubscript=false

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import digsite
from byte_tokenizer import N_IDS, byte_tokenizer
from digsite._core.errors import BadInput, NotFinite
from digsite.store import LiveSource, joined
from digsite.store.sums import Sums
from digsite.tasks import Corpus

SITES = ["layers.*.resid_post", "layers.1.attn.z", "layers.0.mlp.act", "final.norm"]
TEXTS = ["a small dog", "it ran", "over the hill and far away", "so", "the end of it"]


@pytest.fixture(scope="module")
def model():
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    hf = LlamaForCausalLM(LlamaConfig(**shape, num_key_value_heads=2, vocab_size=N_IDS, max_position_embeddings=64))
    return digsite.load(hf.eval(), tokenizer=byte_tokenizer(), verify=False)


def corpus(model, *, packed=False, texts=TEXTS, length=20):
    return Corpus.of(texts, model, length=length, packed=packed)


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_rows_are_what_the_model_computes_without_padding_and_bos(model, bos, packed):
    text = corpus(model, packed=packed, length=9 if packed else 20)
    source = LiveSource(model, text, SITES, bos=bos, batch_size=2)
    got = list(source.chunks())
    assert sum(rows.count for rows in got) == source.rows
    expected = {column: [] for column in source.widths}
    ids, places, sequence = [], [], 0
    for tokens in text.batches(2):
        run = model.run(tokens, read=SITES)
        for row in range(len(tokens)):
            for position in range(tokens.lengths[row]):
                if bos or tokens.ids[row, position] != model.tokenizer.bos_token_id:
                    ids.append(int(tokens.ids[row, position]))
                    places.append([sequence + row, position])
                    for column, xs in expected.items():
                        xs.append(run[column][row, position].flatten())
        sequence += len(tokens)
    for column, width in source.widths.items():
        assert width == {"layers.1.attn.z": 16, "layers.0.mlp.act": 24}.get(column, 16)
        assert torch.equal(torch.cat([rows[column] for rows in got]), torch.stack(expected[column]))
    assert torch.cat([rows.ids for rows in got]).tolist() == ids
    assert torch.cat([rows.places for rows in got]).tolist() == places
    assert torch.cat([rows.numbers for rows in got]).tolist() == list(range(source.rows))
    assert model.tokenizer.bos_token_id not in ids or bos


def test_reading_from_the_middle_and_at_random_gives_the_same_bits(model):
    source = LiveSource(model, corpus(model), SITES, batch_size=2)
    whole = next(iter(LiveSource(model, corpus(model), SITES, batch_size=99).chunks()))
    parts = list(source.chunks())
    for start in (0, 1, 17, source.rows - 1, source.rows):
        late = list(source.chunks(start))
        assert sum(rows.count for rows in late) == source.rows - start
        for column in source.widths:
            every = torch.cat([rows[column] for rows in parts])
            torch.testing.assert_close(every, whole[column], atol=1e-5, rtol=1e-5)
            if late:
                assert torch.equal(torch.cat([rows[column] for rows in late]), every[start:])
    numbers = torch.tensor([30, 2, 41, 2, 0])
    some = source.rows_at(numbers)
    assert some.numbers is not None and some.numbers.equal(numbers)
    assert torch.equal(some["final.norm"], torch.cat([rows["final.norm"] for rows in parts])[numbers])
    with pytest.raises(BadInput, match=r"number is not there.\nFound: 999"):
        source.rows_at(torch.tensor([3, 999]))


def test_the_pass_ends_after_the_last_site(model, monkeypatch):
    source = LiveSource(model, corpus(model), "layers.0.resid_post")
    monkeypatch.setattr(model.hf.model.layers[1], "forward", None)  # calling it would raise
    assert next(source.chunks()).count > 0


def test_statistics_are_those_of_the_rows_and_identity_says_what_they_are_of(model):
    source = LiveSource(model, corpus(model), ["final.norm"], batch_size=2)
    x = torch.cat([rows["final.norm"] for rows in source.chunks()]).double()
    found = source.statistics("final.norm")
    assert found.rows == len(x)
    torch.testing.assert_close(found.mean, x.mean(0).float())
    torch.testing.assert_close(found.square, x.square().mean(0).float())
    assert found.norm == pytest.approx(float(x.norm(dim=1).mean())) and found.largest == float(x.abs().max())
    assert found.variance == pytest.approx(float((x - x.mean(0)).square().sum(1).mean()), rel=1e-4)
    assert source.identity["bos"] == "added by the tokenizer, left out"
    assert LiveSource(model, corpus(model), ["final.norm"], bos=True).identity["bos"] == "added by the tokenizer"
    other = LiveSource(model, corpus(model, texts=["other text"]), ["final.norm"])
    assert {key for key in other.identity if other.identity[key] != source.identity[key]} == {"tokens"}


def test_sums_of_parts_are_the_sums_of_the_whole():
    x = torch.randn(9000, 5) * 3
    whole, parts = Sums.of(x), Sums.add([Sums.of(x[:11]), Sums.of(x[11:5000]), Sums.of(x[5000:])])
    torch.testing.assert_close(whole.total, x.double().sum(0), atol=1e-3, rtol=1e-6)
    torch.testing.assert_close(whole.total, parts.total, atol=1e-3, rtol=1e-6)
    torch.testing.assert_close(whole.square, parts.square, atol=0, rtol=1e-6)
    assert whole.rows == parts.rows == 9000 and whole.largest == parts.largest == float(x.abs().max())
    assert Sums.read(whole.tensors()).norm == whole.norm
    assert whole.norm == pytest.approx(float(x.double().norm(dim=1).sum()), rel=1e-6)


def test_what_cannot_be_a_column_is_refused(model):
    text = corpus(model)
    with pytest.raises(BadInput, match=r"layers.0.attn.pattern has no row for each token"):
        LiveSource(model, text, ["layers.0.attn.pattern"])
    with pytest.raises(BadInput, match="at least one site"):
        LiveSource(model, text, [])
    with pytest.raises(BadInput, match="batch_size=0 is no number of sequences"):
        LiveSource(model, text, ["final.norm"], batch_size=0)
    with pytest.raises(BadInput, match=r"no column layers.0.resid_pos.\nPossible: did you mean layers.0.resid_post"):
        LiveSource(model, text, ["layers.*.resid_post"]).statistics("layers.0.resid_pos")


def test_an_empty_corpus_is_refused(model):
    with pytest.raises(BadInput, match="The corpus texts has not one row"):
        _ = LiveSource(model, corpus(model, texts=["", " "]), ["final.norm"]).rows
    with pytest.raises(BadInput, match="The corpus texts has not one row"):
        next(LiveSource(model, corpus(model, texts=["", " "]), ["final.norm"]).chunks())


def test_an_activation_that_is_not_finite_is_named_with_its_site_and_row(model):
    source = LiveSource(model, corpus(model), ["layers.0.resid_post", "final.norm"], batch_size=2)
    before = model.hf.model.embed_tokens.weight.data.clone()
    over = model.tokenizer("v", add_special_tokens=False)["input_ids"][0]
    model.hf.model.embed_tokens.weight.data[over] = float("nan")
    try:
        with pytest.raises(NotFinite) as caught:
            list(source.chunks())
    finally:
        model.hf.model.embed_tokens.weight.data.copy_(before)
    assert "Activations at layers.0.resid_post must be finite" in str(caught.value)
    # After "a small dog" and "it ran"; attention spreads a NaN over its whole sequence, for 0 × NaN is NaN.
    assert "nan in row 17, coordinate 0" in str(caught.value)


def test_two_models_side_by_side(model):
    tuned = digsite.models.untrained(model, seed=1)
    text = corpus(model)
    both = joined(base=LiveSource(model, text, "final.norm", batch_size=2), tuned=LiveSource(tuned, text, "final.norm"))
    assert dict(both.widths) == {"base:final.norm": 16, "tuned:final.norm": 16}
    rows = list(both.chunks(3))
    assert sum(some.count for some in rows) == both.rows - 3
    apart = list(both.sources["tuned"].chunks(3))
    assert torch.equal(
        torch.cat([some["tuned:final.norm"] for some in rows]), torch.cat([x["final.norm"] for x in apart])
    )
    assert (
        both.identity["base:weights"] != both.identity["tuned:weights"] and both.identity["tokens"] == text.fingerprint
    )
    with pytest.raises(BadInput) as caught:
        joined(base=both.sources["base"], tuned=LiveSource(tuned, corpus(model, texts=TEXTS[:3]), "final.norm"))
    assert "base and tuned are not over the same tokens" in str(caught.value)
    assert "tokens " in str(caught.value) and "rows 51 in base, 36 in tuned" in str(caught.value)
