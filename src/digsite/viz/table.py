"""Tables of a page: what each claim rests on, and the numbers behind a figure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl
from markupsafe import Markup

from digsite.viz.html import render
from digsite.viz.numbers import PERCENT, digits_for, number, span

Status = Literal["good", "bad", "open", "plain"]


@dataclass(frozen=True)
class Chip:
    """A short verdict beside a heading or a claim.

    Attributes:
        text: What it says.
        status: `good` held, `bad` failed its control, `open` is undecided, `plain` is only a remark. Each but the last
            has a sign of its own besides its colour.
    """

    text: str
    status: Status = "plain"

    @property
    def sign(self) -> str:
        """The sign that stands before the text."""
        return {"good": "✓", "bad": "✗", "open": "?", "plain": ""}[self.status]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim with everything it rests on.

    Attributes:
        claim: The sentence; names in backticks are shown as code.
        effect: The number, None where there is none.
        low: Lower end of its 95 % interval.
        high: Upper end of its 95 % interval.
        null: What the control gives.
        n: How many examples.
        unit: The unit of effect, interval and null; `fraction` and `share` are written in percent.
        status: Whether it stood against its control.
    """

    claim: str
    effect: float | None
    low: float | None
    high: float | None
    null: float | None
    n: int
    unit: str
    status: Chip


def claims_table(claims: Sequence[Claim]) -> Markup:
    """Shows each claim with its effect, interval, control, number of examples, and whether it stood.

    Args:
        claims: The claims, in the order in which they are made.
    """
    rows = [
        {
            "claim": claim.claim,
            "unit": "" if claim.unit in PERCENT else claim.unit,
            "effect": number(claim.effect, _digits(claim), unit=claim.unit),
            "interval": span(claim.low, claim.high, _digits(claim), unit=claim.unit),
            "null": number(claim.null, _digits(claim), unit=claim.unit),
            "n": f"{claim.n:,}",
            "status": claim.status,
        }
        for claim in claims
    ]
    return render("claims.html", rows=rows)


def _digits(claim: Claim) -> int | None:
    """As many decimals as the effect and its interval deserve together; None where there is no number."""
    known = [abs(end) for end in (claim.effect, claim.low, claim.high) if end is not None and math.isfinite(end)]
    return digits_for(max(known)) if known else None


def data_table(frame: pl.DataFrame, *, most: int = 256) -> Markup:
    """Shows the rows of a data frame; what is beyond `most` is counted, not shown.

    Args:
        frame: The numbers.
        most: How many rows are shown.
    """
    is_number = {name: kind.is_numeric() for name, kind in frame.schema.items()}
    digits = {
        name: digits_for(float(frame[name].abs().max() or 0.0)) + 1  # type: ignore[arg-type]
        for name, kind in frame.schema.items()
        if kind.is_float()
    }
    rows = [
        [_cell(value, digits.get(name)) for name, value in row.items()]
        for row in frame.head(most).iter_rows(named=True)
    ]
    return render("table.html", names=frame.columns, is_number=is_number, rows=rows, left_out=max(0, len(frame) - most))


def _cell(value: object, digits: int | None) -> str:
    if value is None:
        return "–"
    return number(value, digits) if isinstance(value, float) else str(value)
