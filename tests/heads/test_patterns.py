"""Which pairs each kind of head looks at: told by hand, the same under padding, and a fair null beside them."""

import pytest
import torch

from digsite.heads.patterns import (
    KINDS,
    attention,
    beside,
    duplicate_token,
    first_token,
    induction,
    labelled,
    previous_token,
    told_apart,
    visible,
    weights,
)
from digsite.models.tokens import grid
from paired import paired_task

ROW = [1, 7, 8, 9, 7, 8, 8]
BY_HAND = {
    "previous token": {(i, i - 1) for i in range(1, 7)},
    "duplicate token": {(4, 1), (5, 2), (6, 2), (6, 5)},
    "induction": {(4, 2), (5, 3), (6, 3)},
    "first token": {(i, 0) for i in range(1, 7)},
}


def pairs_in(found, row=0, start=0):
    return {(dst - start, src - start) for dst, src in found[row].nonzero().tolist()}


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_are_those_told_by_hand(kind):
    assert pairs_in(KINDS[kind](grid([ROW]))) == BY_HAND[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding", ["left", "right"])
def test_padding_changes_no_pair(kind, padding):
    # The pad id is a token of the row, so that a mask which is forgotten shows.
    tokens = grid([ROW, [*ROW, 9, 7, 8]], pad=8, padding=padding)
    assert pairs_in(KINDS[kind](tokens), start=tokens.starts[0]) == BY_HAND[kind]


def test_what_fits_two_kinds_tells_of_neither():
    told = told_apart(grid([ROW]))
    assert pairs_in(told["previous token"]) == BY_HAND["previous token"] - {(1, 0), (6, 5)}
    assert pairs_in(told["duplicate token"]) == BY_HAND["duplicate token"] - {(6, 5)}
    assert torch.stack(list(told.values())).sum(0).max() == 1


def test_even_attention_scores_its_null():
    """The null has as much of what it counts as the pairs: a head that looks everywhere alike is above nothing."""
    tokens = grid([[*ROW, 9, 7, 8, 9, 8, 7]])
    even = torch.ones(1, 1, 13, 13) / 13
    for of in (previous_token, duplicate_token, induction, first_token):
        pairs = of(tokens)
        by_hand = torch.stack([pairs[0, dst].sum() / 13 for dst in range(13) if pairs[0, dst].any()]).mean()
        torch.testing.assert_close(attention(even, weights(pairs))[0, 0], by_hand)
        for by in (-2, -1, 1, 2):
            null = beside(pairs, tokens, by)
            assert not (null[pairs] > 0).any() and not (null[~visible(tokens)] > 0).any()
            if by_count := (null > 0).any(2).sum():
                size = null.sum(2)[0][(null > 0).any(2)[0]] * by_count
                wanted = pairs.sum(2)[0][(null > 0).any(2)[0]]
                torch.testing.assert_close(size, wanted.float())


def test_labelled_pairs_lie_in_their_spans():
    task = paired_task(lengths=(6, 8))
    pairs = labelled(task, "answer", "subject")
    for row, (start, (span, _)) in enumerate(zip(task.clean.starts, task.row_spans("subject").tolist(), strict=True)):
        assert pairs_in(pairs, row) == {(task.clean.ids.shape[1] - 1, start + span)}
