"""Othello: a board planted in a stream is read and turned, errors are counted, and a random network is refused."""

import numpy as np
import pytest
import torch

import digsite
from digsite._core.errors import ContractBroken
from digsite.toys.trained.othello_board import LENGTH, OPENING, PASS, SQUARES, Games, allowed_moves, bits, play
from digsite.toys.trained.othello_mini import (
    EMPTY,
    MINE,
    ROWS,
    SITE,
    THEIRS,
    TOY,
    boards,
    errors,
    fit,
    is_legal,
    judged,
    loss,
    misread,
    other_boards,
    predicted,
    recipe,
    stream,
    turns,
    untrained,
)
from digsite.toys.training import train


@pytest.fixture(scope="module")
def games() -> Games:
    return play(np.random.default_rng(0), 150)


def planted(games: Games) -> torch.Tensor:
    """A stream in which each square has two random directions: one for a disc, one for whose it is; and noise."""
    draw = torch.Generator().manual_seed(0)
    known = boards(games)
    disc, whose = (known != EMPTY).float(), (known == MINE).float() - (known == THEIRS).float()
    directions = torch.linalg.qr(torch.randn(128, 128, generator=draw))[0]
    noise = 0.15 * torch.randn(*known.shape[:2], 128, generator=draw)
    return torch.cat([disc, whose], -1) @ directions[: 2 * SQUARES] + noise + 5.0


def test_a_planted_board_is_read_and_other_boards_are_not(games):
    stream, held_out = planted(games), play(np.random.default_rng(1), 50, held_out=True)
    assert misread(fit(stream, boards(games)), planted(held_out), held_out) < 0.08
    wrong = fit(stream, other_boards(games, seed=0))
    assert misread(wrong, planted(held_out), held_out) > 0.3


def test_turning_a_disc_changes_the_reading_of_that_square_alone(games):
    stream = planted(games)
    probe, at = fit(stream, boards(games)), turns(games, np.random.default_rng(0))
    seen = stream[at.row, at.place]
    before, after = probe.read(seen), probe.read(seen + probe.turned(seen, at.square, at.to))
    rows = torch.arange(len(seen))
    assert (after[rows, at.square] == at.to).float().mean() > 0.97
    assert (after != before).sum(1).float().mean() < 1.3


def test_turns_are_of_discs_that_matter(games):
    at = turns(games, np.random.default_rng(0))
    assert len(at.row) > 100 and bool(judged(games)[at.row, at.place].all())
    known = boards(games)
    for row, place, square, to, before, after in zip(
        at.row, at.place, at.square, at.to, at.before, at.after, strict=True
    ):
        board = known[row, place].clone()
        assert {int(board[square]), int(to)} == {MINE, THEIRS}
        board[square] = to
        legal = allowed_moves(*(bits((board == of).numpy()[None]) for of in (MINE, THEIRS)))[0, :PASS]
        assert (legal == after.numpy()).all() and legal.any()
        assert (before.numpy() == games.legal[row, place, :PASS]).all() and (before != after).any()


def test_errors_are_what_a_loop_counts():
    draw = torch.Generator().manual_seed(0)
    logits, legal = torch.randn(40, SQUARES + 1, generator=draw), torch.rand(40, SQUARES, generator=draw) < 0.2
    logits[:, PASS] = 100.0  # the pass is no square
    counted = []
    for said, may in zip(logits.tolist(), legal.tolist(), strict=True):
        likeliest = sorted(range(SQUARES), key=lambda square: -said[square])[: sum(may)]
        counted.append(sum((square in likeliest) != may[square] for square in range(SQUARES)))
    assert errors(logits, legal).tolist() == counted
    assert errors(legal.float() @ torch.eye(SQUARES, SQUARES + 1), legal).sum() == 0


