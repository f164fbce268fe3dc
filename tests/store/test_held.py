"""Activations in memory are a source like any other."""

import torch

from digsite.store import Held, Shuffled

X = torch.randn(5000, 3, generator=torch.Generator().manual_seed(0))


def test_rows_come_in_order_from_anywhere():
    source = Held({"x": X}, ids=torch.arange(5000) % 7)
    assert (source.rows, dict(source.widths)) == (5000, {"x": 3})
    for start in (0, 4096, 4100):
        parts = list(source.chunks(start))
        assert torch.equal(torch.cat([part["x"] for part in parts]), X[start:])
        numbers = torch.cat([part.numbers for part in parts if part.numbers is not None])
        assert torch.equal(source.rows_at(numbers)["x"], X[start:])
        assert torch.equal(source.rows_at(numbers).ids, numbers % 7)  # type: ignore[arg-type]


def test_statistics_and_identity_are_of_the_numbers():
    source = Held({"x": X})
    known = source.statistics("x")
    torch.testing.assert_close(known.mean, X.mean(0))
    torch.testing.assert_close(known.square, X.square().mean(0))
    assert source.identity == Held({"x": X.clone()}).identity != Held({"x": X + 1}).identity


def test_each_row_is_served_once():
    served = torch.cat([rows["x"] for rows in Shuffled(Held({"x": X}), batch=64, buffer=500)])
    assert not torch.equal(served, X) and torch.equal(served.sort(dim=0).values, X.sort(dim=0).values)
