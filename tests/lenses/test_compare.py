"""The comparison of lenses says what a dense computation by hand says, with its controls."""

import pytest
import torch

from architectures import tiny
from digsite._core.errors import BadInput
from digsite.lenses import Lens, causal_agreement, compare_lenses, layer_transfer
from digsite.lenses.bigram import count_bigrams
from digsite.lenses.causal import spearman
from digsite.lenses.lens import Affine, stream_points
from digsite.lenses.passages import log_probs, passages
from digsite.models import apply
from digsite.models.load import wrap
from digsite.models.prediction import kl
from digsite.models.tokens import grid


@pytest.fixture(scope="module")
def llama():
    return wrap(tiny("llama"), None, name="llama", revision=None, attention="eager")


@pytest.fixture(scope="module")
def rows():
    draw = torch.Generator().manual_seed(0)
    return [torch.randint(3, 97, (length,), generator=draw).tolist() for length in (9, 7, 8, 9)]


@pytest.fixture(scope="module")
def lenses(llama):
    change = 0.1 * torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    maps = {site: Affine(change, torch.ones(64)) for site in stream_points(llama)[:-1]}
    return [Lens(llama), Lens(llama, "tuned", maps), Lens(llama, "future", maps, ahead=2)]


def test_its_numbers_are_those_of_a_computation_by_hand(llama, rows, lenses):
    found = compare_lenses(llama, grid(rows), lenses, rows=None, batch=3)
    whole = []
    for number, row in enumerate(rows):
        tokens = grid([row])
        run = llama.run(tokens, read=stream_points(llama))
        count = len(row) - 3  # two ahead, and one more
        for i, lens in enumerate(lenses):
            own = log_probs(run.logits[0, lens.ahead : lens.ahead + count])
            then = tokens.ids[0, lens.ahead + 1 : lens.ahead + 1 + count]
            assert float(found.model_ce[i, number]) == pytest.approx(float(-own[range(count), then].mean()), rel=1e-4)
            for j, site in enumerate(stream_points(llama)):
                said = log_probs(lens.logits(run[site][0, :count], site))
                assert float(found.kl[i, j, number]) == pytest.approx(float(kl(own, said).mean()), rel=1e-3, abs=1e-5)
                ce = -said[range(count), then].mean()
                assert float(found.ce[i, j, number]) == pytest.approx(float(ce), rel=1e-3)
                agree = (own.argmax(-1) == said.argmax(-1)).float().mean()
                assert float(found.agree[i, j, number]) == pytest.approx(float(agree))
        whole.append((log_probs(run.logits[0, :count]), log_probs(lenses[1].logits(run[site_2][0, :count], site_2))))
    own, said = (torch.cat(each) for each in zip(*whole, strict=True))
    assert float(found.bias[1, 2]) == pytest.approx(float(_marginal_kl(own, said)), rel=1e-3)
    constant = torch.cat([kl(o, own.exp().mean(0).log().expand_as(o)).mean()[None] for o, _ in whole])
    torch.testing.assert_close(found.constant[0], constant, rtol=1e-3, atol=1e-5)
    assert found.tokens == sum(len(row) - 3 for row in rows)


site_2 = "layers.1.resid_post"


def _marginal_kl(own, said):
    p, q = own.exp().mean(0), said.exp().mean(0)
    return (p * (p / q).log()).sum()


def test_at_the_last_point_a_lens_is_the_model(llama, rows, lenses):
    found = compare_lenses(llama, grid(rows), lenses[:2], rows=None)
    assert found.kl[:, -1].abs().max() < 1e-5 and found.agree[:, -1].min() == 1 and found.last.max() < 1e-5
    torch.testing.assert_close(found.ce[:, -1], found.model_ce, rtol=1e-4, atol=1e-5)
    assert (found.null[:, -1] > 0.1).all()
    torch.testing.assert_close(found.area, found.kl[:, :-1].mean((1, 2)))


