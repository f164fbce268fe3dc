"""`joined`: several sources over the same tokens, read side by side; what a crosscoder between models reads."""

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Int
from torch import Tensor

from digsite._core.errors import BadInput, explain
from digsite.store.manifest import refuse_difference
from digsite.store.rows import Rows, Source, Statistics

_SAME = ("tokens", "bos")
"""What sources that are read side by side have in common."""


def joined(**sources: Source) -> "Joined":
    """Several sources over the same tokens as one; `joined(base=…, tuned=…)` has columns such as `tuned:final.norm`.

    Args:
        sources: Each under the name that its columns get.

    Raises:
        BadInput: There are none, or they are not over the same tokens.
    """
    if not sources:
        raise BadInput(explain("At least one source is joined", do="joined(base=..., tuned=...)"))
    first, *others = sources
    about = {name: {key: one.identity.get(key) for key in _SAME} | {"rows": one.rows} for name, one in sources.items()}
    for other in others:
        refuse_difference(
            f"{first} and {other} are not over the same tokens",
            about[first],
            about[other],
            do="harvest both over one corpus, with one tokenizer",
            sides=(f"in {first}", f"in {other}"),
        )
    return Joined(sources)


class Joined:
    """Several sources over the same tokens, as one. Made by `joined`."""

    def __init__(self, sources: Mapping[str, Source]):
        self.sources = sources
        self._first = next(iter(sources.values()))

    @property
    def widths(self) -> Mapping[str, int]:
        """The columns of all, each with its source's name in front."""
        return {f"{name}:{c}": width for name, one in self.sources.items() for c, width in one.widths.items()}

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self._first.rows

    @property
    def identity(self) -> Mapping[str, str]:
        """What they have in common, and what each is by itself."""
        shared = {key: value for key, value in self._first.identity.items() if key in _SAME}
        own = {
            f"{name}:{key}": value
            for name, one in self.sources.items()
            for key, value in one.identity.items()
            if key not in _SAME
        }
        return {**shared, **own}

    @property
    def shards(self) -> list[tuple[int, int]]:
        """First row and end of every shard: those of the first source that has some."""
        found = (getattr(one, "shards", None) for one in self.sources.values())
        return next((shards for shards in found if shards), [(0, self.rows)])

    def chunks(self, start: int = 0) -> Iterator[Rows]:
        """The rows of all in order from number `start` on.

        Raises:
            BadInput: A row is not the same token in all.
        """
        streams = [one.chunks(start) for one in self.sources.values()]
        heads = [next(stream, None) for stream in streams]
        while there := [head for head in heads if head is not None]:
            if len(there) < len(heads):
                raise BadInput(explain("A source ended before the others"))
            count = min(head.count for head in there)
            yield self._beside([head.take(slice(0, count)) for head in there])
            rest = [head.take(slice(count, None)) for head in there]
            heads = [left if left.count else next(stream, None) for left, stream in zip(rest, streams, strict=True)]

    def rows_at(self, numbers: Int[Tensor, " chosen"]) -> Rows:
        """The rows of these numbers, in the order given."""
        return self._beside([one.rows_at(numbers) for one in self.sources.values()])

    def statistics(self, column: str) -> Statistics:
        """Mean, square and norm of a column, as its source knows them."""
        name, _, site = column.partition(":")
        if name not in self.sources:
            raise BadInput(explain(f"There is no column {column}", possible=list(self.widths), near=column))
        return self.sources[name].statistics(site)

    def _beside(self, parts: list[Rows]) -> Rows:
        first = parts[0]
        for other in parts[1:]:
            if first.ids is not None and other.ids is not None and not torch.equal(first.ids, other.ids):
                raise BadInput(explain("A row is not the same token in all sources", do="harvest them anew"))
        columns = {f"{name}:{c}": x for name, part in zip(self.sources, parts, strict=True) for c, x in part.items()}
        return Rows(columns, first.ids, first.numbers, first.places)
