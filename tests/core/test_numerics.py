import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from digsite._core.errors import BadInput, NotFinite
from digsite._core.numerics import bootstrap_interval, ratio_interval, require_finite, wilson_interval


def test_the_interval_of_a_mean_is_the_one_of_theory():
    values = torch.randn(400, 3, generator=torch.Generator().manual_seed(0)) * 2 + 5
    low, high = bootstrap_interval(values, resamples=4000)
    error = values.std(dim=0) / math.sqrt(400)
    assert torch.allclose(low, values.mean(dim=0) - 1.96 * error, atol=0.02)
    assert torch.allclose(high, values.mean(dim=0) + 1.96 * error, atol=0.02)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    values = torch.randn(50, 2000, generator=torch.Generator().manual_seed(1))
    low, high = bootstrap_interval(values, level=0.9, resamples=500)
    held = ((low < 0) & (high > 0)).float().mean()
    assert 0.86 < held < 0.92


@settings(deadline=None, max_examples=25)
@given(st.floats(-1e6, 1e6, width=32), st.integers(2, 9), st.integers(0, 3))
def test_constant_data_gives_a_point(value, examples, cells):
    low, high = bootstrap_interval(torch.full((examples, cells), value), resamples=50)
    assert low.shape == high.shape == (cells,)
    assert torch.allclose(low, torch.full((cells,), value)) and torch.equal(low, high)


def test_the_same_seed_gives_the_same_interval_and_shapes_are_kept():
    values = torch.rand(20, 3, 4, dtype=torch.float64)
    one, two, other = (bootstrap_interval(values, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1]) and not torch.equal(one[0], other[0])
    assert one[0].shape == (3, 4) and one[0].dtype == torch.float64 and (one[0] < one[1]).all()
    scalar, _ = bootstrap_interval(values[:, 0, 0])
    assert scalar.shape == () and torch.allclose(scalar, one[0][0, 0], atol=1e-12)


def test_another_statistic():
    values = torch.tensor([0.0] * 30 + [1.0] * 10 + [1000.0])
    low, high = bootstrap_interval(values, statistic=np.median)
    assert 0 <= low <= high <= 1


def test_one_example_and_cells_that_are_not_finite_have_no_interval():
    low, high = bootstrap_interval(torch.tensor([[1.0, 2.0]]))
    assert low.isnan().all() and high.isnan().all()
    values = torch.rand(8, 3)
    values[2, 1] = math.inf
    low, high = bootstrap_interval(values)
    assert low.isnan().tolist() == high.isnan().tolist() == [False, True, False]


def test_no_example_is_an_error():
    with pytest.raises(BadInput, match=r"needs an example and a level\.\nFound: 0 examples, level 0\.95"):
        bootstrap_interval(torch.zeros(0, 2))
    with pytest.raises(BadInput, match=r"level 95\.0"):
        bootstrap_interval(torch.zeros(3), level=95.0)


def test_the_interval_of_a_proportion():
    # Wilson's formula written out for 8 of 10 at 95 %
    z, n, p = 1.959964, 10, 0.8
    middle, half = (p + z * z / (2 * n)), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = [(middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)]
    assert wilson_interval(8, 10) == pytest.approx(expected, abs=1e-6)
    assert wilson_interval(0, 10)[0] == 0 < wilson_interval(0, 10)[1]
    with pytest.raises(BadInput, match="3 of 2"):
        wilson_interval(3, 2)


def test_numbers_that_are_not_finite_are_named_and_placed():
    tensor = torch.zeros(2, 3)
    assert require_finite("scores", tensor) is tensor
    tensor[1, 2] = math.nan
    with pytest.raises(
        NotFinite, match=r"scores must be finite\.\nFound: 1 of 6 .* nan at \[1, 2\] of \[2, 3\]"
    ) as caught:
        require_finite("scores", tensor)
    assert isinstance(caught.value, ArithmeticError)
    with pytest.raises(NotFinite, match=r"the first is inf at \[\]"):
        require_finite("loss", torch.tensor(math.inf))


def test_the_interval_of_a_ratio_draws_both_sums_together():
    below = torch.rand(60, generator=torch.Generator().manual_seed(0)) + 1
    low, high = ratio_interval(0.5 * below, below)
    assert float(low) == pytest.approx(0.5) and float(high) == pytest.approx(0.5)  # a ratio that every example has
    above = torch.stack([below * (1 + 0.2 * torch.randn(60, generator=torch.Generator().manual_seed(1))), below])
    lows, highs = ratio_interval(above, below)
    assert lows[0] < above[0].sum() / below.sum() < highs[0] and float(lows[1]) == pytest.approx(1)
    assert torch.isnan(torch.stack(ratio_interval(below[:1], below[:1]))).all()
