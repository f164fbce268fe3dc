"""Tuned and future lenses come nearer to the model than no map at all, and are kept with the model they belong to."""

import json

import pytest
import torch

from architectures import tiny
from digsite._core.errors import BadInput, LoadError
from digsite.artifacts import load_result
from digsite.lenses import Lens, fit_future, fit_tuned, load_lens, save_lens
from digsite.lenses.lens import stream_points
from digsite.lenses.moments import Moments
from digsite.lenses.passages import log_probs
from digsite.models.load import wrap


def test_it_is_nearer_to_the_model_at_every_point_and_the_last_is_the_model(world, halves, tuned):
    fit = tuned.fit
    assert fit.sites == stream_points(world)[:-1] == tuple(tuned.maps)
    assert (fit.held.mean(1) < 0.9 * fit.start.mean(1)).all()
    assert (fit.curve[-1] < fit.curve[0]).all() and fit.steps[0] == 0 and fit.steps[-1] == 40
    torch.testing.assert_close(fit.curve[-1], fit.held.mean(1), rtol=1e-4, atol=1e-5)
    assert "nearer than it at every point" in fit.verdict
    tokens = next(iter(halves[1].batches(4)))
    last = stream_points(world)[-1]
    run = world.run(tokens, read=[last])
    assert torch.equal(tuned.carried(run[last], last), run[last])
    torch.testing.assert_close(tuned.logits(run[last], last), run.logits, rtol=1e-5, atol=1e-5)


def test_the_number_it_is_judged_by_is_the_divergence_in_nats(world, halves, tuned):
    tokens = next(iter(halves[1].batches(1)))
    site = "layers.1.resid_post"
    run = world.run(tokens, read=[site])
    model, lens = run.logits.softmax(-1), tuned.logits(run[site], site).softmax(-1)
    each = (model * (model / lens).log()).sum(-1)[0, :-1]  # nothing follows the last
    real = tokens.ids[0, :-1] != world.tokenizer.bos_token_id
    assert not real.all() and float(tuned.fit.held[2, 0]) == pytest.approx(float(each[real].mean()), rel=1e-3)


@pytest.mark.slow
def test_a_lens_without_a_bias(world, halves):
    lens = fit_tuned(world, *halves, steps=12, batch=16, bias=False, judged_rows=4)
    assert all(one.bias is None for one in lens.maps.values())
    zero = torch.zeros(world.d_model)
    assert torch.equal(lens.carried(zero, "layers.0.resid_post"), zero)
    assert (lens.fit.held.mean(1) < lens.fit.start.mean(1)).all()


def test_the_same_seed_gives_the_same_lens(world, halves):
    one, two = (fit_tuned(world, *halves, steps=3, batch=4, judged_rows=2) for _ in range(2))
    assert all(torch.equal(one.maps[site].change, two.maps[site].change) for site in one.maps)


def test_the_start_is_the_regression():
    draw = torch.Generator().manual_seed(0)
    h = torch.randn(500, 6, generator=draw) @ torch.randn(6, 6, generator=draw) + 3
    M, m = torch.randn(6, 6, generator=draw), torch.randn(6, generator=draw)
    moments = Moments(6, torch.device("cpu"))
    for part in range(5):
        some = h[part * 100 : part * 100 + 100]
        moments.add(some, some @ M.T + m)
    found, bias = moments.linear(bias=True)
    torch.testing.assert_close(found.float(), M, rtol=0.02, atol=0.02)
    torch.testing.assert_close(h @ found.float().T + bias.float(), h @ M.T + m, rtol=0.05, atol=0.3)
    W, centre = moments.whitener(bias=True).float(), moments.centre(bias=True).float()
    white = (h - centre) @ W.T
    assert (white.T @ white / 500).diagonal().max() < 1.001
    mean, vectors, variance = moments.principal(2)
    _, S, V = torch.linalg.svd(h - h.mean(0), full_matrices=False)
    torch.testing.assert_close((vectors * V[:2]).sum(1).abs(), torch.ones(2), rtol=1e-3, atol=0)
    torch.testing.assert_close(variance, S[:2].square() / 500, rtol=1e-3, atol=0)
    torch.testing.assert_close(mean, h.mean(0))