def test_padding_and_batches_change_nothing(llama, rows, lenses):
    plain = compare_lenses(llama, grid(rows), lenses[:2], rows=None, batch=1)
    for tokens, batch in ((grid(rows), 4), (grid(rows, padding="left"), 4), (grid(rows, padding="left"), 2)):
        again = compare_lenses(llama, tokens, lenses[:2], rows=None, batch=batch)
        torch.testing.assert_close(again.kl, plain.kl, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(again.bias, plain.bias, rtol=1e-3, atol=1e-4)


def test_the_tuned_lens_wins_and_the_verdict_says_what_it_does_not_beat(world, halves, tuned, jacobian):
    found = compare_lenses(world, halves[1], [Lens(world), tuned, jacobian], learn=halves[0], rows=16)
    assert found.verdict.startswith(
        "tuned is the nearest to the model over the layers below the last (mean KL in nats: "
    )
    frame = found.to_frame()
    assert frame.height == 3 * 5 and frame["n"][0] == 16
    assert (frame["kl"] <= frame["high"]).all() and (frame["low"] <= frame["kl"]).all()
    assert found.alone.isfinite().all() and (found.null.mean(-1)[1, 1:] > found.kl.mean(-1)[1, 1:]).all()
    with pytest.raises(BadInput, match=r"The tuned lens was fitted on this text"):
        compare_lenses(world, halves[0], [tuned])


def test_lenses_that_cannot_be_compared(llama, world, rows, lenses):
    with pytest.raises(BadInput, match=r"Lenses are compared by name.\nFound: none"):
        compare_lenses(llama, grid(rows), [])
    with pytest.raises(BadInput, match=r"Found: two of one name"):
        compare_lenses(llama, grid(rows), [lenses[0], lenses[0]])
    with pytest.raises(BadInput, match=r"The logit lens is of another model"):
        compare_lenses(llama, grid(rows), [Lens(world)])
    with pytest.raises(BadInput, match=r"No row of the text has 4 tokens"):
        compare_lenses(llama, grid([[3, 4, 5]]), lenses)


def test_memory_holds_one_batch(llama, rows):
    kept = [passage.run for passage in passages(llama, grid(rows), stream_points(llama), batch=1)]
    assert [len(run.tokens) for run in kept] == [1, 1, 1, 1]


def test_bigrams_are_counts_with_a_share_of_the_whole_text(llama):
    rows = [[5, 7, 5, 7, 5, 9, 5, 7]] * 12
    bigram = count_bigrams(llama, grid(rows))
    said = bigram.log_probs(torch.tensor([5, 7, 40])).exp()
    frequent = torch.ones(97)
    for row in rows:
        for token in row[1:]:
            frequent[token] += 1
    frequent /= frequent.sum()
    after = torch.zeros(97)
    after[7], after[9] = 36, 12
    torch.testing.assert_close(said[0], (after + bigram.mass * frequent) / (48 + bigram.mass), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(said[2], frequent, rtol=1e-4, atol=1e-6)  # never seen: as the whole text
    assert bigram.mass == 1.0  # the pairs repeat, so counts are to be trusted
    two = count_bigrams(llama, grid(rows), ahead=1).log_probs(torch.tensor([7])).exp()[0]
    assert float(two[7]) > 0.4 and float(two[9]) > 0.4  # 7 5 7, 7 5 9


def test_maps_are_exchanged_between_points(world, halves, tuned):
    found = layer_transfer(tuned, halves[1], rows=8)
    torch.testing.assert_close(found.kl.diagonal().T, tuned.fit.held[:, :8], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.none, tuned.fit.start[:, :8], rtol=1e-3, atol=1e-4)
    off = found.kl.mean(2) - found.kl.mean(2).diagonal()[None]
    assert (off >= -0.05).all() and off.max() > 0.5
    assert "12 " in f"{found.to_frame().filter(map_of='embed').height * 3} " and "exchanged maps" in found.verdict
    with pytest.raises(BadInput, match=r"Maps of two points can be exchanged.\nFound: a logit lens with 0"):
        layer_transfer(Lens(world), halves[1])


def test_the_effect_of_a_direction_is_the_measured_intervention(world, halves, tuned):
    found = causal_agreement(world, halves[1], [Lens(world), tuned], directions=4, rows=6)
    assert found.sites == stream_points(world)[:-1] and found.energy.shape == (2, 4, 4)
    learn, rest = halves[1].split(6)
    site, at = "layers.1.resid_post", 2
    stream = torch.cat([p.stream(site) for p in passages(world, learn, [site])])
    mean = stream.mean(0)
    v = torch.linalg.svd(stream - mean, full_matrices=False)[2][0]
    passage = next(passages(world, rest, [site], batch=6, rows=6))
    real = passage.run.tokens.without_bos[..., None]
    run = world.run(
        passage.run.tokens,
        edits=[apply(site, lambda x: torch.where(real, x - ((x - mean) @ v)[..., None] * v, x))],
    )
    effect = kl(passage.said(), log_probs(run.logits[passage.where])).mean()
    assert float(found.effect[at, 0]) == pytest.approx(float(effect), rel=2e-2)
    h = passage.stream(site)
    moved = h - ((h - mean) @ v)[:, None] * v
    energy = kl(log_probs(tuned.logits(h, site)), log_probs(tuned.logits(moved, site))).mean()
    assert float(found.energy[1, at, 0]) == pytest.approx(float(energy), rel=2e-2)
    assert "the variance along a direction alone has" in found.verdict
    with pytest.raises(BadInput, match=r"2 directions cannot be tried"):
        causal_agreement(world, halves[1], [Lens(world)], directions=2)


def test_rank_correlation():
    import numpy as np
    from scipy.stats import spearmanr

    one, other = np.random.default_rng(0).normal(size=(2, 20)).round(1)
    assert spearman(one, other) == pytest.approx(spearmanr(one, other)[0])
    assert np.isnan(spearman(np.ones(4), np.arange(4.0)))
