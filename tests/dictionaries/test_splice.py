"""A dictionary in the place of what the model computes: identities change nothing, exact ones compute the same."""

from dataclasses import replace

import pytest
import torch

import digsite
from architectures import tiny
from dictionaries.exact import identity, planted, planted_clt, planted_transcoder, silent
from digsite._core.errors import BadInput
from digsite.dictionaries import Dictionary
from digsite.dictionaries.splice import splice
from digsite.models.tokens import grid

TOKENS = grid([[5, 6, 7, 8, 9], [10, 11, 12], [13, 14, 15, 16]], padding="left")


def loaded(name):
    return digsite.load(tiny(name), verify=False)


def widths(model, *sites):
    run = model.run(TOKENS, read=sites)
    return {site: run[site].flatten(2).shape[2] for site in sites}


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "gpt_neox"])
@pytest.mark.parametrize("site", ["layers.1.resid_post", "layers.0.attn.z", "layers.2.mlp.out", "layers.1.mlp.norm"])
def test_an_identity_changes_no_bit_of_the_logits(name, site):
    model = loaded(name)
    clean = model.run(TOKENS).logits
    spliced = model.run(TOKENS, edits=splice(identity(widths(model, site)), TOKENS)).logits
    assert torch.equal(spliced, clean)


def test_a_dictionary_that_writes_nothing_is_zero_ablation():
    model = loaded("llama")
    site = "layers.1.attn.z"
    ours = model.run(TOKENS, edits=splice(silent(widths(model, site)), TOKENS)).logits
    zero = model.run(TOKENS, edits=[digsite.ablate(site)]).logits
    assert torch.equal(ours[TOKENS.mask], zero[TOKENS.mask])


def test_exact_transcoders_compute_what_the_model_computes():
    network = planted()
    tokens = network.model.tokens(torch.randint(0, 16, (3, 12), generator=torch.Generator().manual_seed(0)))
    clean = network.model.run(tokens).logits
    for layer in range(3):
        spliced = network.model.run(tokens, edits=splice(planted_transcoder(layer), tokens)).logits
        torch.testing.assert_close(spliced, clean, atol=1e-4, rtol=1e-4)
    spliced = network.model.run(tokens, edits=splice(planted_clt(), tokens)).logits
    torch.testing.assert_close(spliced, clean, atol=1e-4, rtol=1e-4)


def test_later_layers_see_what_earlier_ones_have_changed():
    """Layer 0 of the CLT writes nothing, the others are exact: the same as the model without the MLP of layer 0."""
    network, wrong = planted(), planted_clt()
    with torch.no_grad():
        wrong.blocks[0].decoder.W[0].zero_()
    tokens = network.model.tokens(torch.randint(0, 16, (3, 12), generator=torch.Generator().manual_seed(1)))
    spliced = network.model.run(tokens, edits=splice(wrong, tokens)).logits
    without = network.model.run(tokens, edits=[digsite.ablate("layers.0.mlp.out")]).logits
    clean = network.model.run(tokens).logits
    torch.testing.assert_close(spliced, without, atol=1e-4, rtol=1e-4)
    assert (without - clean).abs().max() > 0.1


def test_one_column_alone_leaves_the_others_to_the_model():
    network, wrong = planted(), planted_clt()
    with torch.no_grad():
        wrong.blocks[0].decoder.W[0].zero_()
    tokens = network.model.tokens(torch.randint(0, 16, (2, 12), generator=torch.Generator().manual_seed(2)))
    spliced = network.model.run(tokens, edits=splice(wrong, tokens, columns=["layers.2.mlp.out"])).logits
    torch.testing.assert_close(spliced, network.model.run(tokens).logits, atol=1e-4, rtol=1e-4)


def test_the_bos_stays_unless_asked_for():
    model = digsite.load("digsite/tinyworld")
    tokens = model.tokens(["Mary and John", "John is"])
    site = "layers.1.resid_post"
    clean = model.run(tokens, read=[site])[site]
    for bos in (False, True):
        got = model.run(tokens, read=[site], edits=splice(silent({site: 128}), tokens, bos=bos))[site]
        assert torch.equal(got[:, 0], torch.zeros_like(got[:, 0]) if bos else clean[:, 0])
        assert not got[:, 1:][tokens.mask[:, 1:]].any()


def test_a_crosscoder_is_made_of_a_run_without_edits():
    model = loaded("llama")
    sites = ["layers.0.resid_post", "layers.2.resid_post"]
    both = identity(widths(model, *sites))
    with pytest.raises(BadInput, match=r"reads layers\.0\.resid_post, layers\.2\.resid_post at once"):
        splice(both, TOKENS)
    run = model.run(TOKENS, read=both.reads)
    spliced = model.run(TOKENS, edits=splice(both, TOKENS, run=run)).logits
    assert torch.equal(spliced, run.logits)


def test_latents_that_may_not_fire_are_left_out():
    model = loaded("llama")
    site = "layers.1.resid_post"
    new = identity(widths(model, site))
    kept = torch.arange(new.width) >= new.width // 2  # the negative halves
    read = model.run(TOKENS, read=[site], edits=splice(new, TOKENS, kept=[kept]))[site]
    clean = model.run(TOKENS, read=[site])[site]
    assert torch.equal(read[TOKENS.mask], clean[TOKENS.mask].clamp(max=0))


def test_a_column_that_is_not_written_is_refused():
    with pytest.raises(BadInput, match=r"does not write layers\.0\.mlp\.outt[\s\S]*did you mean layers\.0\.mlp\.out"):
        splice(planted_clt(), TOKENS, columns=["layers.0.mlp.outt"])


def test_a_column_reached_before_what_it_is_made_of_is_refused():
    model = loaded("llama")
    backwards = silent({"layers.2.mlp.norm": 64}, writes={"layers.0.mlp.out": 64})
    with pytest.raises(BadInput, match=r"layers\.0\.mlp\.out is reached before layers\.2\.mlp\.norm"):
        model.run(TOKENS, edits=splice(backwards, TOKENS))


@pytest.mark.parametrize("each_row", ["layer norm", "length"])
def test_what_is_done_to_each_row_is_undone(each_row):
    model = loaded("llama")
    site = "layers.1.resid_post"
    plain = identity(widths(model, site))
    column = replace(plain.config.columns[site], each_row=each_row, scale=2.0)
    new = Dictionary(replace(plain.config, columns={site: column}))
    new.load_state_dict(plain.state_dict())
    spliced = model.run(TOKENS, edits=splice(new.eval(), TOKENS)).logits
    torch.testing.assert_close(spliced, model.run(TOKENS).logits, atol=1e-4, rtol=1e-4)
