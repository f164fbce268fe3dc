"""A small RASP: programs over sequences that a decoder-only transformer can compute, and what they give.

A program is built from `tokens` and `indices` by five functions:

- `map_(function, x)`: apply a function at every position;
- `sequence_map(function, x, y)`: apply a function of two values at every position;
- `select(keys, queries, predicate)`: which earlier-or-equal positions each position looks at;
- `aggregate(selector, x)`: the value of x where the selector looks (its mean, where x is a number);
- `selector_width(selector)`: at how many positions the selector looks.

and `total` adds numbers. Every value is a category (one of a finite `domain`) or a number. `evaluate` runs a program on
many inputs at once; it is what the compiled weights are held to.

Source:
    Weiss, Goldberg & Yahav 2021, "Thinking Like Transformers" (RASP); Lindner et al. 2023, "Tracr" (compiling it). Here
    attention is causal, as in the models that it is meant to stand for, so an output never depends on later tokens.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from digsite._core.errors import BadInput, explain

NOTHING = -1
"""The code of a category that has no value: at padding, and where a selector without a default looked nowhere."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SOp:
    """A value at every position.

    Attributes:
        domain: The categories that it can take; empty for a number.
        name: How messages call it.
    """

    domain: tuple[Hashable, ...] = ()
    name: str = ""

    @property
    def number(self) -> bool:
        """Whether it is a number, not a category."""
        return not self.domain


@dataclass(frozen=True, eq=False, kw_only=True)
class TokensOp(SOp):
    """The token at each position."""


@dataclass(frozen=True, eq=False, kw_only=True)
class IndicesOp(SOp):
    """The number of each position, the first token's being 0."""


@dataclass(frozen=True, eq=False, kw_only=True)
class MapOp(SOp):
    """A function of one value."""

    function: Callable[[Any], Any]
    of: SOp


@dataclass(frozen=True, eq=False, kw_only=True)
class PairOp(SOp):
    """A function of two categories."""

    function: Callable[[Any, Any], Any]
    left: SOp
    right: SOp


@dataclass(frozen=True, eq=False, kw_only=True)
class TotalOp(SOp):
    """A weighted sum of numbers; it costs nothing, because whoever reads it adds them up."""

    terms: tuple[tuple[float, SOp], ...]


@dataclass(frozen=True, eq=False)
class Selector:
    """Which positions each position looks at: keys and queries whose values satisfy a predicate.

    Attributes:
        keys: Categories of the positions that are looked at.
        queries: Categories of the positions that look; None where all look alike.
        table: [key, query] bool.
    """

    keys: SOp
    queries: SOp | None
    table: np.ndarray


@dataclass(frozen=True, eq=False, kw_only=True)
class AggregateOp(SOp):
    """What a selector finds."""

    selector: Selector
    of: SOp
    default: Hashable | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class ShareOp(SOp):
    """1 / (1 + width): what the BOS receives when it is looked at as well."""

    selector: Selector


# -- what programs are written with --------------------------------------------------------------------------------
def map_(
    function: Callable[[Any], Any],
    x: SOp,
    *,
    number: bool = False,
    domain: Iterable[Hashable] | None = None,
    name: str = "",
) -> SOp:
    """A function at every position.

    Args:
        function: From a value of x to a value.
        x: A category or a number.
        number: The result is a number.
        domain: The categories of the result; needed where x is a number.
        name: For messages.
    """
    if not number and domain is None:
        if x.number:
            raise BadInput(
                explain(
                    f"map_ to categories from the number {_called(x)} needs to know the categories", do="give domain="
                )
            )
        domain = dict.fromkeys(function(value) for value in x.domain)
    return MapOp(domain=() if number else tuple(domain or ()), name=name, function=function, of=x)


def sequence_map(function: Callable[[Any, Any], Any], x: SOp, y: SOp, *, number: bool = False, name: str = "") -> SOp:
    """A function of two categories at every position."""
    for one in (x, y):
        if one.number:
            raise BadInput(
                explain(
                    f"sequence_map cannot read the number {_called(one)}",
                    possible="categories; map_ makes categories of numbers, total adds numbers",
                )
            )
    found = dict.fromkeys(function(a, b) for a in x.domain for b in y.domain)
    return PairOp(domain=() if number else tuple(found), name=name, function=function, left=x, right=y)


def total(*terms: tuple[int | float, SOp], name: str = "") -> SOp:
    """A weighted sum of numbers: `total((1, opened), (-1, closed))`."""
    wrong = [one for _, one in terms if not one.number]
    if wrong:
        raise BadInput(
            explain(f"total adds numbers, and {_called(wrong[0])} is a category", do="map_ with number=True")
        )
    return TotalOp(terms=tuple((float(factor), one) for factor, one in terms), name=name)


def select(keys: SOp, queries: SOp | None, predicate: Callable[..., bool]) -> Selector:
    """Which positions, up to and with its own, each position looks at.

    Args:
        keys: Categories of the positions that are looked at.
        queries: Categories of the positions that look; None for a predicate of the key alone.
        predicate: Of a key's and a query's value.
    """
    for one in (keys, queries):
        if one is not None and one.number:
            raise BadInput(explain(f"select compares categories, and {_called(one)} is a number", do="map_ it first"))
    if queries is None:
        table = np.array([[bool(predicate(key))] for key in keys.domain])
    else:
        table = np.array([[bool(predicate(key, query)) for query in queries.domain] for key in keys.domain])
    return Selector(keys, queries, table)


