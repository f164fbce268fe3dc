"""Patchscopes stand against their controls, and what is written against chance; nothing overlaps."""

import pytest
import torch
from drawn import collisions, outside, texts

from digsite._core.cost import Cost
from digsite._core.provenance import record
from digsite.lenses import Patchscope, WrittenTokens

MADE = {"provenance": record("digsite.some_method(model)", model="toy"), "cost": Cost()}
DRAW = torch.Generator().manual_seed(0)


@pytest.mark.parametrize("scales", [(1.0,), (0.25, 0.5, 1.0, 2.0)])
def test_a_patchscope_stands_against_every_control(scales):
    size = (10, len(scales))
    scope = Patchscope(
        site="layers.0.resid_pre", prompt=("<bos>", " The", " x", " is"), places=(2,), scales=scales, asked=True,
        said=torch.zeros(size, dtype=torch.long), prob=0.6 + 0.3 * torch.rand(size, generator=DRAW),
        controls=("random", "empty", "mean", "nothing put in"), control=0.2 * torch.rand(4, *size, generator=DRAW),
        moved=torch.ones(size), likely=torch.zeros(*size, 3, dtype=torch.long), likely_prob=torch.ones(*size, 3) / 3,
        texts=(), words={"0": " cat"}, **MADE,
    )  # fmt: skip
    figure = scope.figure()
    assert {"the vectors", "random", "empty", "mean", "nothing put in"} <= set(texts(figure))
    assert "[x]" in figure.caption and not collisions(figure) and not outside(figure)


def test_what_is_written_stands_against_random_directions():
    raised = torch.arange(8).flip(0)[None, :, None] / 4 + 0.1 * torch.rand(1, 8, 10, generator=DRAW)
    lens = WrittenTokens(
        parts=("layers.2.attn.result[1]",), raised=torch.arange(8)[None], raised_by=raised,
        lowered=torch.arange(8, 16)[None], lowered_by=-raised, norm=torch.ones(1, 10), null=0.5 * torch.ones(1, 4),
        towards=torch.zeros(0, 10), words={str(at): f" word{at}" for at in range(16)}, **MADE,
    )  # fmt: skip
    figure = lens.figure()
    assert any("random direction" in text for text in texts(figure)) and "·word15" in texts(figure)
    assert not collisions(figure) and not outside(figure)
