"""Cosines, pairs and matches are those that were put in; random ones are chance."""

import sys
from typing import Any

import pytest
import torch

from dictionaries.exact import planted, planted_transcoder
from dictionaries.zoo import filled
from digsite._core.errors import BadInput, NotFinite, ShapeMismatch, Unsupported
from digsite.dictionaries import Relu, TopK, initialise, sae
from digsite.dictionaries.evaluation import evaluate
from digsite.dictionaries.frontier import Frontier, compare
from digsite.dictionaries.geometry import DictionaryMatch, Geometry, geometry, match

SITE = "embed"


@torch.no_grad()
def with_rows(W, *, encoder=None):
    new: Any = sae({SITE: W.shape[1]}, len(W), Relu())
    new.blocks[0].decoder.W[0].copy_(W)
    new.blocks[0].W_enc[0].copy_(W if encoder is None else encoder)
    return new.eval()


def test_angles_that_were_put_in_are_found():
    W = torch.eye(5)[[0, 0, 1, 2, 3, 4]].clone()
    W[0] = torch.tensor([3.0, 0, 0, 0, 0])
    W[1] = torch.tensor([0.6, 0.8, 0, 0, 0])
    W[3] = -2 * W[4]  # antipodal
    W[5] = 0  # a dead row
    result = geometry(with_rows(W, encoder=-W))
    assert result.nearest[:2].tolist() == pytest.approx([0.6, 0.8])
    assert result.opposite[3] == pytest.approx(-1) and result.antipodal.tolist() == [[3, 4]]
    assert torch.isnan(result.nearest[5]) and result.norms[0] == 3
    assert result.encoder[:5].tolist() == pytest.approx([-1] * 5) and torch.isnan(result.encoder[5])
    assert "1 antipodal pairs" in result.verdict and "mean cosine of -1.00" in result.verdict


def test_random_rows_are_no_more_than_chance():
    W = torch.randn(300, 16, generator=torch.Generator().manual_seed(5))
    result = geometry(with_rows(W))
    assert float(result.nearest.mean()) == pytest.approx(float(result.null.mean()), abs=0.02)
    new = initialise(sae({SITE: 16}, 300, TopK(k=3)), seed=0)
    assert not torch.allclose(geometry(new, seed=0).nearest, geometry(new, seed=0).null)  # the null is drawn elsewhere
    doubled = geometry(with_rows(torch.cat([W, W])))
    assert float(doubled.nearest.min()) == pytest.approx(1, abs=1e-5) and "no more than chance" not in doubled.verdict


def test_chunks_do_not_matter(monkeypatch):
    W = torch.randn(50, 8, generator=torch.Generator().manual_seed(5))
    whole = geometry(with_rows(W))
    monkeypatch.setattr(sys.modules["digsite.dictionaries.geometry"], "_AT_ONCE", 7)
    torch.testing.assert_close(geometry(with_rows(W)).nearest, whole.nearest)


def test_a_shuffled_copy_is_matched_row_by_row():
    drawn = torch.Generator().manual_seed(0)
    W = torch.randn(40, 32, generator=drawn)
    order = torch.randperm(40, generator=drawn)
    result = match(with_rows(W), with_rows(3 * W[order]))
    assert torch.equal(order[result.matched], torch.arange(40)) and result.found_again == 1
    assert float(result.nearest.min()) == pytest.approx(1, abs=1e-5) and float(result.null.mean()) < 0.7
    half = match(with_rows(W), with_rows(torch.cat([W[:20], torch.randn(20, 32, generator=drawn)])))
    assert half.found_again == pytest.approx(0.5, abs=0.05)
    assert "50% of the latents" in half.verdict


def test_each_latent_is_given_once_and_signs_count():
    W = torch.eye(4)
    merged = match(with_rows(W), with_rows(torch.stack([W[0] + W[1], W[2], -W[3]])))
    assert sorted(merged.matched.tolist()).count(-1) == 1
    assert merged.found_again == pytest.approx(2 / 4)  # one of 0 and 1, and 2; 3 points the other way


def test_they_come_back_from_a_folder(tmp_path):
    one = with_rows(torch.randn(20, 8, generator=torch.Generator().manual_seed(1)))
    shape, both = geometry(one), match(one, one)
    assert Geometry.load(shape.save(tmp_path / "g")).verdict == shape.verdict
    assert DictionaryMatch.load(both.save(tmp_path / "m")).verdict == both.verdict


def test_what_has_no_geometry_is_refused():
    one = with_rows(torch.eye(4))
    with pytest.raises(ShapeMismatch, match=r"at one site[\s\S]*4 and 6 numbers"):
        match(one, with_rows(torch.eye(6)))
    with pytest.raises(Unsupported, match="linear map has no direction"):
        geometry(filled("molt"))
    with pytest.raises(BadInput, match="does not write embedd"):
        geometry(one, "embedd")
    with pytest.raises(BadInput, match=r"two latents that write to embed[\s\S]*Found: 0"):
        geometry(with_rows(torch.zeros(4, 4)))
    with pytest.raises(NotFinite, match="decoder of embed"):
        geometry(with_rows(torch.full((4, 4), torch.nan)))


def test_the_frontier_knows_who_is_beaten(tmp_path):
    network = planted()
    rows = network.model.tokens(torch.randint(0, 16, (12, 12), generator=torch.Generator().manual_seed(0)))
    widths = ({"layers.1.mlp.norm": network.model.d_model}, {"layers.1.mlp.out": network.model.d_model})
    from digsite.dictionaries import transcoder

    worse = initialise(transcoder(*widths, 16, TopK(k=16)), seed=0)
    found = {
        "exact": evaluate(network.model, planted_transcoder(1), rows, rows=6),
        "untrained": evaluate(network.model, worse, rows, rows=6, baselines=False),
    }
    result = compare(found)
    assert result.best == ("exact",) and "exact (L0" in result.verdict and "untrained" not in result.verdict
    frame = result.to_frame()
    assert frame.filter(kind="dictionary")["name"].to_list() == ["exact", "untrained"]
    assert set(frame.filter(kind="baseline")["of"]) == {"exact"}
    assert Frontier.load(result.save(tmp_path / "f")).verdict == result.verdict
    other = evaluate(network.model, planted_transcoder(1), rows[:8], rows=4, baselines=False)
    with pytest.raises(BadInput, match=r"exact and other were not judged on the same[\s\S]*text"):
        compare({"exact": found["exact"], "other": other})
    with pytest.raises(BadInput, match="nothing to compare"):
        compare({})
