"""A clamped latent is held at a value, the error of the dictionary stays, and what it already was changes nothing."""

import pytest
import torch

import digsite
from digsite._core.errors import BadInput, Unsupported
from digsite.dictionaries import AbsTopK, clamp, latent_direction, load, molt, sae
from digsite.dictionaries.activations import Relu
from digsite.dictionaries.splice import encoded, rows_of
from digsite.store import Rows

SITE = "layers.1.resid_post"


@pytest.fixture(scope="module")
def model():
    return digsite.load("digsite/tinyworld", verify=False)


@pytest.fixture(scope="module")
def prompts(model):
    return model.tokens(
        ["Mary gave the book to John", "One day, Tim went to the park.", "Where is Lily"], padding="left"
    )


@pytest.fixture(scope="module")
def dictionary():
    return load("digsite/tinyworld/sae-1")


def acts(dictionary, x):
    """Every latent of every row: the dense reference."""
    return encoded(dictionary, Rows({dictionary.reads[0]: x}))[0].dense().detach()


@pytest.fixture(scope="module")
def busy(model, prompts, dictionary):
    x = model.run(prompts, read=[SITE], logits=None)[SITE][prompts.mask & (prompts.ids != model.tokenizer.bos_token_id)]
    dense = acts(dictionary, x)
    return int(((dense > 0).sum(0) * (dense > 0).any(0) - 1e6 * ((dense > 0).all(0))).argmax())


def test_clamping_adds_the_difference_along_the_decoder_and_keeps_the_error(model, prompts, dictionary, busy):
    x = model.run(prompts, read=[SITE], logits=None)[SITE]
    new = model.run(prompts, read=[SITE], edits=clamp(dictionary, busy, 2.5), logits=None)[SITE]
    a = acts(dictionary, x.flatten(0, 1))[:, busy].unflatten(0, x.shape[:2])
    wanted = x + (2.5 - a)[..., None] * dictionary.directions(SITE)[busy]
    torch.testing.assert_close(new[prompts.mask], wanted[prompts.mask], atol=1e-4, rtol=1e-4)


def test_clamping_to_what_it_is_changes_nothing(model, prompts, dictionary, busy):
    for row in range(len(prompts)):
        tokens = prompts[row]
        x = model.run(tokens, read=[SITE], logits=None)[SITE]
        a = acts(dictionary, x[0])[:, busy]
        for place in range(tokens.lengths[0]):
            edits = clamp(dictionary, busy, float(a[place]), at=place)
            new = model.run(tokens, read=[SITE], edits=edits, logits=None)[SITE]
            torch.testing.assert_close(new, x, atol=1e-6, rtol=0)


def test_zero_silences_and_the_maximum_is_the_latents_own(model, prompts, dictionary, busy):
    seen = latent_direction(dictionary, busy, model, prompts)
    keep = prompts.mask & (prompts.ids != model.tokenizer.bos_token_id)
    x = model.run(prompts, read=[SITE], logits=None)[SITE]
    a = acts(dictionary, x[keep])[:, busy]
    assert seen.scale is not None
    assert seen.scale.largest / float(seen.vector.norm()) == pytest.approx(float(a.max()), rel=1e-5)
    one, two = clamp(dictionary, busy, 2.0, "max", seen=seen), clamp(dictionary, busy, 2 * float(a.max()))
    runs = [model.run(prompts, read=[SITE], edits=edits, logits=None)[SITE] for edits in (one, two)]
    torch.testing.assert_close(runs[0], runs[1], atol=1e-4, rtol=1e-4)
    added = model.run(prompts, read=[SITE], edits=[seen.add(1.0, "max")], logits=None)[SITE] - x
    torch.testing.assert_close(added[keep], (float(a.max()) * seen.vector).expand_as(added[keep]), atol=1e-4, rtol=1e-4)


def test_the_encoder_reads_and_the_decoder_writes(model, prompts, dictionary, busy):
    seen = latent_direction(dictionary, busy, model, prompts)
    x = model.run(prompts, read=[SITE], logits=None)[SITE][prompts.mask]
    block = dictionary.blocks[0]
    pre = block.pre(dictionary.inputs(block, Rows({SITE: x})))[:, busy]
    torch.testing.assert_close(seen.read(x), pre.detach(), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(seen.vector, dictionary.directions(SITE)[busy].detach())


def test_a_clamp_is_the_same_alone_padded_and_with_a_kv_cache(model, prompts, dictionary, busy):
    edits = clamp(dictionary, busy, 3.0, at=slice(1, None))
    made = model.generate(prompts, max_new_tokens=5, edits=edits, logits=True, stop_at=None)
    plain = model.generate(prompts, max_new_tokens=5, logits=True, stop_at=None)
    assert (made.logits - plain.logits).abs().max() > 0.01
    for row in range(len(prompts)):
        whole = made.tokens.ids[row][made.tokens.mask[row]][None]
        single = model.run(whole[:, :-1], edits=clamp(dictionary, busy, 3.0, at=slice(1, None))).logits[0, -5:]
        torch.testing.assert_close(single, made.logits[row], atol=1e-3, rtol=1e-3)


def test_a_transcoder_reads_in_one_place_and_writes_in_another(model, prompts):
    transcoder = load("digsite/tinyworld/transcoder-1")
    source, target = transcoder.reads[0], transcoder.writes[0]
    run = model.run(prompts, read=[source, target], logits=None)
    where = prompts.mask
    dense = encoded(transcoder, rows_of(run, [source], where))[0].dense()
    latent = int((dense > 0).sum(0).argmax())
    new = model.run(prompts, read=[target], edits=clamp(transcoder, latent, 1.5), logits=None)[target]
    wanted = run[target][where] + (1.5 - dense[:, latent])[:, None] * transcoder.directions(target)[latent]
    torch.testing.assert_close(new[where], wanted, atol=1e-4, rtol=1e-4)
    assert latent_direction(transcoder, latent, model, prompts).reader is None


def test_a_negative_activation_is_taken_away_too(model, prompts):
    """A clamp that rectifies first would leave it where it is."""
    d = sae({SITE: model.d_model}, 32, AbsTopK(k=8))
    with torch.no_grad():
        for x in d.parameters():
            x.copy_(torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) / 8)
    x = model.run(prompts, read=[SITE], logits=None)[SITE]
    dense = acts(d, x.flatten(0, 1)).detach()
    latent = int((dense[prompts.mask.flatten()] < 0).sum(0).argmax())
    a = dense[:, latent].unflatten(0, x.shape[:2])
    assert a[prompts.mask].min() < 0
    new = model.run(prompts, read=[SITE], edits=clamp(d, latent, 0.0), logits=None)[SITE]
    wanted = x - a[..., None] * d.directions(SITE)[latent].detach()
    torch.testing.assert_close(new[prompts.mask], wanted[prompts.mask], atol=1e-4, rtol=1e-4)


def test_what_cannot_be_clamped(model, prompts, dictionary, busy):
    with pytest.raises(BadInput, match=r"(?s)no latent 99999.*0 to"):
        clamp(dictionary, 99999, 1.0)
    with pytest.raises(BadInput, match=r"(?s)largest activation of latent.*seen=latent_direction"):
        clamp(dictionary, busy, 1.0, "max")
    with pytest.raises(BadInput, match="no unit of a clamped latent"):
        clamp(dictionary, busy, 1.0, "norm")
    maps = molt({"layers.1.mlp.norm": model.d_model}, {"layers.1.mlp.out": model.d_model}, [(2, 3)], Relu())
    with pytest.raises(Unsupported, match="linear map"):
        clamp(maps, 0, 1.0)
