"""A stream is read where it was written, and what is said of more text holds on text that was held out."""

from typing import Any

import numpy as np
import pytest
import torch

import digsite
from digsite._core.cost import Cost
from digsite._core.errors import BadInput, NotFinite, ShapeMismatch
from digsite._core.provenance import record
from digsite.directions import Direction
from digsite.directions.probes import Alarm, StreamMonitor, monitor
from digsite.directions.probes.streams import readings_of_generation, readings_of_text
from digsite.directions.probes.tails import tail_of
from digsite.models import Sampling
from digsite.tasks import Corpus

SITE = "layers.1.resid_post"


@pytest.fixture(scope="module")
def model():
    return digsite.load("digsite/tinyworld", verify=False)


@pytest.fixture(scope="module")
def direction(model):
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))
    made = record("drawn", weights=model.fingerprint)
    return Direction(site=digsite.Site.parse(SITE), vector=vector, bias=0.5, how="drawn", provenance=made)


def synthetic(rows, direction, seed=0):
    """A monitor of readings that no model made."""
    readings, fitted = np.stack(rows), np.arange(len(rows)) % 2 == 0
    found = tail_of(rows, np.arange(len(rows)), fitted, draws=60, seed=seed)
    return StreamMonitor(
        direction=direction,
        readings=torch.from_numpy(readings),
        groups=torch.arange(len(rows)),
        fitted=torch.from_numpy(fitted),
        tried=found.tried,
        choice=found.choice,
        shapes=torch.from_numpy(found.shapes),
        scales=torch.from_numpy(found.scales),
        rates=torch.from_numpy(found.rates),
        provenance=record("synthetic"),
        cost=Cost(),
    )


# -- where it is read ------------------------------------------------------------------------------------------------
def test_readings_are_those_of_each_row_alone_whatever_the_padding_and_the_cache(model, direction):
    prompts = model.tokens(["Mary gave the book to John", "Where is the key", "One day, Lily"])
    rows, groups = readings_of_generation(model, direction, prompts, 8, Sampling(seed=1), 1)
    made = model.generate(prompts, max_new_tokens=8, sample=Sampling(seed=1))
    assert groups.tolist() == [0, 1, 2]
    for row, reading in enumerate(rows):
        whole = made.tokens.ids[row][made.tokens.mask[row]][None]
        start = prompts.lengths[row]
        alone = direction.read(model.run(whole, read=[SITE], logits=None))[0, start : whole.shape[1] - 1]
        assert len(reading) == len(made.generated[row]) - (len(made.generated[row]) == 8)
        np.testing.assert_allclose(reading[: len(alone)], alone.numpy(), atol=2e-4)


def test_text_is_read_at_every_token_but_the_bos(model, direction):
    texts = ["Mary gave the book to John", "Where is the key"]
    rows, _ = readings_of_text(model, direction, Corpus.of(texts, model, length=20, packed=False))
    for text, reading in zip(texts, rows, strict=True):
        alone = direction.read(model.run(model.tokens([text]), read=[SITE], logits=None))[0, 1:]
        np.testing.assert_allclose(reading, alone.numpy(), atol=1e-4)


def test_an_alarm_sees_token_by_token_what_the_monitor_sees_at_once(model, direction):
    prompts = model.tokens(["Mary gave the book to John", "Where is the key"])
    made = model.generate(prompts, max_new_tokens=8, read=[SITE], stop_at=None)
    x = made[SITE][:, made.prompt.ids.shape[1] :]
    scores = direction.read(x)
    level = float(scores.quantile(0.7))
    alarm = Alarm(direction, level)
    fired = torch.stack([alarm.see(x[:, step]) for step in range(x.shape[1])], 1)
    assert torch.equal(fired, scores > level) and alarm.tokens == x.shape[1]
    for row, first in enumerate(alarm.first):
        assert first == (int(fired[row].int().argmax()) if fired[row].any() else None)


# -- what is said of more --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["heavy", "exponential", "short"])
def test_held_out_sequences_exceed_levels_as_often_as_predicted(kind, direction):
    draws = np.random.default_rng(5)
    size = (400, 60)
    rows = {
        "heavy": lambda: draws.standard_t(3, size),
        "exponential": lambda: draws.exponential(size=size),
        "short": lambda: draws.beta(1, 3, size),
    }[kind]()
    found = synthetic(list(rows), direction)
    check = found.check()
    assert check["within"].all(), check
    assert "as often as predicted" in found.verdict
    level, truth = float(check["level"][3]), 1 - (1 - _above(kind, float(check["level"][3]))) ** 1000
    known, low, high = found.probability(level, 1000)
    assert low <= truth <= high and low <= known <= high


