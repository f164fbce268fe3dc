"""Probes find what is known to be in a model: planted quantities, beliefs, positions, a board."""

import numpy as np
import pytest
import torch

import digsite
from digsite._core.ranking import auroc
from digsite.directions.probes import number_probe, probe_sweep
from digsite.directions.probes.solving import solve
from digsite.toys.planted.network import planted_network
from digsite.toys.trained import belief_state, othello_mini, position_tracker
from digsite.toys.trained.othello_board import play
from digsite.toys.training import train


@pytest.fixture(scope="module")
def planted():
    net = planted_network()
    ids = torch.randint(0, net.wiring.vocab, (100, 12), generator=torch.Generator().manual_seed(0))
    return net, net.model.tokens(ids), net.quantities(ids)


def test_quantities_are_read_from_where_they_arise_and_not_before(planted):
    net, tokens, quantities = planted
    moved = quantities[..., net.wiring.token_features : net.wiring.before(0)]
    before, after = (
        number_probe(net.model, tokens, moved, site, at=slice(3, None), draws=4)
        for site in ("embed", "layers.0.resid_mid")
    )
    assert before.r2 < 0.3 and after.r2 > 0.999
    assert float(after.null.max()) < 0.1 and "nothing is shown" not in after.verdict


def test_what_is_written_and_what_reads_are_told_apart(planted):
    """A neuron's decoder is how its quantity is written; what reads it must not see the other quantities."""
    net, tokens, quantities = planted
    first = net.wiring.before(0)
    mlp = quantities[..., first : first + net.wiring.features]
    live = (mlp.flatten(0, 1).std(0) > 0.1).nonzero().flatten()
    found = number_probe(net.model, tokens, mlp[..., live], "layers.0.mlp.out", at=None, draws=0)
    assert found.r2 > 0.999
    for vector, latent in zip(found.vectors, live.tolist(), strict=True):
        assert torch.cosine_similarity(vector.float(), net.decoders[0, latent], dim=0) > 0.999


def test_a_sweep_finds_the_position_that_attention_reads(planted):
    """Whether the fourth token has a feature is known at its own position alone, in every layer."""
    net, tokens, quantities = planted
    found = probe_sweep(
        net.model, tokens, quantities[:, 3, 0] > 0, ["embed", "layers.*.resid_post"], fit="lda", draws=5
    )
    grid = found.auroc.unflatten(0, (4, 12))
    assert bool((grid[:, 3] == 1).all()) and bool((grid[:, :3] < 0.75).all()) and bool((grid[0, 4:] < 0.75).all())


@pytest.mark.slow
def test_beliefs_about_a_hidden_state_are_read_better_than_from_an_untrained_model(tmp_path):
    network = train(belief_state.recipe(0, 400), tmp_path / "state").network
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        fresh = belief_state.untrained().eval()
    rows = belief_state.rows(np.random.default_rng(5), 200)
    known = torch.from_numpy(belief_state.beliefs(rows)).float()
    left = []
    for one in (network, fresh):
        model = digsite.load(one, verify=False)
        tokens = model.tokens(torch.from_numpy(rows))
        found = number_probe(model, tokens, known, belief_state.SITE, at=None, draws=3, name="belief")
        left.append(1 - found.r2)
        assert len(found.subspace) == 2  # three probabilities that sum to one: a triangle
        assert float(found.null.max()) < 0.1
    assert left[0] < 0.03 and left[0] < 0.5 * left[1]


@pytest.mark.slow
def test_the_few_directions_of_position_are_found_and_are_used(tmp_path):
    network = train(position_tracker.recipe(0, 400), tmp_path / "state").network
    model = digsite.load(network, verify=False)
    rows, others = (position_tracker.rows(np.random.default_rng(seed), 100) for seed in (7, 8))
    length, size = position_tracker.LENGTH, position_tracker.SIZE
    which = torch.eye(length)[None].expand(100, -1, -1)[..., 1:]
    site, places = position_tracker.SITE, slice(1, None)
    found = number_probe(model, model.tokens(rows), which, site, at=places, draws=3, name="position")
    assert found.r2 > 0.8 and float(found.null.max()) < 0.1
    basis = torch.linalg.svd(found.vectors.float(), full_matrices=False)[2][:size]
    theirs = position_tracker.directions(position_tracker.position_means(model, others))[0][:size]
    assert float(torch.linalg.svdvals(basis @ theirs.T).min()) > 0.9
    middle = model.run(model.tokens(rows), read=[site], logits=None)[site][:, 1:].flatten(0, 1).mean(0)
    null = position_tracker.random_basis(size, model.d_model, 0)
    lost = position_tracker.right(model, others, (position_tracker.removed(basis, middle),))
    kept = position_tracker.right(model, others, (position_tracker.removed(null, middle),))
    assert lost < 0.5 and kept > 0.9


def test_a_board_that_is_written_as_mine_and_theirs_is_not_read_as_black_and_white():
    """In this stream each square has a direction for a disc, and one for whose it is as the player to move sees it."""
    draw = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(128, 128, generator=draw))[0]

    def read(seed):
        games = play(np.random.default_rng(seed), 40)
        board = othello_mini.boards(games)[:, 5:25]
        mine, theirs = board == othello_mini.MINE, board == othello_mini.THEIRS
        written = torch.cat([(mine | theirs).float(), mine.float() - theirs.float()], -1)
        x = written @ basis[: written.shape[-1]] + 0.15 * torch.randn(*board.shape[:2], 128, generator=draw)
        black = torch.where((torch.arange(5, 25) % 2 == 0)[:, None], mine, theirs)
        return x.flatten(0, 1), torch.cat([mine.flatten(0, 1).T, black.flatten(0, 1).T])

    (x, labels), (new, known) = read(11), read(12)
    found = auroc(solve("lda", x[None], labels).scores(new[None])[0].numpy(), known.numpy())
    squares = len(labels) // 2
    assert found[:squares].mean() > 0.97 and found[squares:].mean() < 0.8
