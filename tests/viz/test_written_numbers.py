"""Numbers are written as a reader wants them, and a missing one says so."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from digsite.viz.numbers import digits_for, number, span


@pytest.mark.parametrize(
    ("value", "unit", "written"),
    [
        (0.56, "logits", "0.56"),
        (4.1, "logits", "4.10"),
        (41.23, "logits", "41.2"),
        (1240.0, "", "1,240"),
        (-0.0042, "nats", "−0.0042"),
        (0.91, "fraction", "91 %"),
        (0.985, "fraction", "98 %"),
        (0.996, "share", "99.6 %"),
        (1.0, "share", "100 %"),
        (1.104, "share", "110 %"),
        (0.031, "fraction", "3.1 %"),
        (0.0, "fraction", "0 %"),
        (float("nan"), "fraction", "no value"),
        (float("inf"), "logits", "no value"),
        (None, "logits", "no value"),
    ],
)
def test_a_number_has_the_digits_it_deserves(value, unit, written):
    assert number(value, unit=unit) == written


def test_signs_are_true_ones_and_zero_has_none():
    assert number(0.5, 2, signed=True) == "+0.50"
    assert number(-0.5, 2, signed=True) == "−0.50"
    assert number(-0.001, 2, signed=True) == "0.00"


def test_an_interval_cannot_be_read_as_a_minus():
    assert span(2.18, 2.44) == "2.18 – 2.44"
    assert span(-0.04, 0.11) == "−0.04 to 0.11"
    assert span(0.88, 0.93, unit="fraction") == "88 – 93 %"
    assert span(0.054, 0.142, unit="share") == "5 – 14 %", "both ends have the same decimals"
    assert span(float("nan"), 1.0) == span(None, 1.0) == "no value"


@given(st.floats(1e-7, 1e7))
def test_two_values_a_tenth_apart_are_told_apart(value):
    digits = digits_for(value)
    assert number(value, digits) != number(1.1 * value, digits)
    assert number(math.copysign(value, -1), digits) == "−" + number(value, digits)
