"""Means, components and linear maps that follow from sums are those of the rows."""

import torch

from digsite.dictionaries.moments import Moments


def filled(rows, *, width=12, noise=0.0, seed=0):
    drawn = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, generator=drawn) + 3
    A = torch.randn(5, width, generator=drawn)
    y = x @ A.T + 1 + noise * torch.randn(rows, 5, generator=drawn)
    sums = Moments({"x": width, "y": 5}, ("x", "y"))
    for start in range(0, rows, 7):
        sums.add({"x": x[start : start + 7], "y": y[start : start + 7]})
    return x.double(), y.double(), A.double(), sums


def test_sums_give_means_covariances_and_components():
    x, y, _, sums = filled(50)
    torch.testing.assert_close(sums.mean("y"), y.mean(0))
    both = torch.cat([x, y], 1) - torch.cat([x, y], 1).mean(0)
    torch.testing.assert_close(sums.covariance(["x", "y"], ["y"]), both.T @ both[:, 12:] / 50)
    components = sums.components(["x"], 3)
    _, _, V = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    torch.testing.assert_close((components * V[:3]).sum(1).abs(), torch.ones(3).double())


def test_a_linear_map_is_recovered():
    _, _, A, sums = filled(200)
    torch.testing.assert_close(sums.linear("x", "y"), A, atol=1e-4, rtol=1e-4)


def test_with_few_noisy_rows_the_penalty_helps_on_others():
    x, y, _, sums = filled(20, width=18, noise=8.0)
    other_x, other_y, _, _ = filled(500, width=18, noise=8.0)
    plain = torch.linalg.lstsq(x - x.mean(0), y - y.mean(0)).solution.T

    def error(A):
        return float(((other_y - y.mean(0) - (other_x - x.mean(0)) @ A.T) ** 2).mean())

    assert error(sums.linear("x", "y")) < 0.5 * error(plain)


def test_more_coordinates_than_rows_and_a_constant_coordinate_are_no_error():
    _, _, _, sums = filled(6, width=30)
    assert torch.isfinite(sums.linear("x", "y")).all()
    still = Moments({"x": 2, "y": 1}, ("x", "y"))
    still.add({"x": torch.ones(9, 2), "y": torch.arange(9.0)[:, None]})
    assert not still.linear("x", "y").any()
