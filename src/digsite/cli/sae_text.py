"""The text of a dictionary: what it learns from, and the end of it, which is held out to judge it on."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from cyclopts import Parameter

from digsite._core.errors import BadInput, explain

if TYPE_CHECKING:
    from digsite import Corpus, Model

Files = Annotated[list[Path], Parameter(consume_multiple=True, help="Your text: .txt, .md, .jsonl or .parquet files.")]
Field = Annotated[str, Parameter(help="The field of .jsonl and the column of .parquet that hold the text.")]

LENGTH = 128
"""Tokens that a model reads together, or its context where that is shorter."""
_HELD, _LEAST = 256, 8
"""Sequences that are held out: a tenth of the text, at most so many and at least so few."""


class Halves(NamedTuple):
    """A text in two parts.

    Attributes:
        learn: To learn from.
        held: To judge on.
        sequences: Rows of `learn`.
    """

    learn: "Corpus"
    held: "Corpus"
    sequences: int


def halves(files: list[Path], model: "Model", *, length: int | None, field: str) -> Halves:
    """A text, without the end that is held out, and that end.

    Args:
        files: The text.
        model: Its tokenizer reads it.
        length: Tokens that the model reads together.
        field: Of JSONL and Parquet.

    Raises:
        LoadError: A file is not there.
        BadInput: There is too little text.
    """
    from digsite.tasks import Corpus

    whole = Corpus.read(files, model, length=length or min(LENGTH, model.n_ctx or LENGTH), field=field)
    count = len(whole)
    held = min(_HELD, max(_LEAST, count // 10))
    if count < 2 * _LEAST:
        asked = f"{whole.name} is too little text to learn from and to judge on"
        found = f"{count} sequences of {whole.length} tokens"
        raise BadInput(
            explain(asked, found=found, possible=f"{2 * _LEAST} or more", do="give more text, or a smaller --length")
        )
    learn, rest = whole.split(count - held)
    return Halves(learn, rest, count - held)


def unseen(
    files: list[Path], model: "Model", origin: Mapping[str, Any], *, field: str
) -> tuple["Corpus", "Corpus | None"]:
    """The part of a text that a dictionary did not learn from, and the part that it did, if it is the same text.

    Args:
        files: The text.
        model: Its tokenizer reads it.
        origin: The record of the dictionary.
        field: Of JSONL and Parquet.

    Raises:
        LoadError: A file is not there.
        BadInput: A length that the model does not take.
    """
    from digsite.tasks import Corpus

    length, sequences = origin.get("length"), origin.get("sequences")
    taken = length if isinstance(length, int) else min(LENGTH, model.n_ctx or LENGTH)
    whole = Corpus.read(files, model, length=taken, field=field)
    if not isinstance(sequences, int) or len(whole) <= sequences:
        return whole, None
    learned, rest = whole.split(sequences)
    return (rest, learned) if learned.fingerprint == origin.get("tokens") else (whole, None)