def _above(kind, level):
    from scipy.stats import beta, expon, t

    return {"heavy": t(3), "exponential": expon(), "short": beta(1, 3)}[kind].sf(level)


def test_a_normal_tail_underrates_a_heavy_one(direction):
    check = synthetic(list(np.random.default_rng(0).standard_t(3, (400, 60))), direction).check()
    assert check["normal"][-1] < 0.1 * check["predicted"][-1] and check["within"].all()


def test_return_levels_are_reached_once_on_average(direction):
    found = synthetic(list(np.random.default_rng(0).exponential(size=(200, 60))), direction)
    level, low, high = found.return_level(5000)
    assert found.probability(level, 5000)[0] == pytest.approx(1 - np.exp(-1), abs=1e-9)
    assert low < level < high and low < np.log(5000) < high


def test_a_mixture_is_said_and_nothing_is_extrapolated(direction):
    draws = np.random.default_rng(1)
    rows = np.where(
        draws.random((200, 60)) < 0.01, 10 + 0.01 * draws.normal(size=(200, 60)), draws.normal(size=(200, 60))
    )
    found = synthetic(list(rows), direction)
    assert found.choice is None and "no tail fits" in found.verdict
    for ask in (lambda: found.probability(11.0, 100), lambda: found.return_level(1e6), found.check):
        with pytest.raises(BadInput, match="because no tail fits"):
            ask()
    with pytest.raises(BadInput, match=r"no tail fits, 6,000 tokens read"):
        found.alarm(100_000)
    assert 9 < found.alarm(1000).level < 11, "what was seen is enough for that"


def test_an_alarm_is_false_about_as_often_as_it_says(direction):
    found = synthetic(list(np.random.default_rng(2).exponential(size=(400, 60))), direction)
    fresh = np.random.default_rng(3).exponential(size=1_000_000)
    assert (fresh > found.alarm(2000).level).mean() == pytest.approx(1 / 2000, rel=0.4)
    assert (fresh > found.alarm(20).level).mean() == pytest.approx(1 / 20, rel=0.3)


def test_one_monitor_from_end_to_end(model, direction, tmp_path):
    prompts = model.tokens(["When Mary and John went to the park,"] * 4 + ["One day,"] * 4 + ["The"] * 4)
    found = monitor(model, direction, prompts, new=20, sample=Sampling(temperature=3.0), times=8, draws=20)
    assert len(found.readings) == 96 and found.fitted.sum() == 48
    groups = [set(found.groups[side].tolist()) for side in (found.fitted, ~found.fitted)]
    assert not groups[0] & groups[1], "continuations of one prompt lie on one side"
    found.save(tmp_path / "m")
    assert StreamMonitor.load(tmp_path / "m").verdict == found.verdict
    assert found.to_frame()["taken"].sum() == (found.choice is not None)


# -- bad input -------------------------------------------------------------------------------------------------------
def test_what_cannot_be_monitored(model, direction):
    prompts = model.tokens(["Where is the key", "One day,"])
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (prompts, {"times": 2}, "the same each time"),
        (prompts, {"new": 1}, "no token to read"),
        (prompts, {"new": 8}, "four sequences or more"),
        (Corpus.of(["Where is the key"], model, length=8, packed=False), {}, "goes on from prompts"),
        (model.tokens(["Where is the key"] * 6), {"new": 3}, r"30 clusters"),
    ]
    for source, options, told in cases:
        with pytest.raises(BadInput, match=told):
            monitor(model, direction, source, **options)
    found = synthetic(list(np.random.default_rng(0).exponential(size=(200, 60))), direction)
    with pytest.raises(BadInput, match="below its threshold"):
        found.probability(0.0, 10)
    with pytest.raises(BadInput, match="lies below the threshold"):
        found.return_level(1)


def test_an_alarm_refuses_what_it_cannot_read(model, direction):
    alarm = Alarm(direction, 1.0)
    alarm.see(torch.zeros(2, model.d_model))
    with pytest.raises(BadInput, match="3 rows, 2 before"):
        alarm.see(torch.zeros(3, model.d_model))
    with pytest.raises(ShapeMismatch):
        alarm.see(torch.zeros(2, 5))
    with pytest.raises(NotFinite):
        alarm.see(torch.full((2, model.d_model), float("nan")))
