"""The Jacobian lens is the mean Jacobian, entry by entry."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.autograd.functional import jacobian as dense_jacobian

from architectures import tiny
from digsite._core.errors import BadInput, LoadError
from digsite.lenses import Lens, fit_jacobian, merge, read_jacobian, write_jacobian
from digsite.lenses.jacobian import jacobian_rows
from digsite.lenses.lens import stream_points
from digsite.models.edits import replace
from digsite.models.load import wrap
from digsite.models.tokens import grid


def by_hand(model, tokens, site, skip):
    """The whole Jacobian of all positions by all positions, then Σ over p' >= p and the mean over p."""
    last = stream_points(model)[-1]
    stream = model.run(tokens, read=[site])[site]

    def end(x):
        return model.run(tokens, edits=[replace(site, x)], read=[last], grad=True, logits=None)[last][0]

    full: Any = dense_jacobian(end, stream)
    full = full[:, :, 0]  # [p', out, p, in]
    count = range(skip, tokens.ids.shape[1] - 1)
    each = [torch.stack([full[later, :, p] for later in count if later >= p]).sum(0) for p in count]
    return torch.stack(each).mean(0)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_it_is_the_sum_over_later_positions_averaged(name):
    model = wrap(tiny(name), None, name=name, revision=None, attention="eager")
    tokens = grid([[5, 9, 3, 7]])
    points = stream_points(model)
    found = jacobian_rows(model, tokens, points, torch.eye(64), skip=1)
    torch.testing.assert_close(found[1], by_hand(model, tokens, points[1], 1), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found[-1], torch.eye(64))
    again = jacobian_rows(model, tokens, points, torch.eye(64), skip=1, copies=5)  # how many run together is all one
    torch.testing.assert_close(again, found, rtol=1e-4, atol=1e-5)


def test_random_signs_estimate_it_without_bias():
    model = wrap(tiny("llama"), None, name="llama", revision=None, attention="eager")
    tokens, points = grid([[5, 9, 3, 7, 11, 2]]), ("layers.1.resid_post",)
    exact = jacobian_rows(model, tokens, points, torch.eye(64))[0]
    signs = torch.randint(0, 2, (4096, 64), generator=torch.Generator().manual_seed(0)).float() * 2 - 1
    rows = signs @ exact  # vectors times the Jacobian, as the next line shows
    torch.testing.assert_close(jacobian_rows(model, tokens, points, signs[:8])[0], rows[:8], rtol=1e-3, atol=1e-4)
    errors = [float((signs[:k].T @ rows[:k] / k - exact).norm() / exact.norm()) for k in (64, 4096)]
    # Error of k probes: sqrt((d - 1) / k), so that 64 times the probes have an eighth of it.
    assert errors[0] == pytest.approx((63 / 64) ** 0.5, rel=0.2) and errors[1] == pytest.approx(errors[0] / 8, rel=0.2)


@pytest.mark.slow
def test_two_fits_merge_into_the_fit_on_both(world, halves):
    rows = [text for tokens in halves[0].batches(1) for text in [tokens]][:5]
    fits = [fit_jacobian(world, _some(halves[0], part), prompts=9, skip=2) for part in (rows[:2], rows[2:], rows)]
    both = merge(fits[:2])
    assert both.origin["prompts"] == 5
    for site, one in fits[2].maps.items():
        torch.testing.assert_close(both.maps[site].change, one.change, rtol=1e-4, atol=1e-5)


def _some(corpus, rows):
    """A corpus of these rows alone."""
    texts = [corpus.tokenizer.decode(one.ids[0], skip_special_tokens=True) for one in rows]
    return dataclasses.replace(corpus, documents=lambda: texts, packed=False, limit=None, first=0)


def test_the_last_layer_is_the_identity_and_the_fit_says_how_settled_it_is(world, halves, jacobian):
    last = stream_points(world)[-1]
    assert last not in jacobian.maps and last in jacobian.sites
    fit = jacobian.fit
    assert float(fit.from_identity[-1]) < 1e-6 and len(fit.moved) == fit.prompts - 1 == 3
    assert fit.verdict.startswith("The mean Jacobian of 4 prompts (every row computed) has an error of about")
    few = fit_jacobian(world, halves[0], prompts=4, skip=2, probes=8)
    assert float(few.fit.error[1]) > float(fit.error[1])
    assert "8 random probes a prompt" in few.fit.verdict
    # A small step along the stream moves the end as the lens says, on average over the prompts it was fitted on.
    site = stream_points(world)[3]
    assert float(fit.from_identity[3]) < float(fit.from_identity[0])
    assert site in jacobian.maps


def test_published_files_are_read_and_written(world, jacobian, tmp_path):
    path = write_jacobian(jacobian, tmp_path / "lens.pt")
    again = read_jacobian(path, world)
    assert again.sites == stream_points(world)[1:] and again.origin["prompts"] == 4
    for site in again.maps:
        torch.testing.assert_close(again.maps[site].change, jacobian.maps[site].change, rtol=1e-2, atol=2e-3)
    with pytest.raises(BadInput, match=r"This file holds Jacobian lenses.\nFound: a logit lens"):
        write_jacobian(Lens(world), path)
    (tmp_path / "no.pt").write_bytes(b"nothing")
    with pytest.raises(LoadError, match=r"no.pt is no file of a Jacobian lens"):
        read_jacobian(tmp_path / "no.pt", world)
    torch.save({"J": {}}, tmp_path / "part.pt")  # noqa: TID251
    with pytest.raises(LoadError, match=r"a dict without n_prompts, source_layers, d_model"):
        read_jacobian(tmp_path / "part.pt", world)


def test_a_lens_that_others_published_is_refused_for_a_model_of_another_width(world):
    folder = os.environ.get("DIGSITE_TEST_DATA")
    if not folder:
        pytest.skip("DIGSITE_TEST_DATA is not set")
    path = Path(folder) / "data" / "jlens" / "stories15M_jacobian_lens_1000.pt"
    plain = torch.load(path, weights_only=True)
    assert plain["d_model"] == 288 and plain["n_prompts"] == 1000 and plain["source_layers"] == [0, 1, 2, 3, 4]
    with pytest.raises(LoadError, match=r"width 288, layers up to 4; digsite/tinyworld has width"):
        read_jacobian(path, world)
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=288, intermediate_size=8, num_hidden_layers=6, num_attention_heads=6
    )
    shaped = wrap(transformers.LlamaForCausalLM(config), None, name="stories15M", revision=None, attention="eager")
    lens = read_jacobian(path, shaped)
    assert lens.sites[0] == "layers.0.resid_post" and len(lens.maps) == 5 and lens.origin["prompts"] == 1000
    distance = [float(lens.maps[site].change.norm()) for site in lens.maps]
    assert distance == sorted(distance, reverse=True)  # the later, the nearer to the identity


def test_numbers_that_are_none_are_refused(world, halves):
    with pytest.raises(BadInput, match=r"prompts=0 is no number of prompts"):
        fit_jacobian(world, halves[0], prompts=0)
    with pytest.raises(BadInput, match=r"No prompt is long enough"):
        fit_jacobian(world, halves[0], prompts=2, skip=23)
    with pytest.raises(BadInput, match=r"Jacobian lenses are merged, by their numbers of prompts.\nFound: logit"):
        merge([Lens(world)])
    with pytest.raises(BadInput, match=r"Found: none"):
        merge([])
