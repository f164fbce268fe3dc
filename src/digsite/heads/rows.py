"""The rows that heads are looked at on: random tokens said twice, and where any row foretells its next token."""

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from digsite._core.errors import BadInput, explain
from digsite.models import Model, Tokens
from digsite.models.tokens import leading_bos

LONGEST = 25
"""Tokens of a random segment, where the context has room for it twice."""


def ordinary_tokens(model: Model) -> list[int]:
    """The ids that stand for text: no special tokens, and no single bytes of a tokenizer that falls back on them."""
    if model.tokenizer is None:
        return list(range(model.d_vocab))
    special = set(model.tokenizer.all_special_ids)
    pieces = model.tokenizer.convert_ids_to_tokens(list(range(model.d_vocab)))
    return [i for i, piece in enumerate(pieces) if i not in special and not _is_filler(piece)]


def _is_filler(piece: str | None) -> bool:
    return piece is None or (len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"))


def random_repeats(model: Model, rows: int, *, length: int | None = None, seed: int = 0) -> Tokens:
    """Rows of ordinary tokens drawn at random and then said again: [BOS] r1 … rn r1 … rn.

    Nothing in them can be foretold but that the second half is the first, so that what a head does there it does
    because of the repetition. A BOS leads where the tokenizer puts one. No token comes twice in a segment, where the
    vocabulary is large enough.

    Args:
        model: The model.
        rows: How many.
        length: Tokens of a segment; as many as the context has room for twice, at most 25, if None.
        seed: Of the draw.

    Raises:
        BadInput: A length that does not fit the context.

    Source: Olsson et al. 2022, "In-context Learning and Induction Heads".
    """
    bos = leading_bos(model.tokenizer)
    lead = [] if bos is None else [bos]
    room = (LONGEST * 2 + 1 if model.n_ctx is None else model.n_ctx) - len(lead)
    known = ordinary_tokens(model)
    most = min(LONGEST, room // 2)
    length = min(most, len(known)) if length is None else length
    if not 2 <= length <= room // 2 or rows < 1:
        raise BadInput(
            explain(
                "Random repeats need a row or more, and segments that the context has room for twice",
                found=f"rows={rows}, length={length}",
                possible=f"length 2 to {room // 2}",
            )
        )
    rng = np.random.default_rng(seed)
    segments = [rng.choice(known, length, replace=length > len(known)).tolist() for _ in range(rows)]
    made = model.tokens([lead + segment + segment for segment in segments])
    return Tokens(made.ids, made.mask, bos="put in front" if lead else "none", tokenizer=model.tokenizer)


def foretold(tokens: Tokens) -> Bool[Tensor, "batch pos"]:
    """Where the next token can be foretold from the row itself: it followed this token before."""
    ids = tokens.ids
    pair = torch.stack([ids[:, :-1], ids[:, 1:]], -1)
    real = tokens.mask[:, :-1] & tokens.mask[:, 1:]
    same = (pair[:, :, None] == pair[:, None]).all(-1) & real[:, :, None] & real[:, None]
    again = same.tril(-1).any(-1)
    return torch.nn.functional.pad(again, (0, 1))
