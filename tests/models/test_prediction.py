"""Loss and KL of a text are what their formulas say, over real tokens alone."""

import math

import torch

from digsite.models.prediction import cross_entropy, divergence, predicted
from digsite.models.tokens import grid


def test_even_logits_cost_the_logarithm_of_the_vocabulary():
    tokens = grid([[1, 2, 3, 4], [5, 6]], padding="left")
    said = predicted(torch.zeros(2, 4, 9))
    torch.testing.assert_close(cross_entropy(said, tokens), torch.full((2,), math.log(9)))
    torch.testing.assert_close(divergence(said, said, tokens), torch.zeros(2))


def test_padding_counts_for_nothing():
    logits = torch.randn(1, 3, 9, generator=torch.Generator().manual_seed(0))
    other = torch.randn(1, 3, 9, generator=torch.Generator().manual_seed(1))
    alone, padded = grid([[1, 2, 3]]), grid([[1, 2, 3], [4, 5, 6, 7, 8]])[torch.tensor([0, 1])]
    wide = [torch.cat([x, torch.full((1, 2, 9), 50.0)], 1).repeat(2, 1, 1) for x in (logits, other)]
    own, said = predicted(logits), predicted(other)
    torch.testing.assert_close(cross_entropy(predicted(wide[1]), padded)[0], cross_entropy(said, alone)[0])
    torch.testing.assert_close(
        divergence(predicted(wide[0]), predicted(wide[1]), padded)[0], divergence(own, said, alone)[0]
    )
    p, q = logits[0, :2].softmax(-1), other[0, :2].softmax(-1)
    torch.testing.assert_close(divergence(own, said, alone)[0], (p * (p / q).log()).sum(1).mean())
