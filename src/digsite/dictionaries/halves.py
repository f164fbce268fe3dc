"""Held-out text in two halves: one to judge on, one to fit on what a dictionary is compared with."""

from itertools import islice
from typing import Any

import torch

from digsite._core.errors import BadInput, explain
from digsite.dictionaries.splice import rows_in
from digsite.models import Tokens

FEWEST = 4
"""Sequences below which nothing is judged."""


def halves(corpus: Any, rows: int, batch: int) -> tuple[list[Tokens], list[Tokens]]:
    """The batches that baselines are fitted on, and those that are judged; the judged ones come first in the text.

    Args:
        corpus: Anything with `batches(batch_size)`.
        rows: Sequences to judge; as many more to fit on.
        batch: Sequences in a batch.

    Raises:
        BadInput: Fewer than four sequences with more than a BOS.
    """
    if rows < 1 or batch < 1:
        raise BadInput(explain(f"rows={rows}, batch={batch} are no numbers of sequences", possible="1 or more"))
    each = (one for one in corpus.batches(1) if rows_in(one).any() and one.mask.sum() > 1)
    some = list(islice(each, 2 * rows))
    if len(some) < FEWEST:
        asked = f"A dictionary is judged on at least {FEWEST} sequences, half of them for the baselines"
        raise BadInput(explain(asked, found=f"{len(some)}", do="give more text, or shorter rows"))
    half = len(some) // 2
    return _joined(some[half:], batch), _joined(some[:half], batch)


def _joined(each: list[Tokens], batch: int) -> list[Tokens]:
    """Batches of single sequences, padded on the right where they differ."""
    found = []
    for start in range(0, len(each), batch):
        some = each[start : start + batch]
        width = max(tokens.ids.shape[1] for tokens in some)
        ids, mask = (torch.zeros(len(some), width, dtype=kind) for kind in (torch.long, torch.bool))
        for at, tokens in enumerate(some):
            ids[at, : tokens.ids.shape[1]], mask[at, : tokens.ids.shape[1]] = tokens.ids[0], tokens.mask[0]
        found.append(Tokens(ids, mask, bos=some[0].bos, tokenizer=some[0].tokenizer))
    return found
