"""Tests of many alike, of which a few run by default."""

from collections.abc import Iterable
from typing import Any

import pytest


def slow_but(quick: Iterable[Any], every: Iterable[Any]) -> list[Any]:
    """All values of a parameter; those that are not among `quick` run with `make test-slow` only."""
    quick = list(quick)
    return [value if value in quick else _slow(value) for value in every]


def _slow(value: Any) -> Any:
    """A tuple is a value for each of several parameters."""
    return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow)
