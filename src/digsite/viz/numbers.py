"""How a number is written: with a true minus, the digits that its scale deserves, and never a bare NaN."""

import math

NO_VALUE = "no value"
PERCENT = ("fraction", "share")
"""The units that are written in percent."""


def digits_for(scale: float) -> int:
    """How many decimals tell values of this size apart: two for 0.56 and 4.1, none for 410, four for 0.0056."""
    if not math.isfinite(scale) or scale == 0:
        return 2
    magnitude = math.floor(math.log10(abs(scale)))
    return min(8, max(0, 2 - magnitude) if magnitude >= 0 else 1 - magnitude)


def number(value: float | None, digits: int | None = None, *, unit: str = "", signed: bool = False) -> str:
    """A number as a reader wants it: `0.56`, `−1.20`, `1,240`, `91 %`, `no value`.

    Args:
        value: The number; None, NaN and infinity are written as "no value".
        digits: Decimals; from the size of the number where not given.
        unit: `fraction` and `share` are written in percent; any other unit is left to the axis or the
            sentence.
        signed: Write the plus too.
    """
    if value is None or not math.isfinite(value):
        return NO_VALUE
    if unit in PERCENT:
        percent = 100 * value
        is_whole = abs(percent - round(percent)) < 1e-9 or 9.95 <= abs(percent) <= 99 or abs(percent) > 100
        decimals = (0 if is_whole else 1) if digits is None else max(0, digits - 2)
        return number(percent, decimals, signed=signed) + " %"
    decimals = (0 if float(value).is_integer() else digits_for(value)) if digits is None else digits
    text = f"{abs(value):,.{decimals}f}"
    is_zero = float(text.replace(",", "")) == 0
    if is_zero:
        return text
    return ("−" if value < 0 else "+" if signed else "") + text


def span(low: float | None, high: float | None, digits: int | None = None, *, unit: str = "") -> str:
    """An interval: `2.18 – 2.44`, `88 – 93 %`, and `−0.04 to 0.11` where a dash could be read as a sign."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return NO_VALUE
    if digits is None:
        digits = digits_for(max(abs(low), abs(high)))
    ends = [number(end, digits, unit=unit) for end in (low, high)]
    return f"{ends[0].removesuffix(' %')} {'to' if low < 0 else '–'} {ends[1]}"
