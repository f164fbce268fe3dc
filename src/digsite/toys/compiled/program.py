"""A program with what it may be given: its tokens, its length, its inputs, and where its output is looked at."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from digsite._core.errors import BadInput, explain
from digsite.toys.compiled.language import NOTHING, Evaluation, IndicesOp, SOp, TokensOp

ROWS = 50_000
"""Inputs that are looked at, at most: all of them where there are not more, else this many, drawn."""
VALUE = "value"
"""The token whose logit is the output, where the output is a number."""

Row = tuple[str, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Program:
    """What is compiled.

    Attributes:
        name: A short name, such as "induction".
        description: What it computes, in a sentence.
        vocabulary: Its tokens; the BOS is not one of them.
        length: The longest input, in tokens without the BOS.
        output: From tokens and indices to the output.
        inputs: All rows that it may be given, of any lengths up to `length`; None for every row of `length` tokens (and
            with it, because outputs never depend on later tokens, every shorter one).
        judged: From a row to the positions at which the output counts; None for all.
        writes: From a value of the output to the tokens that stand for it; None for the one that `str` names.
    """

    name: str
    description: str
    vocabulary: tuple[str, ...]
    length: int
    output: Callable[[SOp, SOp], SOp]
    inputs: Callable[[], Iterator[Row]] | None = None
    judged: Callable[[Row], Sequence[int]] | None = None
    writes: Callable[[Any], tuple[str, ...]] | None = None

    @cached_property
    def tokens(self) -> SOp:
        """The token at each position."""
        return TokensOp(domain=self.vocabulary, name="tokens")

    @cached_property
    def indices(self) -> SOp:
        """The number of each position."""
        return IndicesOp(domain=tuple(range(self.length)), name="indices")

    @cached_property
    def result(self) -> SOp:
        """The program itself."""
        return self.output(self.tokens, self.indices)

    @cached_property
    def rows(self) -> list[Row]:
        """The inputs: all of them, or `ROWS` drawn from a fixed seed."""
        if self.inputs is not None:
            found = list(self.inputs())
            if len(found) > ROWS:
                rng = np.random.default_rng(0)
                found = [found[i] for i in sorted(rng.choice(len(found), ROWS, replace=False))]
            return found
        if len(self.vocabulary) ** self.length <= ROWS:
            return list(product(self.vocabulary, repeat=self.length))
        drawn = np.random.default_rng(0).integers(len(self.vocabulary), size=(ROWS, self.length))
        return [tuple(self.vocabulary[code] for code in row) for row in drawn.tolist()]

    @cached_property
    def exhaustive(self) -> bool:
        """Whether `rows` is every input there is."""
        return len(self.rows) < ROWS or self.inputs is not None or len(self.vocabulary) ** self.length == ROWS

    def ids(self, rows: Sequence[Row]) -> np.ndarray:
        """[input, position] codes of tokens, NOTHING behind shorter rows.

        Raises:
            BadInput: A row is empty, too long, or has a token that the program does not know.
        """
        code = {token: i for i, token in enumerate(self.vocabulary)}
        strangers = sorted({token for row in rows for token in row} - code.keys())
        if strangers or not all(0 < len(row) <= self.length for row in rows):
            lengths = sorted({len(row) for row in rows})
            raise BadInput(
                explain(
                    f"{self.name} cannot be given these rows",
                    found=f"tokens {', '.join(strangers)}" if strangers else f"{lengths[0]} to {lengths[-1]} tokens",
                    possible=f"1 to {self.length} of {', '.join(self.vocabulary)}",
                )
            )
        width = max(map(len, rows))
        return np.array([[*(code[token] for token in row), *[NOTHING] * (width - len(row))] for row in rows])

    @cached_property
    def evaluation(self) -> Evaluation:
        """The program run on all of `rows`."""
        evaluation = Evaluation(self.ids(self.rows))
        evaluation(self.result)
        return evaluation

    @cached_property
    def asked(self) -> np.ndarray:
        """[input, position] bool: where the output counts."""
        wanted = np.zeros(self.evaluation.ids.shape, dtype=bool)
        for i, row in enumerate(self.rows):
            wanted[i, list(self.positions(row))] = True
        return wanted

    def positions(self, row: Row) -> Sequence[int]:
        """Where in a row the output counts."""
        return range(len(row)) if self.judged is None else self.judged(row)

    def run(self, rows: Sequence[Row]) -> list[list[Any]]:
        """The output at every position of some rows; None where there is no value."""
        found = Evaluation(self.ids(rows))(self.result)
        if self.result.number:
            return [found[i, : len(row)].tolist() for i, row in enumerate(rows)]
        names = [*self.result.domain, None]
        return [[names[code] for code in found[i, : len(row)].tolist()] for i, row in enumerate(rows)]

    def written(self, value: Any) -> tuple[str, ...]:
        """The tokens that stand for a value of the output."""
        if self.result.number:
            return (VALUE,)
        return (str(value),) if self.writes is None else self.writes(value)
