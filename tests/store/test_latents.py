"""Rows taken from latents."""

import pytest
import torch

from digsite.store import Latents


@pytest.mark.parametrize("rows", [slice(1, 3), slice(None), slice(2, 2), slice(3, 1), slice(-2, None), slice(0, 4, 2)])
def test_a_slice_of_rows_is_those_rows(rows):
    latents = Latents(torch.arange(1.0, 7.0), torch.tensor([4, 0, 1, 3, 0, 2]), 5, torch.tensor([0, 2, 2, 5, 6]))
    taken = latents.take(rows)
    assert torch.equal(taken.dense(), latents.dense()[rows])
    assert taken.bounds[0] == 0 and len(taken) == len(latents.dense()[rows])
