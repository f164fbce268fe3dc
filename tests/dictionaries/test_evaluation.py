"""The judgement of a dictionary is right where the answer is known, and refuses what cannot be judged."""

from dataclasses import replace
from typing import Any

import pytest
import torch

import digsite
from architectures import tiny
from dictionaries.exact import identity, planted, planted_clt, planted_transcoder, silent
from digsite._core.errors import BadInput, NotFinite, ShapeMismatch
from digsite.dictionaries import Dictionary, TopK, crosscoder, initialise, sae, train
from digsite.dictionaries.evaluation import RANDOM, DictionaryEvaluation, evaluate
from digsite.dictionaries.recipes import TOPK
from digsite.models.tokens import grid
from digsite.store import LiveSource
from digsite.tasks import Corpus

SITE = "layers.1.resid_post"


@pytest.fixture(scope="module")
def model():
    return digsite.load(tiny("llama"), verify=False)


@pytest.fixture(scope="module")
def text():
    drawn = torch.Generator().manual_seed(0)
    return grid([torch.randint(3, 97, (int(n),), generator=drawn).tolist() for n in range(6, 22)])


def held_rows(model, text, site, count):
    run = model.run(text[:count], read=[site])
    return run[site].flatten(2)[text[:count].mask].double()


def at(result, name, column):
    return result.to_frame().filter(judged=name)[column][0]


def test_an_identity_is_perfect_and_fails_on_shuffled_rows(model, text):
    result = evaluate(model, identity({SITE: 64}), text, rows=8)
    row = result.to_frame().row(0, named=True)
    assert row["fvu"] == 0 and row["kl"] == 0 and row["recovered"] == 1 and row["over_mean"] == 1
    assert row["l0"] == 64 and row["dead"] == 0 and row["n"] == 8
    assert row["ratio"] == pytest.approx(1) and row["gamma"] == pytest.approx(1) and row["cosine"] == pytest.approx(1)
    assert "fails against shuffled activations" in result.verdict
    assert torch.equal(result.loss[0], result.clean[0])


def test_a_dictionary_that_writes_nothing_is_zero_ablation(model, text):
    result = evaluate(model, silent({SITE: 64}), text, rows=8, baselines=False)
    assert torch.equal(result.loss, result.zero) and float(result.recovered()) == 0
    x = held_rows(model, text, SITE, 8)
    wanted = (x**2).sum() / ((x - x.mean(0)) ** 2).sum()
    torch.testing.assert_close(result.fvu()[0], wanted)
    assert float(result.dead[0]) == 1


def test_a_dictionary_that_writes_the_mean_explains_nothing(model, text):
    x = held_rows(model, text, SITE, 8)
    new = silent({SITE: 64})
    with torch.no_grad():
        new.bias(SITE).copy_(x.mean(0))
    result = evaluate(model, new, text, rows=8, baselines=False)
    assert float(result.fvu()) == pytest.approx(1, abs=1e-6)


