"""Text as a stream of token rows: what a mean, a threshold or a dictionary is computed over.

1. Documents come one by one from files or from a list: a paragraph (up to a blank line) of a text file, a line of
   JSONL, a row of Parquet or of a `datasets` object. No more than a few hundred are in memory at once.
2. Each document is tokenised whole.
3. Packed: documents are joined and cut into rows of exactly `length` tokens. Where the tokenizer itself puts a BOS
   before a text, every document and every row begins with it; otherwise the EOS stands between documents. The rest that
   fills no row is left out and counted.
   Otherwise: a document is a row as the tokenizer makes it; what exceeds `length` is cut off and counted.
"""

import hashlib
import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from digsite._core.errors import BadInput, LoadError, explain
from digsite._core.progress import track
from digsite.models import Model, Tokens
from digsite.models.tokens import grid, leading_bos, pad_id

_AT_ONCE = 256
"""Documents tokenised in one call."""


@dataclass
class Census:
    """What a whole pass over a corpus found.

    Attributes:
        documents: Documents with at least one token.
        empty: Documents without text, which are skipped.
        rows: Rows given.
        tokens: Tokens in these rows, BOS and EOS included.
        bos: Those of them that are the BOS with which every text begins.
        truncated: Documents that were cut at `length` (not packed).
        tokens_left_out: Tokens that were cut off, or that filled no row.
        fingerprint: Sixteen hex digits that identify all ids, row by row.
    """

    documents: int = 0
    empty: int = 0
    rows: int = 0
    tokens: int = 0
    bos: int = 0
    truncated: int = 0
    tokens_left_out: int = 0
    fingerprint: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Corpus:
    """A stream of token rows with a fingerprint, the same every time it is read.

    Make one with `Corpus.read` (files) or `Corpus.of` (texts, a `datasets` object).

    Attributes:
        name: Where the text comes from.
        length: Tokens in a packed row; the most tokens in a row of a document.
        packed: Whether documents are joined and cut.
        limit: The most rows given; None gives all.
        tokenizer: Makes the tokens.
        documents: Starts the stream of texts anew.
        first: Rows at the beginning that are passed over.
    """

    name: str
    length: int
    packed: bool
    limit: int | None
    tokenizer: Any
    documents: Callable[[], Iterable[str]]
    first: int = 0

    @classmethod
    def read(
        cls,
        path: str | Path | Sequence[str | Path],
        model: Model,
        *,
        length: int,
        packed: bool = True,
        field: str = "text",
        rows: int | None = None,
    ) -> "Corpus":
        """A corpus from one file or several: text, JSONL or Parquet.

        Args:
            path: A .txt, .md, .jsonl, .ndjson or .parquet file, or a list of them.
            model: Its tokenizer makes the tokens; its context bounds `length`.
            length: Tokens in a packed row, or the most tokens kept of a document.
            packed: Join documents and cut them into rows of exactly `length`; False gives a row a document.
            field: The JSONL field or Parquet column that holds the text.
            rows: Stop after this many rows.

        Raises:
            LoadError: A file is not there or cannot be read (while reading: a broken line, a missing field).
            BadInput: A kind of file that is not known, or a `length` that the model does not take.
        """
        paths = [Path(p) for p in ([path] if isinstance(path, str | Path) else path)]
        if unknown := [p.name for p in paths if p.suffix.lower() not in _SOURCES]:
            raise BadInput(explain(f"A corpus cannot be read from {', '.join(unknown)}", possible=_SOURCES))
        if absent := [str(p) for p in paths if not p.is_file()]:
            raise LoadError(explain("A corpus file is not there", found=f"no file {', '.join(absent)}"))

        def documents() -> Iterator[str]:
            for p in paths:
                yield from _SOURCES[p.suffix.lower()](p, field)

        return cls._over(documents, model, ", ".join(p.name for p in paths), length=length, packed=packed, rows=rows)

    @classmethod
    def of(
        cls,
        texts: Iterable[str] | Iterable[Mapping[str, Any]],
        model: Model,
        *,
        length: int,
        packed: bool = True,
        field: str = "text",
        rows: int | None = None,
        name: str = "texts",
    ) -> "Corpus":
        """A corpus from a list of strings or a `datasets` object.

        Args:
            texts: Strings, or rows with a field that holds the text; something that can be read more than once.
            model: Its tokenizer makes the tokens; its context bounds `length`.
            length: Tokens in a packed row, or the most tokens kept of a document.
            packed: Join documents and cut them into rows of exactly `length`; False gives a row a document.
            field: The field that holds the text, where rows are not strings.
            rows: Stop after this many rows.
            name: Where the text comes from.

        Raises:
            BadInput: A bare string, something that can be read only once, or a `length` that the model does not take.
        """
        if isinstance(texts, str):
            raise BadInput(explain("A corpus comes as a list of documents", found="one bare string", do="[text]"))
        if isinstance(texts, Iterator):
            raise BadInput(
                explain(
                    "A corpus is read more than once",
                    found=f"a {type(texts).__name__}, which is empty after the first time",
                    do="give a list, a datasets object, or a file",
                )
            )

        def documents() -> Iterator[str]:
            for number, entry in enumerate(texts):
                yield entry if isinstance(entry, str) else _text_of(entry, field, f"row {number} of {name}")

        return cls._over(documents, model, name, length=length, packed=packed, rows=rows)

    @classmethod
    def _over(
        cls,
        documents: Callable[[], Iterable[str]],
        model: Model,
        name: str,
        *,
        length: int,
        packed: bool,
        rows: int | None,
    ) -> "Corpus":
        if model.tokenizer is None:
            raise BadInput(explain("This model has no tokenizer", do="load one beside the model"))
        if length < 2 or (model.n_ctx is not None and length > model.n_ctx):
            raise BadInput(explain(f"length={length} is no length of a row", possible=f"2 to {model.n_ctx or 'any'}"))
        if rows is not None and rows < 1:
            raise BadInput(explain(f"rows={rows} is no number of rows", possible="1 or more, or None for all"))
        return cls(name, length, packed, rows, model.tokenizer, documents)

    def split(self, rows: int) -> tuple["Corpus", "Corpus"]:
        """The first rows, and those that follow them: what is learned from, and what is held out.

        Args:
            rows: How many the first part has, if there are as many.

        Raises:
            BadInput: Less than one.
        """
        if rows < 1 or (self.limit is not None and rows >= self.limit):
            possible = f"1 to {self.limit - 1}" if self.limit else "1 or more"
            raise BadInput(explain(f"A corpus cannot be split after {rows} rows", possible=possible))
        left = None if self.limit is None else self.limit - rows
        return replace(self, limit=rows), replace(self, first=self.first + rows, limit=left)

    # -- reading ---------------------------------------------------------------------------------------------------
    def batches(self, batch_size: int) -> Iterator[Tokens]:
        """The rows in order, `batch_size` at a time, padded on the right where they differ.

        Raises:
            LoadError: A document cannot be read; the message says where.
            BadInput: There is not one row.
        """
        rows = self._rows(Census())
        first = True
        while chunk := list(islice(rows, batch_size)):
            first = False
            yield grid(chunk, pad=pad_id(self.tokenizer), bos=self.bos, tokenizer=self.tokenizer)
        if first:
            raise self._no_row()

    def __len__(self) -> int:
        """Rows; reads the whole corpus once."""
        return self.census.rows

    @property
    def n_tokens(self) -> int:
        """Tokens in all rows; reads the whole corpus once."""
        return self.census.tokens

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits that identify all ids, row by row; reads the whole corpus once."""
        return self.census.fingerprint

    @cached_property
    def census(self) -> Census:
        """What is in the corpus and what was left out of it; reads the whole corpus once."""
        found, digest = Census(), hashlib.sha256()
        for row in track(self._rows(found), f"reading {self.name}", total=self.limit):
            found.rows, found.tokens = found.rows + 1, found.tokens + len(row)
            found.bos += 0 if self.bos_id is None else row.count(self.bos_id)
            digest.update(array("q", [len(row), *row]).tobytes())
        if not found.rows:
            raise self._no_row()
        found.fingerprint = digest.hexdigest()[:16]
        return found

    @cached_property
    def bos(self) -> str:
        """Whether rows start with a BOS, and who put it there."""
        if self._leads:
            return "at the start of every row, as the tokenizer does" if self.packed else "added by the tokenizer"
        return "none" if self.tokenizer.bos_token_id is not None else "none (the tokenizer has no BOS)"

    @property
    def bos_id(self) -> int | None:
        """The BOS with which every text begins; None where the tokenizer puts none."""
        return self.tokenizer.bos_token_id if self._leads else None

    @cached_property
    def _leads(self) -> bool:
        """Whether the tokenizer puts a BOS before every text."""
        return leading_bos(self.tokenizer) is not None

    def _rows(self, found: Census) -> Iterator[list[int]]:
        rows = self._packed_rows(found) if self.packed else self._document_rows(found)
        return islice(rows, self.first, None if self.limit is None else self.first + self.limit)

    def _document_rows(self, found: Census) -> Iterator[list[int]]:
        for ids in self._tokenised(found, special=True):
            found.truncated += len(ids) > self.length
            found.tokens_left_out += max(0, len(ids) - self.length)
            yield ids[: self.length]

    def _packed_rows(self, found: Census) -> Iterator[list[int]]:
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        between = [bos] if self._leads else [eos] if eos is not None else []
        waiting: list[int] = list(between) if self._leads else []
        for number, ids in enumerate(self._tokenised(found, special=False)):
            waiting += ids if number == 0 else between + ids
            start = 0
            while start < len(waiting):
                lead = [bos] if self._leads and waiting[start] != bos else []
                stop = start + self.length - len(lead)
                if stop > len(waiting):
                    break
                yield lead + waiting[start:stop]
                start = stop
            del waiting[:start]
        found.tokens_left_out = len(waiting)

    def _tokenised(self, found: Census, *, special: bool) -> Iterator[list[int]]:
        """The ids of every document that has any, with its counts."""
        documents = iter(self.documents())
        while chunk := list(islice(documents, _AT_ONCE)):
            full = [text for text in chunk if text.strip()]
            found.empty += len(chunk) - len(full)
            coded = self.tokenizer(full, add_special_tokens=special, verbose=False)["input_ids"] if full else []
            for ids in coded:
                found.documents, found.empty = found.documents + bool(ids), found.empty + (not ids)
                if ids:
                    yield ids

    def _no_row(self) -> BadInput:
        what = f"{self.length} tokens" if self.packed else "a document with text"
        return BadInput(
            explain(f"The corpus {self.name} has not one row", found=f"less than {what}", do="give more text")
        )

    def __repr__(self) -> str:
        kind = f"packed rows of {self.length}" if self.packed else f"one row a document, at most {self.length}"
        head = f"Corpus {self.name}: {kind} tokens; BOS {self.bos}"
        if "census" not in self.__dict__:
            return f"{head}\n  not counted yet (len(corpus) reads it once)"
        seen = self.census
        cut = f"; {seen.truncated} documents cut at {self.length}" if not self.packed else ""
        return (
            f"{head}\n  {seen.rows} rows, {seen.tokens} tokens, {seen.documents} documents ({seen.empty} empty skipped)"
            f"{cut}; {seen.tokens_left_out} tokens left out; fingerprint {seen.fingerprint}"
        )


# -- documents of a file -------------------------------------------------------------------------------------------
def _paragraphs(path: Path, _field: str) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as lines:
            paragraph: list[str] = []
            for line in lines:
                if line.strip():
                    paragraph.append(line)
                elif paragraph:
                    yield "".join(paragraph).rstrip("\n")
                    paragraph = []
            if paragraph:
                yield "".join(paragraph).rstrip("\n")
    except UnicodeDecodeError as error:
        raise LoadError(explain(f"{path} is not UTF-8 text", found=str(error), do="convert it to UTF-8")) from error


def _json_lines(path: Path, field: str) -> Iterator[str]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
            except ValueError as error:
                raise LoadError(explain(f"Line {number} of {path} is not JSON", found=str(error))) from error
            yield _text_of(entry, field, f"line {number} of {path}")


def _parquet(path: Path, field: str) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            if field not in file.schema_arrow.names:
                raise LoadError(
                    explain(f"{path} has no column {field!r}", possible=file.schema_arrow.names, near=field)
                )
            for batch in file.iter_batches(_AT_ONCE, columns=[field]):
                for text in batch.column(0).to_pylist():
                    yield _text_of({field: text}, field, f"a row of {path}")
    except pa.ArrowInvalid as error:
        raise LoadError(explain(f"{path} is not a Parquet file", found=str(error))) from error


def _text_of(entry: Any, field: str, where: str) -> str:
    if not isinstance(entry, Mapping) or field not in entry:
        has = f"fields {', '.join(map(str, entry))}" if isinstance(entry, Mapping) else f"a {type(entry).__name__}"
        raise LoadError(explain(f"There is no {field!r} in {where}", found=has, do="name it with field="))
    text = entry[field]
    if text is not None and not isinstance(text, str):
        raise LoadError(explain(f"{field!r} in {where} is not text", found=f"a {type(text).__name__}"))
    return text or ""


_SOURCES: dict[str, Callable[[Path, str], Iterator[str]]] = {
    ".txt": _paragraphs,
    ".md": _paragraphs,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
}
