"""The tail model against distributions whose tail is known, and against formulas written out."""

import math

import numpy as np
import pytest
from scipy.stats import genpareto

from digsite._core.errors import BadInput
from digsite.directions.probes.tails import (
    anderson_darling,
    chosen,
    goodness,
    level_of_one_cluster_in,
    pareto_fit,
    peaks,
    reached,
    thresholds,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def drawn(shape, size, scale=1.0, seed=0):
    return np.asarray(genpareto.isf(rng(seed).random(size), shape, scale=scale))


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.3, 0.8])
def test_the_fit_finds_shape_and_scale(shape):
    xi, sigma = pareto_fit(drawn(shape, (100, 400), scale=2.0))
    assert xi.mean() == pytest.approx(shape, abs=0.02) and sigma.mean() == pytest.approx(2, abs=0.06)
    assert xi.std() == pytest.approx((1 + shape) / 20, rel=0.4), "about as sure as maximum likelihood is"


def test_the_fit_is_as_likely_as_that_of_scipy():
    x = drawn(0.2, 500, scale=3.0)
    xi, sigma = pareto_fit(x)
    best, _, scale = genpareto.fit(x, floc=0)
    likely = genpareto.logpdf(x, xi, scale=sigma).sum()
    assert likely == pytest.approx(genpareto.logpdf(x, best, scale=scale).sum(), abs=0.3)
    scaled = pareto_fit(10 * x)
    assert scaled[0] == pytest.approx(float(xi)) and scaled[1] == pytest.approx(10 * float(sigma))


def test_anderson_darling_is_its_formula():
    x = np.sort(rng().exponential(size=20))
    z = [1 - math.exp(-value) for value in x]
    total = sum((2 * i - 1) * (math.log(z[i - 1]) + math.log(1 - z[20 - i])) for i in range(1, 21))
    assert anderson_darling(x[::-1], np.array(0.0), np.array(1.0)) == pytest.approx(-20 - total / 20)


def test_p_values_refuse_what_is_no_such_tail_and_seldom_what_is():
    true = [goodness(drawn(0.2, 100, seed=s), draws=40, seed=s)[0] for s in range(30)]
    assert np.mean(np.array(true) < 0.1) <= 0.25 and np.mean(true) == pytest.approx(0.5, abs=0.15)
    steps = np.ceil(rng().exponential(size=200))
    assert goodness(steps, draws=60, seed=0)[0] < 0.05


def test_peaks_are_the_largest_of_each_cluster():
    row = np.array([0, 5, 7, 0, 6, 0, 0, 9, 0, 0, 0, 3.0])
    assert peaks([row, np.zeros(3), np.array([4.0])], 2, gap=2)[0].tolist() == [7, 9, 3]
    assert peaks([row], 2, gap=1)[0].tolist() == [7, 6, 9, 3]
    assert [len(one) for one in peaks([row, np.zeros(3), np.array([4.0])], 2, gap=2)] == [3, 0, 1]


def test_clusters_are_those_of_a_walk_through_the_row():
    row = rng(3).normal(size=400)
    clusters, since = [], None
    for value in row:
        if value > 1:
            if since is None or since >= 2:
                clusters.append(value)
            clusters[-1] = max(clusters[-1], value)
            since = 0
        elif since is not None:
            since += 1
    np.testing.assert_array_equal(peaks([row], 1.0, gap=2)[0], clusters)


@pytest.mark.parametrize(("name", "shape", "within"), [("heavy", 1 / 3, 0.2), ("exponential", 0.0, 0.15)])
def test_the_shape_of_a_stream_is_found(name, shape, within):
    rows = list(rng(1).standard_t(3, (150, 60)) if name == "heavy" else rng(1).exponential(size=(150, 60)))
    several = thresholds(rows, draws=60, seed=0)
    at = chosen(several)
    assert at is not None and several[at].shape == pytest.approx(shape, abs=within)
    assert [one.peaks for one in several] == sorted((one.peaks for one in several), reverse=True)


def test_a_mixture_has_no_tail():
    mixed = [
        np.where(rng(s).random(60) < 0.01, 10 + 0.01 * rng(s).normal(size=60), rng(s).normal(size=60))
        for s in range(150)
    ]
    assert chosen(thresholds(mixed, draws=60, seed=0)) is None


def test_the_probability_of_a_level_is_that_of_independent_tokens():
    exact = 1 - (1 - math.exp(-9)) ** 500
    found = reached(9.0, 500, threshold=2.0, rate=math.exp(-2), tail=(1e-9, 1.0))
    assert float(found) == pytest.approx(exact, rel=1e-3)


def test_too_few_clusters_say_how_many_are_needed():
    with pytest.raises(BadInput, match=r"(?s)30 clusters.*\d+ at most, in 40 readings of 4 sequences"):
        thresholds([rng(s).normal(size=10) for s in range(4)], draws=10, seed=0)


def test_the_level_of_an_alarm_is_that_of_the_clusters_that_were_seen():
    rows = list(rng().normal(size=(20, 50)))
    level = level_of_one_cluster_in(rows, 100)
    assert sum(map(len, peaks(rows, level))) <= 10 < sum(map(len, peaks(rows, level - 0.05)))