def aggregate(selector: Selector, x: SOp, *, default: Hashable | None = None, name: str = "") -> SOp:
    """The value of x where a selector looks: of a number the mean, of a category the one value that all have there.

    Args:
        selector: Where to look.
        x: What to fetch.
        default: The value where the selector looks nowhere; None for no value (0 for a number).
        name: For messages.
    """
    if x.number and default not in (None, 0):
        raise BadInput(explain(f"The default of the number {_called(x)} is 0", found=f"default={default!r}"))
    if not x.number and default is not None and default not in x.domain:
        raise BadInput(explain(f"default={default!r} is no value of {_called(x)}", possible=map(str, x.domain)))
    return AggregateOp(domain=x.domain, name=name, selector=selector, of=x, default=default)


def selector_width(selector: Selector, length: int, *, name: str = "") -> SOp:
    """At how many positions a selector looks: a category from 0 to `length`, the program's own."""
    share = ShareOp(selector=selector, name=f"share for {name or 'a width'}")
    return map_(lambda value: round(1 / value) - 1, share, domain=range(length + 1), name=name)


def _called(x: SOp) -> str:
    return repr(x.name) if x.name else f"a {type(x).__name__.removesuffix('Op')}"


# -- running it ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Evaluation:
    """The values of a program's parts on many inputs.

    Attributes:
        ids: [input, position] codes of tokens; NOTHING at padding.
        known: Values of each part: codes into its domain, or numbers.
    """

    ids: np.ndarray
    known: dict[SOp, np.ndarray] = field(default_factory=dict)

    def __call__(self, x: SOp) -> np.ndarray:
        """[input, position]: codes of categories (NOTHING where there is no value), or numbers."""
        if x not in self.known:
            self.known[x] = self._made(x)
        return self.known[x]

    def _made(self, x: SOp) -> np.ndarray:
        match x:
            case TokensOp():
                return self.ids
            case IndicesOp():
                return np.where(self.ids == NOTHING, NOTHING, np.arange(self.ids.shape[1]))
            case MapOp():
                return self._mapped(x)
            case PairOp():
                table = [[coded(x, x.function(a, b)) for b in x.right.domain] for a in x.left.domain]
                left, right = self(x.left), self(x.right)
                missing = (left == NOTHING) | (right == NOTHING)
                return np.where(missing, 0 if x.number else NOTHING, np.array(table)[left, right])
            case TotalOp():
                return sum((factor * self(one) for factor, one in x.terms), np.zeros(self.ids.shape))
            case ShareOp():
                return 1 / (1 + self.looks(x.selector).sum(-1))
            case AggregateOp():
                return self._aggregated(x)
        raise TypeError(x)

    def looks(self, selector: Selector) -> np.ndarray:
        """[input, query, key] bool: where each position looks."""
        keys = self(selector.keys)
        queries = np.zeros_like(keys) if selector.queries is None else self(selector.queries)
        there = (keys != NOTHING)[:, None, :] & (queries != NOTHING)[:, :, None] & (self.ids != NOTHING)[:, :, None]
        causal = np.tri(keys.shape[1], dtype=bool)
        return selector.table[keys[:, None, :], queries[:, :, None]] & there & causal

    def _mapped(self, x: MapOp) -> np.ndarray:
        values = self(x.of)
        if x.of.number:
            distinct, where = np.unique(values.round(9), return_inverse=True)
            made = np.array([coded(x, x.function(value)) for value in distinct.tolist()])
            return made[where].reshape(values.shape)
        table = np.array([coded(x, x.function(value)) for value in x.of.domain])
        return np.where(values == NOTHING, 0 if x.number else NOTHING, table[values])

    def _aggregated(self, x: AggregateOp) -> np.ndarray:
        looks, values = self.looks(x.selector), self(x.of)
        count = looks.sum(-1)
        if x.number:
            return (looks * values[:, None, :]).sum(-1) / np.maximum(count, 1)
        spread = np.broadcast_to(values[:, None, :], looks.shape)
        high = np.where(looks, spread, NOTHING).max(-1, initial=NOTHING)
        low = np.where(looks, spread, len(x.domain)).min(-1, initial=len(x.domain))
        unclear = (count > 0) & (high != low)
        if unclear.any():
            row, position = np.argwhere(unclear)[0]
            raise BadInput(
                explain(
                    f"aggregate finds more than one value of {_called(x.of)}",
                    found=f"{x.domain[low[row, position]]!r} and {x.domain[high[row, position]]!r} from position "
                    f"{position} of input {self.ids[row].tolist()}",
                    do="narrow the selector, or make x a number, whose mean is taken",
                )
            )
        empty = NOTHING if x.default is None else x.domain.index(x.default)
        return np.where(self.ids == NOTHING, NOTHING, np.where(count > 0, high, empty))


def coded(x: SOp, value: Any) -> float | int:
    """A value as it stands in the arrays: a number, or the place of a category in its domain."""
    if x.number:
        return float(value)
    try:
        return x.domain.index(value)
    except ValueError:
        raise BadInput(
            explain(f"{_called(x)} gave a value outside its domain", found=repr(value), possible=map(str, x.domain))
        ) from None


def parts(x: SOp) -> Sequence[SOp]:
    """Everything that a value is computed from, itself included, inputs before what reads them; each once."""
    found: dict[SOp, None] = {}

    def visit(one: SOp) -> None:
        for inner in reads(one):
            visit(inner)
        found.setdefault(one)

    visit(x)
    return list(found)


def reads(x: SOp) -> tuple[SOp, ...]:
    """What a value is computed from directly."""
    match x:
        case MapOp():
            return (x.of,)
        case PairOp():
            return (x.left, x.right)
        case TotalOp():
            return tuple(one for _, one in x.terms)
        case ShareOp() | AggregateOp():
            of = (x.of,) if isinstance(x, AggregateOp) else ()
            return tuple(one for one in (x.selector.keys, x.selector.queries, *of) if one is not None)
    return ()