def test_a_future_lens_is_held_against_what_comes_later_and_the_token_alone(world, halves):
    lens = fit_future(world, *halves, ahead=2, steps=10, batch=4, judged_rows=4)
    assert lens.name == "future +2" and lens.maps.keys() == set(stream_points(world))
    assert (lens.fit.held.mean(1) < lens.fit.start.mean(1)).all()
    assert lens.fit.alone.isfinite().all() and "token alone" in lens.fit.verdict
    tokens = next(iter(halves[1].batches(1)))
    site = "layers.3.resid_post"
    run = world.run(tokens, read=[site])
    own, said = log_probs(run.logits[0, 2:-1]), log_probs(lens.logits(run[site], site)[0, :-3])
    real = tokens.ids[0, :-3] != world.tokenizer.bos_token_id
    found = (own.exp() * (own - said)).sum(-1)[real].mean()
    assert float(lens.fit.held[-1, 0]) == pytest.approx(float(found), rel=1e-3)


def test_a_lens_is_saved_whole_and_read_the_same(world, tuned, tmp_path):
    save_lens(tuned, tmp_path / "lens")
    again = load_lens(tmp_path / "lens", world)
    assert (again.kind, again.sites, again.ahead, dict(again.origin)) == ("tuned", tuned.sites, 0, dict(tuned.origin))
    for site, one in tuned.maps.items():
        same = again.maps[site]
        assert one.bias is not None and same.bias is not None
        assert torch.equal(same.change, one.change) and torch.equal(same.bias, one.bias)
    assert again.fit.verdict == tuned.fit.verdict == load_result(tmp_path / "lens" / "fit").verdict
    save_lens(Lens(world), tmp_path / "lens")  # replaced
    plain = load_lens(tmp_path / "lens", world)
    assert plain.maps == {} and plain.fit is None


def test_a_lens_of_another_model_is_refused_not_warned_of(world, tuned, tmp_path):
    save_lens(tuned, tmp_path / "lens")
    with pytest.raises(LoadError, match=r"was fitted on another model than llama.\nFound: digsite/tinyworld: weights"):
        load_lens(tmp_path / "lens", wrap(tiny("llama"), None, name="llama", revision=None, attention="eager"))
    plain = json.loads((tmp_path / "lens" / "lens.json").read_text())
    plain["readout"] = "0" * 16
    (tmp_path / "lens" / "lens.json").write_text(json.dumps(plain))
    with pytest.raises(LoadError, match=r"final norm and unembedding 0000000000000000, and here"):
        load_lens(tmp_path / "lens", world)


def test_the_readout_has_a_fingerprint_of_its_own():
    prints = []
    for change in (None, "model.norm.weight", "lm_head.weight", "model.layers.0.mlp.up_proj.weight"):
        tiny.cache_clear()
        model = wrap(tiny("llama"), None, name="llama", revision=None, attention="eager")
        if change:
            model.hf.get_parameter(change).data.view(-1)[1] += 1
        prints.append(model.readout_fingerprint)
    tiny.cache_clear()
    assert prints[0] == prints[3] and len(set(prints)) == 3


def test_broken_folders(world, tuned, tmp_path):
    with pytest.raises(LoadError, match=r"There is no lens in .*nowhere.\nFound: no such folder"):
        load_lens(tmp_path / "nowhere", world)
    folder = save_lens(tuned, tmp_path / "lens")
    (folder / "lens.safetensors").write_bytes(b"cut off")
    with pytest.raises(LoadError, match=r"is broken"):
        load_lens(folder, world)
    save_lens(tuned, folder)
    (folder / "lens.json").write_text('{"format": "digsite.lens/9"}')
    with pytest.raises(LoadError, match=r"is not of the format digsite.lens/1"):
        load_lens(folder, world)


def test_what_cannot_be_fitted(world, halves):
    learn, held = halves
    with pytest.raises(BadInput, match=r"A lens is judged on text that it was not fitted on"):
        fit_tuned(world, learn, learn)
    with pytest.raises(BadInput, match=r"steps=0 is no number of something"):
        fit_tuned(world, learn, held, steps=0)
    with pytest.raises(BadInput, match=r"ahead=0 is not in the future"):
        fit_future(world, learn, held, ahead=0)
    with pytest.raises(BadInput, match=r"No row of the text has 32 tokens"):
        fit_future(world, learn, held, ahead=30)
