"""A text as a lens meets it: the stream at each token, and what the model itself said there. A batch at a time.

1. Of every row the tokens count that are no BOS and have `ahead` + 1 more behind them: what the model said `ahead`
   tokens later is there, and the token that came after that.
2. A few rows of text go through the model once, read at all points of the stream.
3. Nothing of a batch is kept when the next one comes: the memory that this takes does not grow with the text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from digsite._core.errors import BadInput, NotFinite, explain
from digsite.models import Model, Run, Tokens
from digsite.tasks import Corpus


@dataclass(frozen=True, eq=False)
class Passage:
    """One batch of text.

    Attributes:
        run: Its run.
        where: The tokens that count.
        first: Number of its first row of text.
    """

    run: Run
    where: Bool[Tensor, "batch pos"]
    first: int

    def stream(self, site: str, ahead: int = 0) -> Float[Tensor, "row d_model"]:
        """The stream at a point, `ahead` tokens later than the tokens that count."""
        return later(self.run[site], self.where, ahead)

    def logits(self, ahead: int = 0) -> Float[Tensor, "row vocab"]:
        """What the model said `ahead` tokens later.

        Raises:
            NotFinite: It said a NaN or an infinity.
        """
        said = later(self.run.logits, self.where, ahead)
        if not bool(torch.isfinite(said).all()):
            rows = f"rows {self.first} to {self.first + len(self.where) - 1} of the text"
            raise NotFinite(explain("The model's logits are not finite", found=rows, do="load it in float32"))
        return said

    def said(self, ahead: int = 0) -> Float[Tensor, "row vocab"]:
        """The same as log probabilities."""
        return log_probs(self.logits(ahead))

    def ids(self, ahead: int = 0) -> Int[Tensor, " row"]:
        """The tokens, or those that came `ahead` later."""
        return later(self.run.tokens.ids, self.where, ahead)

    @property
    def rows(self) -> Int[Tensor, " row"]:
        """Of each token that counts, its row of text; rows with no token that counts are passed over in numbering."""
        return self.where.nonzero()[:, 0].unique(return_inverse=True)[1]

    def by_row(self, values: Float[Tensor, "*cells row"]) -> Float[Tensor, "*cells example"]:
        """The mean over the tokens of each row of text; on the CPU.

        Args:
            values: One for each token that counts.
        """
        rows = self.rows
        counts = rows.bincount()
        sums = torch.zeros(*values.shape[:-1], len(counts), dtype=torch.float64)
        return (sums.index_add_(-1, rows, values.double().cpu()) / counts).float()


@torch.no_grad()
def passages(
    model: Model, text: Any, sites: Sequence[str], *, ahead: int = 0, batch: int = 8, rows: int | None = None
) -> Iterator[Passage]:
    """A text, batch by batch.

    Args:
        model: The model.
        text: A `Corpus`, or `Tokens`.
        sites: Points of the stream that are read.
        ahead: How many tokens ahead is looked.
        batch: Rows in a pass.
        rows: Stop after this many rows; None for all.

    Raises:
        BadInput: No row has enough tokens.
    """
    for tokens, where, first in counted(text, ahead=ahead, batch=batch, rows=rows):
        yield Passage(model.run(tokens, read=sites), where, first)


def learned(corpus: Corpus) -> dict[str, Any]:
    """What is written down of a text that a lens is fitted on, so that it is never judged on the same."""
    return {
        "corpus": corpus.name,
        "tokens": corpus.fingerprint,
        "length": corpus.length,
        "sequences": len(corpus),
    }


def counted(
    text: Any, *, ahead: int, batch: int, rows: int | None = None
) -> Iterator[tuple[Tokens, Bool[Tensor, "batch pos"], int]]:
    """1. The batches of a text, which of their tokens count, and the number of their first row.

    Args:
        text: A `Corpus`, or `Tokens`.
        ahead: How many tokens ahead is looked.
        batch: Rows in a batch.
        rows: Stop after this many rows; None for all.

    Raises:
        BadInput: No row has enough tokens.
    """
    first, found = 0, False
    for tokens in text.batches(batch):
        some = tokens if rows is None or first + len(tokens) <= rows else tokens[: rows - first]
        where = torch.zeros_like(some.mask)
        where[:, : -ahead - 1] = some.without_bos[:, : -ahead - 1] & some.mask[:, ahead + 1 :]
        if bool(where.any()):
            found = True
            yield some, where, first
        first += len(tokens)
        if rows is not None and first >= rows:
            break
    if not found:
        raise BadInput(explain(f"No row of the text has {ahead + 2} tokens beside a BOS", do="give longer text"))


def log_probs(logits: Float[Tensor, "*axes vocab"]) -> Float[Tensor, "*axes vocab"]:
    """Logits as log probabilities, in float32."""
    return logits.float().log_softmax(-1)


def later(
    x: Shaped[Tensor, "batch pos *axes"], where: Bool[Tensor, "batch pos"], ahead: int
) -> Shaped[Tensor, "row *axes"]:
    """What is `ahead` columns behind the tokens that count.

    Args:
        x: Something of every token.
        where: The tokens that count; none of the last `ahead` columns.
        ahead: How many.
    """
    return x[:, ahead:][where[:, : x.shape[1] - ahead].to(x.device)]
