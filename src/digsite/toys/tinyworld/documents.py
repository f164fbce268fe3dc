"""Training data: documents of the world as rows of token ids, made on the fly from a seed.

1. Draw a family by its share, or notes by the share that the lesson gives them; an example that says nothing held out.
2. Write it down with one of its right answers: BOS, prompt, answer, what follows, EOS.
3. Lay the documents of a step into rows of `WIDTH` tokens, longest first, each where it fits first. Documents in one
   row do not see each other: attention is blocked between them and each counts its positions from 0.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from digsite.tasks.sampling import pick
from digsite.toys.tinyworld.families import FAMILIES, NOTES
from digsite.toys.tinyworld.vocabulary import BOS, EOS, PAD, pieces, vocabulary
from digsite.toys.tinyworld.world import Family

WIDTH = 48


@dataclass(frozen=True)
class Rows:
    """One training step: all arrays are [row, column]."""

    ids: np.ndarray
    positions: np.ndarray
    """Position within the document."""
    document: np.ndarray
    """Number of the document in its row; padding is -1."""
    answer: np.ndarray
    """Whether the next token is an answer."""


class Author:
    """Writes the documents of a step, always the same ones for the same seed and step."""

    def __init__(self, families: tuple[Family, ...] = FAMILIES):
        self.words = vocabulary()
        self.families = families
        self.parts = np.array([family.share for family in families])
        self.is_notes = np.array([family.name in NOTES for family in families]) / len(NOTES)

    def step(self, seed: int, step: int, tokens: int, notes: float) -> Rows:
        """About this many tokens of documents, as rows; a fraction `notes` of the documents are notes."""
        rng = np.random.default_rng([seed, step])
        written: list[tuple[list[int], int]] = []
        documents = self.documents(rng, notes)
        left = tokens
        while left > 0:
            written.append(next(documents))
            left -= len(written[-1][0])
        return _rows(written, pad=self.words[PAD])

    def documents(self, rng: np.random.Generator, notes: float) -> Iterator[tuple[list[int], int]]:
        """Ids of a document, and the index of the token that its answer follows."""
        cumulative = np.cumsum((1 - notes) * self.parts / self.parts.sum() + notes * self.is_notes)
        streams = [filter(family.trainable, family.examples(rng)) for family in self.families]
        while True:
            index = min(int(np.searchsorted(cumulative, rng.random())), len(streams) - 1)
            example = next(streams[index])
            answer = pick(rng, example.right)
            before = len(pieces(example.clean))
            text = example.clean + answer + self.families[index].after(example)
            yield [self.words[piece] for piece in (BOS, *pieces(text), EOS)], before


def _rows(documents: list[tuple[list[int], int]], *, pad: int) -> Rows:
    """Documents laid into rows, longest first, each into the first row with room."""
    rows: list[list[tuple[list[int], int]]] = []
    room: list[int] = []
    for document in sorted(documents, key=lambda document: -len(document[0])):
        length = len(document[0])
        place = next((row for row, free in enumerate(room) if free >= length), len(rows))
        if place == len(rows):
            rows.append([])
            room.append(WIDTH)
        rows[place].append(document)
        room[place] -= length
    shape = (len(rows), WIDTH)
    laid = Rows(np.full(shape, pad), np.zeros(shape, int), np.full(shape, -1), np.zeros(shape, bool))
    for row, inside in enumerate(rows):
        start = 0
        for number, (ids, before) in enumerate(inside):
            stop = start + len(ids)
            laid.ids[row, start:stop] = ids
            laid.positions[row, start:stop] = np.arange(len(ids))
            laid.document[row, start:stop] = number
            laid.answer[row, start + before] = True
            start = stop
    return laid
