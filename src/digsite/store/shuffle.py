"""`Shuffled`: the order in which rows are served for training; each row of an epoch exactly once.

1. A buffer has N slots. The first N rows of the epoch fill them.
2. Each step draws B different slots, serves their rows, and fills exactly these slots with the next rows that come in.
3. When no more come in, the last slots move into those that were emptied, until the buffer is drained.

The order is about row *numbers* only, and follows from the seed alone. So the state is a few whole numbers: on
resuming, the moves are made again on numbers without any data, and only the rows that are in the buffer at that moment
are fetched. The shards of a store come in an order drawn anew each epoch; a live model reads its corpus in order.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from digsite._core.errors import BadInput, explain
from digsite.store.manifest import refuse_difference
from digsite.store.rows import Rows, Source

_MATCHING = ("seed", "batch", "buffer", "rows")
"""The parts of a state that cannot change between stop and resume."""


@dataclass(frozen=True)
class Move:
    """What one step does to the buffer.

    Attributes:
        served: The slots that are served, in order.
        numbers: The rows in them.
        filled: The slots that the next rows go into: as many of the served ones, from the first on, as rows come in.
        moved_from: Slots at the end whose rows move into emptied ones when the buffer shrinks.
        moved_to: Where they move.
    """

    served: np.ndarray
    numbers: np.ndarray
    filled: np.ndarray
    moved_from: np.ndarray
    moved_to: np.ndarray


@dataclass
class Reservoir:
    """The order of one epoch, on numbers alone.

    Attributes:
        spans: The rows of the epoch as (start, stop), in the order in which they come in.
        batch: Rows served in a step.
        slots: The row number in each slot.
        came: How many rows have come in.
    """

    spans: list[tuple[int, int]]
    batch: int
    buffer: int
    rng: np.random.Generator
    slots: np.ndarray = field(init=False)
    came: int = field(default=0, init=False)

    def __post_init__(self):
        lengths = [stop - start for start, stop in self.spans]
        self._ends = np.cumsum(lengths)
        self._starts = np.array([start for start, _ in self.spans])
        self.slots = self._next(min(self.buffer, int(self._ends[-1])))

    def _next(self, count: int) -> np.ndarray:
        """The numbers of the next rows that come in, as many as there are."""
        order = np.arange(self.came, min(self.came + count, int(self._ends[-1])))
        self.came += len(order)
        span = np.searchsorted(self._ends, order, side="right")
        before = self._ends - np.diff(self._ends, prepend=0)
        return self._starts[span] + order - before[span]

    def step(self) -> Move | None:
        """The next step; None when the buffer is drained."""
        live = len(self.slots)
        if not live:
            return None
        served = self.rng.choice(live, size=min(self.batch, live), replace=False)
        numbers = self.slots[served]
        incoming = self._next(len(served))
        filled, emptied = served[: len(incoming)], served[len(incoming) :]
        self.slots[filled] = incoming
        left = live - len(emptied)
        moved_to = emptied[emptied < left]
        moved_from = np.setdiff1d(np.arange(left, live), emptied)
        self.slots[moved_to] = self.slots[moved_from]
        self.slots = self.slots[:left]
        return Move(served, numbers, filled, moved_from, moved_to)


class Shuffled:
    """Batches of a source's rows in a shuffled order; each row of an epoch is in exactly one.

    Iterating goes on where the last iteration stopped; after the last epoch there is nothing more.

    Attributes:
        source: Where rows come from.
        batch: Rows in a batch; the last of an epoch may have fewer.
        buffer: Rows that are mixed at one time, and held in memory.
        seed: Of the order.
        epochs: How often every row is served.
        served: Rows that were served so far, over all epochs.

    Raises:
        BadInput: The buffer is smaller than a batch.
    """

    def __init__(self, source: Source, *, batch: int, buffer: int = 131_072, seed: int = 0, epochs: int = 1):
        if batch < 1 or epochs < 1:
            raise BadInput(explain(f"batch={batch} and epochs={epochs} serve nothing", possible="1 or more of each"))
        if buffer < batch:
            raise BadInput(
                explain(
                    "A buffer is at least as large as a batch",
                    found=f"buffer {buffer}, batch {batch}",
                    do=f"buffer={16 * batch} mixes rows well",
                )
            )
        self.source, self.batch, self.buffer, self.seed, self.epochs = source, batch, buffer, seed, epochs
        self.epoch = self.step = 0

    # -- state -----------------------------------------------------------------------------------------------------
    @property
    def served(self) -> int:
        """Rows that were served so far, over all epochs."""
        return self.epoch * self.source.rows + min(self.step * self.batch, self.source.rows)

    def state(self) -> dict[str, int]:
        """Where the order is: a few whole numbers, whatever the size of the buffer."""
        return {
            "seed": self.seed,
            "batch": self.batch,
            "buffer": self.buffer,
            "rows": self.source.rows,
            "epoch": self.epoch,
            "step": self.step,
        }

    def resume(self, state: Mapping[str, int]) -> "Shuffled":
        """Goes to where the order was when `state` was asked for; the next batch is the one that would have followed.

        Raises:
            BadInput: The state is of another source, seed, batch or buffer.
        """
        here = self.state()
        refuse_difference(
            "This order cannot go on from that state",
            {key: state.get(key) for key in _MATCHING},
            {key: here[key] for key in _MATCHING},
            do="make it with the values of the state",
            sides=("in the state", "here"),
        )
        self.epoch, self.step = state["epoch"], state["step"]
        return self

    # -- serving ---------------------------------------------------------------------------------------------------
    def __iter__(self) -> Iterator[Rows]:
        while self.epoch < self.epochs:
            order = self._order(self.epoch)
            for _ in range(self.step):
                order.step()
            held = _Buffer(self.source, order)
            while (move := order.step()) is not None:
                batch = held.serve(move)
                self.step += 1
                yield batch
            self.epoch, self.step = self.epoch + 1, 0

    def _order(self, epoch: int) -> Reservoir:
        rng = np.random.default_rng([self.seed, epoch])
        shards: list[tuple[int, int]] = getattr(self.source, "shards", None) or [(0, self.source.rows)]
        spans = [shards[i] for i in rng.permutation(len(shards))]
        return Reservoir(spans, self.batch, self.buffer, rng)


class _Buffer:
    """The rows in the slots of a reservoir."""

    def __init__(self, source: Source, order: Reservoir):
        fresh = order.came == len(order.slots)
        self._incoming = _Incoming(source, order.spans, 0 if fresh else order.came)
        if fresh:
            self.rows = _empty(self._incoming.peek(), len(order.slots))
            self._fill(np.arange(len(order.slots)))
        elif len(order.slots):
            found = source.rows_at(torch.from_numpy(order.slots.copy()))
            self.rows = found

    def serve(self, move: Move) -> Rows:
        """The rows of a step; their slots are filled anew."""
        batch = self.rows.take(torch.from_numpy(move.served))
        self._fill(move.filled)
        if len(move.moved_to):
            for x in _tensors(self.rows):
                x[torch.from_numpy(move.moved_to)] = x[torch.from_numpy(move.moved_from)]
        return batch

    def _fill(self, slots: np.ndarray) -> None:
        done = 0
        for part in self._incoming.take(len(slots)):
            where = torch.from_numpy(slots[done : done + part.count])
            for x, new in zip(_tensors(self.rows), _tensors(part), strict=True):
                x.index_copy_(0, where, new.to(x.dtype))
            done += part.count


class _Incoming:
    """The rows of an epoch in the order in which they come in, any number at a time."""

    def __init__(self, source: Source, spans: list[tuple[int, int]], skip: int):
        self._chunks = self._read(source, spans, skip)
        self._head: Rows | None = None

    @staticmethod
    def _read(source: Source, spans: list[tuple[int, int]], skip: int) -> Iterator[Rows]:
        for start, stop in spans:
            skipped = min(skip, stop - start)
            at, skip = start + skipped, skip - skipped
            if at == stop:
                continue
            for rows in source.chunks(at):
                part = rows.take(slice(0, stop - at)) if rows.count > stop - at else rows
                at += part.count
                yield part
                if at >= stop:
                    break

    def peek(self) -> Rows:
        """The next chunk, which stays."""
        self._head = self._head or next(self._chunks)
        return self._head

    def take(self, count: int) -> Iterator[Rows]:
        """The next rows, in the pieces in which they were read."""
        while count:
            head = self.peek()
            if head.count > count:
                yield head.take(slice(0, count))
                self._head = head.take(slice(count, None))
                return
            yield head
            count, self._head = count - head.count, None


def _tensors(rows: Rows) -> list[Tensor]:
    """Everything in rows that has a row for each row."""
    return [*rows.columns.values(), *(x for x in (rows.ids, rows.numbers, rows.places) if x is not None)]


def _empty(like: Rows, count: int) -> Rows:
    """Room for so many rows of this kind."""

    def room(x: Tensor) -> Tensor:
        return torch.empty(count, *x.shape[1:], dtype=x.dtype)

    columns = {name: room(x) for name, x in like.columns.items()}
    return Rows(columns, *(None if x is None else room(x) for x in (like.ids, like.numbers, like.places)))
