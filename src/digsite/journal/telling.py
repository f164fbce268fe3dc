"""Which number a run gets: for those who call a method and then say something about its run."""

from collections.abc import Iterator
from contextlib import contextmanager

from digsite._core.recording import recording_to
from digsite.journal.dig import Dig, Recording


class _Telling:
    """Records into a dig, and remembers the numbers."""

    def __init__(self, dig: Dig):
        self.dig, self.numbers = dig, list[int]()

    def begin(self, name: str, call: str) -> Recording:
        """A method was called."""
        recording = self.dig.begin(name, call)
        self.numbers.append(recording.number)
        return recording


@contextmanager
def numbered(dig: Dig) -> Iterator[list[int]]:
    """Methods inside the block are recorded in a dig; the list holds their numbers, as they begin."""
    telling = _Telling(dig)
    with recording_to(telling):
        yield telling.numbers