def test_fvu_and_bias_are_what_their_formulas_say(model, text):
    new = initialise(sae({SITE: 64}, 200, TopK(k=5)), seed=0)
    result = evaluate(model, new, text, rows=8, baselines=False, batch=3)
    x = held_rows(model, text, SITE, 8)
    with torch.no_grad():
        made = new({SITE: x.float()})[SITE].double()
    wanted = ((x - made) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
    torch.testing.assert_close(result.fvu()[0], wanted, rtol=1e-5, atol=1e-6)
    gamma = (made**2).sum() / (made * x).sum()
    torch.testing.assert_close(result.gamma[0, 0], gamma, rtol=1e-5, atol=1e-6)
    frame = result.to_frame()
    assert frame["l0"][0] == pytest.approx(5)
    assert frame["cosine"][0] == pytest.approx(float(torch.cosine_similarity(x, made).mean()), abs=1e-5)
    assert frame["ratio"][0] == pytest.approx(float((made.norm(dim=1) / x.norm(dim=1)).mean()), abs=1e-5)
    assert frame["fvu_low"][0] < frame["fvu"][0] < frame["fvu_high"][0]


def test_batches_do_not_matter(model, text):
    new = initialise(sae({SITE: 64}, 200, TopK(k=5)), seed=0)
    one, other = (evaluate(model, new, text, rows=8, baselines=False, batch=batch) for batch in (1, 8))
    torch.testing.assert_close(one.loss, other.loss, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(one.residual, other.residual, rtol=1e-4, atol=1e-4)
    assert one.rows.tolist() == list(range(6, 14))


def test_all_components_of_pca_are_an_identity(model, text):
    new = initialise(sae({SITE: 64}, 200, TopK(k=64)), seed=0)
    with torch.no_grad():
        new.blocks[0].b_enc.fill_(1e4)  # 64 fire in every row, so PCA has 64 components
    result = evaluate(model, new, text, rows=8)
    assert at(result, "PCA", "l0") == 64 and at(result, "PCA", "fvu") < 1e-8 and at(result, "PCA", "kl") < 1e-6
    assert at(result, "raw neurons", "fvu") < 1e-12
    assert {"PCA", "raw neurons"} <= set(result.beaten_by)


def planted_text(seed=0):
    return planted().model.tokens(torch.randint(0, 16, (24, 12), generator=torch.Generator().manual_seed(seed)))


def test_exact_transcoders_beat_every_linear_map():
    network = planted()
    result = evaluate(network.model, planted_transcoder(1), planted_text(), rows=12)
    assert at(result, "dictionary", "fvu") < 1e-9
    assert at(result, "dictionary", "recovered") == pytest.approx(1, abs=1e-3)
    dense, low = (at(result, name, "fvu") for name in ("dense linear map", "linear map of rank L0"))
    assert 0.02 < dense <= low
    # The features are the neurons: as many of the largest as fire on average leave out only what is above average.
    assert at(result, "raw neurons", "fvu") < 0.2
    assert result.beaten_by == ()


def test_a_clt_is_judged_as_a_whole_and_layer_by_layer():
    network = planted()
    new = planted_clt()
    with torch.no_grad():
        new.blocks[0].decoder.W[0].zero_()
    result = evaluate(network.model, new, planted_text(), rows=12, baselines=False)
    assert result.places == ("all", *new.writes)
    everything, first, second, third = result.recovered()[0].tolist()
    assert first == 0 and second == pytest.approx(1, abs=1e-3) == third
    assert everything < 1
    frame = result.to_frame()
    assert frame["fvu"][2] < 1e-9 and frame["fvu"][1] >= 1


def test_a_linear_part_is_explained_by_a_dense_map():
    """What layer 0 reads is the embedding itself: a dense map, and no dictionary, is the whole answer."""
    network = planted()
    d_model = network.model.d_model
    new = silent({"embed": d_model}, writes={"layers.0.resid_pre": d_model})
    result = evaluate(network.model, new, planted_text(), rows=12)
    assert at(result, "dense linear map", "fvu") < 1e-6
    assert "dense linear map" in result.beaten_by


def test_a_twin_on_a_model_of_random_weights_stands_beside(model, text):
    seen = []

    def retrain(other):
        seen.append(other)
        return identity({SITE: 64})

    result = evaluate(model, identity({SITE: 64}), text, rows=8, retrain=retrain)
    assert seen[0].fingerprint != model.fingerprint
    assert result.judged[-1] == RANDOM and at(result, RANDOM, "fvu") == 0
    assert RANDOM in result.beaten_by and not result.missing
    assert not torch.equal(result.clean[-1], result.clean[0])
    without = evaluate(model, identity({SITE: 64}), text, rows=8)
    assert "missing: random-weights model (give retrain=)" in without.verdict


def test_two_models_side_by_side(model, text):
    other = digsite.models.untrained(model, seed=1)
    widths = {"base:layers.1.resid_post": 64, "tuned:layers.1.resid_post": 64}
    new = identity(widths)
    result = evaluate({"base": model, "tuned": other}, new, text, rows=8)
    assert result.places == tuple(widths)
    assert result.fvu()[0] == 0 and torch.equal(result.loss[0], result.clean[0])
    assert not torch.equal(result.clean[0, 0], result.clean[0, 1])
    random = initialise(crosscoder(widths, 100, TopK(k=4)), seed=0)
    assert evaluate({"base": model, "tuned": other}, random, text, rows=8).fvu()[0] > 0


@pytest.mark.slow
def test_latents_of_one_token_are_counted_apart(model, text):
    """Latent 0 fires on one token, latent 1 everywhere, latent 2 never."""
    ids = text.ids.clone()
    ids[:, 2] = 7
    text = replace(text, ids=ids)
    new = sae({"embed": 64}, 3, TopK(k=3))
    direction = model.weights.W_E[7]
    others = torch.tensor([i for i in range(97) if i != 7])
    with torch.no_grad():
        block: Any = new.blocks[0]
        block.W_enc[0][0] = direction
        block.b_enc[0] = -float((model.weights.W_E[others] @ direction).max()) - 1e-3
        block.b_enc[1], block.b_enc[2] = 1.0, -1.0
        block.decoder.W[0][:2] = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    result = evaluate(model, new, text, rows=8, batch=4)
    # eight of the sequences are judged: too few for ten firings unless the token is drawn again
    fires = int((ids[:8] == 7).sum())
    assert result.density[0] == pytest.approx(fires / int(text.mask[:8].sum()))
    assert result.density[1] == 1 and result.density[2] == 0
    wide = evaluate(model, new, text[torch.arange(16).repeat(3)], rows=24)
    assert wide.share[0] == 1 and wide.entropy[0] == 0 and wide.share[1] < 0.5 and torch.isnan(wide.share[2])
    assert float(wide.single[0]) == 0.5 and float(wide.dense[0]) == pytest.approx(1 / 3)
    assert "50% of its latents fire on one token" in wide.verdict
    without = wide.judged.index("without single-token latents")
    assert float(wide.l0[0].mean()) > float(wide.l0[without].mean()) == 1


def test_it_comes_back_from_a_folder(model, text, tmp_path):
    result = evaluate(model, initialise(sae({SITE: 64}, 100, TopK(k=4)), seed=0), text, rows=8)
    again = DictionaryEvaluation.load(result.save(tmp_path / "judged"))
    assert again.verdict == result.verdict
    assert again.cost.forwards > 0


def test_what_cannot_be_judged_is_refused(model, text):
    with pytest.raises(BadInput, match=r"at least 4 sequences[\s\S]*Found: 3"):
        evaluate(model, identity({SITE: 64}), text[:3])
    with pytest.raises(ShapeMismatch, match=r"takes layers\.1\.resid_post as rows of 32 numbers"):
        evaluate(model, silent({SITE: 32}), text)
    same = grid([[5, 5, 5, 5]] * 6)
    with pytest.raises(BadInput, match="embed never varies"):
        evaluate(model, silent({"embed": 64}), same, baselines=False)
    with pytest.raises(BadInput, match=r"reads a model that is not given[\s\S]*base:embed"):
        evaluate(model, identity({"base:embed": 64, "tuned:embed": 64}), text)


def test_a_model_that_gives_nan_is_refused(text):
    broken = digsite.load(tiny("gpt2"), verify=False)
    weight = broken.hf.transformer.h[0].mlp.c_fc.weight
    kept = weight.clone()
    try:
        weight[0, 0] = torch.nan
        with pytest.raises(NotFinite, match=r"layers\.1\.resid_post must be finite"):
            evaluate(broken, identity({SITE: 64}), text)
    finally:
        weight.copy_(kept)


def test_a_dictionary_of_other_weights_or_of_this_text_is_said_so(model, text):
    new = identity({SITE: 64})
    origin = {"weights": "0123456789abcdef", "tokens": text.fingerprint}
    other = Dictionary(replace(new.config, origin=origin))
    other.load_state_dict(new.state_dict())
    result = evaluate(model, other, text, rows=8, baselines=False)
    assert "trained on other weights (0123456789abcdef)" in result.verdict
    assert "trained on this very text" in result.verdict
    assert "trained on" not in evaluate(model, new, text, rows=8, baselines=False).verdict


@pytest.mark.slow
def test_a_trained_dictionary_is_judged_beside_its_twin():
    """Training leaves the record that judging looks at; the twin is trained in the same way on shuffled weights."""
    model = digsite.load("digsite/tinyworld")
    seen, fresh = (
        Corpus.of(texts, model, length=24)
        for texts in (["Mary and John went to the store."] * 60, ["The cat sat near the door."] * 60)
    )

    def trained(one):
        new = sae({SITE: 128}, 256, TopK(k=8))
        return train(LiveSource(one, seen, [SITE]), new, replace(TOPK, rate=1e-2), batch=64, rows=2000).dictionary

    dictionary = trained(model)
    result = evaluate(model, dictionary, fresh, rows=6, retrain=trained)
    assert not result.warnings and not result.missing and result.judged[-1] == RANDOM
    again = evaluate(model, dictionary, seen, rows=6, baselines=False)
    assert again.warnings == ("it was trained on this very text",)
    assert float(again.fvu()) < float(result.fvu()[result.judged.index("step 0")])
