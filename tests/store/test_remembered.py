"""A source kept in memory gives what the source gives, and is read once."""

# Rows here have ids and numbers.
# pyright: reportArgumentType=false

import torch

from digsite.store import Held, Remembered, Shuffled


def source():
    torch.manual_seed(0)
    return Held({"a": torch.randn(50, 4), "b": torch.randn(50, 6)}, ids=torch.arange(50) % 7)


def test_rows_and_facts_are_those_of_the_source():
    there = source()
    kept = Remembered(there)
    assert (kept.rows, kept.widths, kept.identity) == (there.rows, there.widths, there.identity)
    for start in (0, 13):
        got = torch.cat([rows["b"] for rows in kept.chunks(start)])
        assert torch.equal(got, there.held["b"][start:])
    chosen = torch.tensor([7, 3, 49])
    assert torch.equal(kept.rows_at(chosen)["a"], there.held["a"][chosen])
    assert torch.equal(kept.rows_at(chosen).ids, chosen % 7)
    assert kept.statistics("a").rms == there.statistics("a").rms


def test_it_is_read_once_however_often_it_serves(monkeypatch):
    reads = []
    chunks = Held.chunks
    monkeypatch.setattr(Held, "chunks", lambda self, start=0: reads.append(start) or chunks(self, start))
    order = Shuffled(Remembered(source()), batch=8, buffer=16, epochs=3)
    numbers = torch.cat([rows.numbers for rows in order])
    assert reads == [0]
    for epoch in numbers.split(50):
        assert torch.equal(epoch.sort().values, torch.arange(50))
