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


def test_what_is_added_towards_numbers_makes_them_read_and_nothing_else(planted):
    """Two of the planted quantities are set; the others are read as they were, for they are written elsewhere."""
    net, tokens, quantities = planted
    known = quantities[..., net.wiring.before(0) : net.wiring.before(0) + 6]
    found = number_probe(net.model, tokens, known, "layers.0.mlp.out", at=None, draws=0)
    x = net.model.run(tokens, read=["layers.0.mlp.out"])["layers.0.mlp.out"]
    wish = known.clone()
    wish[..., :2] += torch.tensor([0.5, -2.0])
    said = found.read(x + found.towards(x, wish))
    torch.testing.assert_close(said, wish, rtol=1e-3, atol=1e-3)
    once = found.towards(x[0, 4], wish[0, 4])
    torch.testing.assert_close(once, found.towards(x, wish)[0, 4])
    assert float(found.towards(x, found.read(x)).abs().max()) < 1e-4


@pytest.fixture(scope="module")
def observer(tmp_path_factory):
    """A network that predicts the hidden process, and the same one untrained."""
    state = tmp_path_factory.mktemp("beliefs") / "state"
    network = train(belief_state.recipe(0, 400), state).network
    with torch.random.fork_rng():
        torch.manual_seed(1)
        fresh = belief_state.untrained().eval()
    return digsite.load(network, verify=False), digsite.load(fresh, verify=False)


def belief_probe(model, site):
    rows = belief_state.rows(np.random.default_rng(5), 200)
    known = torch.from_numpy(belief_state.beliefs(rows)).float()
    return number_probe(model, model.tokens(torch.from_numpy(rows)), known, site, at=None, draws=3, name="belief")


@pytest.mark.slow
def test_beliefs_about_a_hidden_state_are_read_better_than_from_an_untrained_model(observer):
    trained, fresh = (belief_probe(model, belief_state.SITE) for model in observer)
    for found in (trained, fresh):
        assert len(found.subspace) == 2  # three probabilities that sum to one: a triangle
        assert float(found.null.max()) < 0.1
    left = 1 - trained.r2
    assert left < 0.03 and left < 0.5 * (1 - fresh.r2)


@pytest.mark.slow
@pytest.mark.parametrize("site", ["layers.0.resid_post", "layers.1.resid_post"])
def test_a_model_that_is_given_another_belief_predicts_what_follows_from_it(observer, site):
    model, _ = observer
    found = belief_probe(model, site)
    rows = belief_state.rows(np.random.default_rng(6), 200)
    tokens = model.tokens(torch.from_numpy(rows))
    belief = torch.from_numpy(belief_state.beliefs(rows)).float()[:, -1]
    given = belief.roll(1, 0)  # that of another row
    follows = (given @ torch.from_numpy(belief_state.process().sum(2).T).float()).log()
    x = model.run(tokens, read=[site], logits=None)[site][:, -1]
    change = found.towards(x, given)
    random = torch.randn(change.shape, generator=torch.Generator().manual_seed(0))
    random *= (change.norm(dim=1) / random.norm(dim=1))[:, None]

    def apart(by):
        said = model.run(tokens, edits=[digsite.add(site, by, at=-1)]).logits[:, -1].log_softmax(-1)
        return float((follows.exp() * (follows - said)).sum(-1).mean())

    before, after, control = (apart(by) for by in (torch.zeros_like(change), change, random))
    assert after < 0.06 * before and control > 0.6 * before


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
