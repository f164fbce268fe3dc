"""`Shuffled`: the order in which rows are served for training; each row of an epoch exactly once.

1. A buffer has N slots. The first N rows of the epoch fill them.
2. Each step draws B different slots, serves their rows, and fills exactly these slots with the next rows that come in.
3. When no more come in, what was served leaves its slot empty, until the buffer is drained.

The order is about row *numbers* only, and follows from the seed alone. So the state is a few whole numbers: on
resuming, the moves are made again on numbers without any data, and only the rows that are in the buffer at that moment
are fetched. The shards of a store come in an order drawn anew each epoch; a live model reads its corpus in order.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from digsite._core.errors import BadInput, explain
from digsite.store.gathering import bits, picked, room
from digsite.store.manifest import refuse_difference
from digsite.store.rows import Rows, Source

_MATCHING = ("seed", "batch", "buffer", "rows")
"""The parts of a state that cannot change between stop and resume."""


class Move(NamedTuple):
    """What one step does to the buffer.

    Attributes:
        served: The slots that are served, in order.
        numbers: The rows in them.
        filled: The slots that the next rows go into: of the served ones the first, as many as rows come in.
    """

    served: np.ndarray
    numbers: np.ndarray
    filled: np.ndarray


class Reservoir:
    """The order of one epoch, on numbers alone.

    Attributes:
        spans: The rows of the epoch as (start, stop), in the order in which they come in.
        batch: Rows served in a step.
        slots: The row number in each slot.
        live: The slots that hold a row that was not served yet.
        came: How many rows have come in.
    """

    def __init__(self, spans: list[tuple[int, int]], batch: int, buffer: int, rng: np.random.Generator):
        self.spans, self.batch, self.rng, self.came = spans, batch, rng, 0
        lengths = np.array([stop - start for start, stop in spans])
        self._ends = lengths.cumsum()
        self._shift = np.array([start for start, _ in spans]) - (self._ends - lengths)
        self.slots = self._next(min(buffer, int(self._ends[-1])))  # 1
        self.live = np.arange(len(self.slots))

    def _next(self, count: int) -> np.ndarray:
        """The numbers of the next rows that come in, as many as there are."""
        order = np.arange(self.came, min(self.came + count, int(self._ends[-1])))
        self.came += len(order)
        return order + self._shift[np.searchsorted(self._ends, order, side="right")]

    def step(self) -> Move | None:
        """The next step; None when the buffer is drained."""
        if not len(self.live):
            return None
        drawn = self.rng.choice(len(self.live), size=min(self.batch, len(self.live)), replace=False)
        served = self.live[drawn]
        numbers, incoming = self.slots[served], self._next(len(served))
        filled = served[: len(incoming)]
        self.slots[filled] = incoming  # 2
        if len(filled) < len(served):
            self.live = np.delete(self.live, drawn[len(filled) :])  # 3
        return Move(served, numbers, filled)

    def close_up(self) -> None:
        """Leaves out the slots that are empty; what is served later stays the same."""
        self.slots, self.live = self.slots[self.live], np.arange(len(self.live))


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
            order.close_up()
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
            self.rows = _of(self._incoming.peek(), lambda x: room(len(order.slots), x))
            self._fill(np.arange(len(order.slots)))
        elif len(order.slots):
            self.rows = source.rows_at(torch.from_numpy(order.slots.copy()))

    def serve(self, move: Move) -> Rows:
        """The rows of a step; their slots are filled anew."""
        batch = _of(self.rows, lambda x: picked(x, move.served))
        self._fill(move.filled)
        return batch

    def _fill(self, slots: np.ndarray) -> None:
        done = 0
        for part in self._incoming.take(len(slots)):
            for x, new in zip(_tensors(self.rows), _tensors(part), strict=True):
                bits(x)[slots[done : done + part.count]] = bits(new)
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


def _of(rows: Rows, do: Callable[[Tensor], Tensor]) -> Rows:
    """The rows with something done to each tensor."""
    columns = {name: do(x) for name, x in rows.columns.items()}
    return Rows(columns, *(None if x is None else do(x) for x in (rows.ids, rows.numbers, rows.places)))
