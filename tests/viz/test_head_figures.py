"""Maps of heads outline what is found and carry the null; nothing overlaps."""

import torch
from drawn import collisions, outside, texts

from digsite._core.cost import Cost
from digsite._core.provenance import record
from digsite.heads import HeadCheck, HeadScores, KindScores
from digsite.viz import head_map

MADE = {"provenance": record("digsite.head_scores(model)", model="toy"), "cost": Cost()}
DRAW = torch.Generator().manual_seed(0)


def scored(kind, text, best, threshold: float | None = 0.25, rows=10, random=True):
    values = 0.1 * torch.rand(3, 4, rows, generator=DRAW)
    values[1, 2] += best
    return KindScores(
        kind=kind,
        text=text,
        unit="fraction",
        threshold=threshold,
        values=values,
        null=0.1 * torch.rand(3, 4, 6, generator=DRAW),
        random=0.1 * torch.rand(3, 4, generator=DRAW) if random else torch.zeros(0, 4),
    )


def result(*measured):
    return HeadScores(model="toy", layers=(0, 1, 2), measured=measured, **MADE)


def test_the_kind_that_stands_out_is_drawn_with_its_null():
    found = result(scored("previous token", "random repeats", 0.0), scored("induction", "random repeats", 0.7))
    figure = found.figure()
    assert figure.title == "Attention to what followed the token before, on random repeats"
    assert any("null of all" in text for text in texts(figure)) and "found" in texts(figure)
    assert "shuffled weights at most" in figure.caption
    assert not collisions(figure) and not outside(figure)


def test_every_kind_has_its_map():
    kinds = (scored("copying", "weights", 0.9, 0.8, rows=1), scored("entropy", "random repeats", 0.5, None))
    found = result(*kinds, scored("answer → subject", "agreement", 0.6, random=False))
    for one in found.measured:
        figure = head_map(found, one.kind)
        assert not collisions(figure) and not outside(figure)
        assert figure.data.height == 12
    assert "by weights" in head_map(found, "copying").title
    assert not any("null" in text for text in texts(head_map(found, "entropy")))


def test_a_check_stands_against_other_heads():
    losses = torch.rand(20, generator=DRAW)
    check = HeadCheck(
        model="toy", heads=((1, 2), (2, 0)), losses=losses, without=losses + 2, drawn=(((0, 0), (0, 1)),) * 8,
        others=losses + 0.3 * torch.rand(8, 20, generator=DRAW), **MADE,
    )  # fmt: skip
    figure = check.figure()
    assert any("without 1.2, 2.0" in text for text in texts(figure))
    assert not collisions(figure) and not outside(figure)
    assert "more than without 2 other heads" in check.verdict