def test_a_change_reaches_only_its_place(games):
    model = digsite.load(untrained().eval(), verify=False)
    at = turns(games, np.random.default_rng(0))
    nothing = torch.zeros(len(at.row), model.d_model)
    torch.testing.assert_close(predicted(model, games, at, nothing), predicted(model, games, at))
    tokens, change = model.tokens(torch.from_numpy(games.moves)[at.row]), torch.ones_like(nothing)
    logits = predicted(model, games, at, change)
    rows = torch.arange(len(at.row))
    by_hand = model.run(tokens, read=[SITE])[SITE].clone()
    by_hand[rows, at.place] += change
    expected = model.run(tokens, edits=[digsite.replace(SITE, by_hand)]).logits[rows, at.place]
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_places_are_judged_after_the_opening_where_a_square_may_be_played_on(games):
    asked = judged(games)
    assert not asked[:, : OPENING - 1].any() and bool(asked[:, OPENING - 1 : 15].float().mean() > 0.9)
    assert (asked[:, OPENING - 1 :].numpy() == games.legal[:, OPENING - 1 :, :PASS].any(-1)).all()


def test_the_loss_is_zero_for_the_random_players_own_choice():
    games = play(np.random.default_rng([0, 5]), ROWS)
    said = torch.from_numpy(games.legal).double().clamp_min(1e-30).log()

    class Knows(torch.nn.Module):
        def forward(self, input_ids):
            assert torch.equal(input_ids, torch.from_numpy(games.moves)) and input_ids.shape == (ROWS, LENGTH)
            return type("Output", (), {"logits": said})

    assert abs(float(loss(Knows(), 5, seed=0))) < 1e-9
    assert loss(untrained(), 5, seed=0).item() > 1.0


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights(tmp_path):
    first, again = (train(recipe(0, 3), tmp_path / name).network.state_dict() for name in ("first", "again"))
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.slow
def test_a_network_that_was_not_trained_is_refused(tmp_path):
    with pytest.raises(ContractBroken, match="most likely move is legal: 0") as refused:
        TOY.make(tmp_path / "toy", steps=2)
    assert "squares read from the stream: 0" in str(refused.value)


@pytest.mark.slow
def test_a_short_training_keeps_a_board_that_it_uses(tmp_path):
    """800 steps of 6000: the board is read, and a disc that is turned in the stream turns the moves as the rules do."""
    network = train(recipe(0, 800), tmp_path / "state").network
    with torch.random.fork_rng():
        torch.manual_seed(1)
        fresh = digsite.load(untrained().eval(), verify=False)
    model = digsite.load(network, verify=False)
    fitted, held_out = play(np.random.default_rng(5), 300), play(np.random.default_rng(6), 300, held_out=True)
    assert float(is_legal(model, held_out)[judged(held_out)].float().mean()) > 0.9
    seen, known = stream(model, held_out), boards(fitted)
    probe = fit(stream(model, fitted), known)
    read = misread(probe, seen, held_out)
    assert read < 0.18
    assert read < 0.45 * misread(fit(stream(fresh, fitted), known), stream(fresh, held_out), held_out)
    assert read < 0.45 * misread(fit(stream(model, fitted), other_boards(fitted, seed=0)), seen, held_out)

    at = turns(held_out, np.random.default_rng(0))
    turned = probe.turned(seen[at.row, at.place], at.square, at.to)
    random = torch.randn(turned.shape, generator=torch.Generator().manual_seed(0))
    random *= (turned.norm(dim=1) / random.norm(dim=1))[:, None]
    said = [predicted(model, held_out, at, change) for change in (None, turned, random)]
    before, after, control = (float(errors(logits, at.after).mean()) for logits in said)
    assert after < 0.95 * before and control > before
    for legal_now, more in ((at.after & ~at.before, True), (at.before & ~at.after, False)):
        before, after, control = (float((one.softmax(-1)[:, :SQUARES] * legal_now).sum(1).mean()) for one in said)
        assert after > 1.4 * before if more else after < 0.65 * before
        assert abs(control - before) < 0.25 * abs(after - before)
