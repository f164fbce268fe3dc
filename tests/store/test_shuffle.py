"""Each row of an epoch is served exactly once, and a stopped order goes on as if it had not been stopped."""

# Rows here have ids, numbers and places.
# pyright: reportArgumentType=false, reportOptionalMemberAccess=false, reportOptionalSubscript=false

import json
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sources import held

from digsite._core.errors import BadInput
from digsite.store import Shuffled, harvest
from digsite.store.shuffle import Reservoir


def numbers(order):
    return [batch.numbers.tolist() for batch in order]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 120),
    batch=st.integers(1, 40),
    more=st.integers(0, 90),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 5),
    chunk=st.integers(1, 50),
)
def test_each_row_of_an_epoch_is_served_exactly_once(rows, batch, more, epochs, seed, chunk):
    source = held(rows, a=2)
    source.chunk = chunk
    order = Shuffled(source, batch=batch, buffer=batch + more, seed=seed, epochs=epochs)
    served = 0
    seen = []
    for some in order:
        served += some.count
        assert order.served == served
        assert torch.equal(some["a"], source.columns["a"][some.numbers])
        assert torch.equal(some.ids, source.ids[some.numbers])
        seen.append(some.numbers.tolist())
    assert served == rows * epochs
    flat = [number for some in seen for number in some]
    for epoch in range(epochs):
        assert sorted(flat[epoch * rows : (epoch + 1) * rows]) == list(range(rows))
    assert all(len(some) == batch or sum(map(len, seen[: i + 1])) % rows == 0 for i, some in enumerate(seen))


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(rows=st.integers(5, 90), batch=st.integers(1, 9), more=st.integers(0, 40), stop=st.integers(0, 60))
def test_resuming_at_any_step_gives_what_would_have_followed(rows, batch, more, stop):
    def fresh():
        return Shuffled(held(rows, a=2), batch=batch, buffer=batch + more, seed=3, epochs=2)

    order = fresh()
    everything = list(order)
    stop = stop % (len(everything) + 1)
    first = fresh()
    walk = iter(first)
    for _ in range(stop):
        next(walk)
    state = json.loads(json.dumps(first.state()))
    rest = list(fresh().resume(state))
    assert len(rest) == len(everything) - stop
    for one, other in zip(rest, everything[stop:], strict=True):
        assert torch.equal(one["a"], other["a"]) and torch.equal(one.numbers, other.numbers)
        assert torch.equal(one.ids, other.ids) and torch.equal(one.places, other.places)


def test_a_store_comes_in_shards_of_another_order_each_epoch_and_resumes_exactly(tmp_path):
    store = harvest(held(60, a=3), tmp_path / "s", shard_rows=10, encoding="fp32")
    order = Shuffled(store, batch=4, buffer=8, epochs=2)
    everything = list(order)
    starts = [int(batch.numbers[0]) // 10 for batch in everything]
    assert starts[:15] != sorted(starts[:15]) and starts[:15] != starts[15:]
    for stop in (1, 6, 14, 15, 16, 29):
        rest = list(
            Shuffled(store, batch=4, buffer=8, epochs=2).resume(
                {**order.state(), "epoch": stop // 15, "step": stop % 15}
            )
        )
        assert all(torch.equal(one["a"], other["a"]) for one, other in zip(rest, everything[stop:], strict=True))


def test_what_was_not_asked_for_is_not_read_again():
    source = held(1000, a=2)
    order = Shuffled(source, batch=10, buffer=50)
    state = {**order.state(), "step": 60}
    source.given = 0
    list(order.resume(state))
    assert source.given <= 1000 - 600  # the rows before come from rows_at alone, and only the buffer's


def test_rows_are_mixed_over_about_the_buffer():
    order = Reservoir([(0, 10_000)], 50, 1000, np.random.default_rng(0))
    moves = iter(order.step, None)
    served = np.concatenate([move.numbers for move in moves])
    moved = np.abs(np.arange(10_000) - served)
    assert 500 < moved.mean() < 1500 and moved.max() > 2000
    assert np.corrcoef(served[:-1], served[1:])[0, 1] < 0.95 and (np.diff(served) == 1).mean() < 0.01


def test_the_state_is_of_one_size_and_belongs_to_its_order():
    small, large = (Shuffled(held(500, a=2), batch=5, buffer=size) for size in (5, 400))
    assert len(json.dumps(large.state())) < len(json.dumps(small.state())) + 10
    assert sys.getsizeof(json.dumps(large.state())) < 200
    with pytest.raises(BadInput) as caught:
        large.resume(small.state())
    assert "This order cannot go on from that state.\nFound: buffer 5 in the state, 400 here." in str(caught.value)


def test_bad_sizes_are_refused():
    with pytest.raises(BadInput) as caught:
        Shuffled(held(), batch=64, buffer=32)
    assert str(caught.value).startswith(
        "A buffer is at least as large as a batch.\nFound: buffer 32, batch 64.\nDo: buffer=1024 mixes rows well."
    )
    with pytest.raises(BadInput, match="batch=0 and epochs=1 serve nothing"):
        Shuffled(held(), batch=0)
