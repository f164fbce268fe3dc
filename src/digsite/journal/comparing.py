"""Whether two results say the same, number by number, within a tolerance.

1. Results of one kind have the same fields; what each holds is walked through: tensors, tables, numbers, words.
2. Numbers agree where |a - b| <= absolute + relative * max(|a|, |b|); two NaN agree.
3. Where they come from (provenance) and what they cost is told apart and never counted: another machine, another
   version and another time are what the comparison is made over.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl
import torch
from torch import Tensor

from digsite.artifacts import Result


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One field in which two results differ, or agree.

    Attributes:
        field: Its name; parts of it by a dot.
        largest: The largest absolute difference of a number in it; infinite where shapes, words or kinds differ.
        relative: The same, over the larger of the two numbers.
        agrees: Whether all of it is within the tolerance.
        words: What differs, where it is no number.
    """

    field: str
    largest: float
    relative: float
    agrees: bool
    words: str = ""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two results side by side.

    Attributes:
        fields: Every field that holds numbers or words.
        origins: What differs in provenance: (field, first, second).
        absolute: The tolerance.
        relative: The tolerance.
    """

    fields: tuple[Difference, ...]
    origins: tuple[tuple[str, str, str], ...]
    absolute: float
    relative: float

    @property
    def agrees(self) -> bool:
        """Whether every field agrees."""
        return all(one.agrees for one in self.fields)

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        wrong = [one for one in self.fields if not one.agrees]
        over = ", ".join(name for name, *_ in self.origins) or "nothing"
        tolerance = f"within {self.absolute:g} + {self.relative:g} of the size"
        if not wrong:
            worst = max((one.largest for one in self.fields), default=0.0)
            same = "bit for bit" if worst == 0 else f"{tolerance}; the largest difference is {worst:.2g}"
            return f"The two agree in all {len(self.fields)} fields {same}; their origins differ in: {over}"
        first = max(wrong, key=lambda one: one.largest)
        what = first.words or f"{first.largest:.3g}"
        return (
            f"The two differ in {len(wrong)} of {len(self.fields)} fields, most in {first.field} ({what}), "
            f"{tolerance}; their origins differ in: {over}"
        )

    def to_frame(self) -> pl.DataFrame:
        """One row a field."""
        return pl.DataFrame([dataclasses.asdict(one) for one in self.fields])


def compare(one: Result, other: Result, *, absolute: float = 1e-5, relative: float = 1e-4) -> Comparison:
    """Whether two results say the same; see the head of this file.

    Args:
        one: A result.
        other: Another.
        absolute: Differences up to this are none.
        relative: Differences up to this share of the larger number are none.
    """
    first, second = dict(_parts("", one)), dict(_parts("", other))
    fields = []
    for name in dict.fromkeys([*first, *second]):
        if name in first and name in second:
            fields.append(_difference(name, first[name], second[name], absolute, relative))
        else:
            which = "second" if name in first else "first"
            fields.append(_other(name, f"the {which} has none"))
    if type(one) is not type(other):
        fields.insert(0, _other("kind", f"{one.SCHEMA} and {other.SCHEMA}"))
    a, b = one.provenance.to_dict(), other.provenance.to_dict()
    origins = tuple((name, str(a[name]), str(b[name])) for name in a if a[name] != b[name] and name != "created")
    return Comparison(fields=tuple(fields), origins=origins, absolute=absolute, relative=relative)


def _parts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """1. Every tensor, number and word in a value, by name."""
    below = f"{name}." if name else ""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            if field.name not in ("provenance", "cost"):
                yield from _parts(f"{below}{field.name}", getattr(value, field.name))
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _parts(f"{below}{key}", part)
    elif isinstance(value, pl.DataFrame):
        for column in value.columns:
            yield from _parts(f"{below}{column}", tuple(value[column].to_list()))
    elif isinstance(value, list | tuple):
        if value and all(isinstance(part, int | float) and not isinstance(part, bool) for part in value):
            yield name, torch.tensor(value, dtype=torch.float64)
        elif all(isinstance(part, str | bool | None) for part in value):
            yield name, tuple(value)
        else:
            for at, part in enumerate(value):
                yield from _parts(f"{below}{at}", part)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, torch.tensor([value], dtype=torch.float64)
    else:
        yield name, value


def _difference(name: str, a: Any, b: Any, absolute: float, relative: float) -> Difference:
    """2. One field."""
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        same = a == b if not isinstance(a, Tensor) and not isinstance(b, Tensor) else False
        return Difference(field=name, largest=0.0, relative=0.0, agrees=True) if same else _other(name, _words(a, b))
    if a.shape != b.shape:
        return _other(name, f"shapes {list(a.shape)} and {list(b.shape)}")
    a, b = a.double(), b.double()
    gap = torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, (a - b).abs()).nan_to_num(torch.inf)
    size = torch.maximum(a.abs(), b.abs()).nan_to_num(0.0)
    share = torch.where(gap == 0, 0.0, gap / size)
    inside = bool(((gap == 0) | (gap <= absolute + relative * size) & gap.isfinite()).all())
    largest, most = (float(x.max()) if x.numel() else 0.0 for x in (gap, share))
    return Difference(field=name, largest=largest, relative=most, agrees=inside)


def _other(name: str, words: str) -> Difference:
    return Difference(field=name, largest=torch.inf, relative=torch.inf, agrees=False, words=words)


def _words(a: Any, b: Any) -> str:
    if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
        at = next(i for i, pair in enumerate(zip(a, b, strict=True)) if pair[0] != pair[1])
        return f"at {at}: {a[at]!r} and {b[at]!r}"
    return f"{a!r} and {b!r}"[:200]
