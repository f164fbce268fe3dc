"""What a figure is told about a number: its interval, and the range of its control."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        name: What it is.
        value: The number.
        low: Lower end of the 95 % interval.
        high: Upper end of the 95 % interval.
    """

    name: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Control:
    """The range in which the values of a control lie.

    Attributes:
        low: Where it begins.
        high: Where it ends.
        name: What it is: `95 % of random heads`.
    """

    low: float
    high: float
    name: str = "95 % of the null"
