"""What a token says by itself: the baseline that whatever reads the stream has to beat.

1. Of all tokens of a text: which token came `ahead` + 1 later, counted.
2. The counts of a token, with `mass` more that are spread as tokens are in the whole text: p(next | token) =
   (count(token, next) + mass · p(next)) / (count(token) + mass).
3. `mass` is the one of a few under which the last tenth of the text, left out of the counts, is most likely.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import coo_array, csr_array
from torch import Tensor

from digsite.lenses.passages import counted, later
from digsite.models import Model

_MASSES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
_BATCH = 64

Pairs = tuple[Int[np.ndarray, "_"], Int[np.ndarray, "_"]]
"""Tokens, and those that came later."""


@dataclass(frozen=True, eq=False)
class Bigram:
    """What a token alone says of the token `ahead` + 1 later.

    Attributes:
        counts: How often each token was followed by each other one.
        everywhere: How frequent each token is.
        mass: How many counts the whole text is worth.
    """

    counts: csr_array
    everywhere: Float[np.ndarray, " vocab"]
    mass: float

    def log_probs(self, ids: Int[Tensor, " row"]) -> Float[Tensor, "row vocab"]:
        """2. What each token says, as log probabilities.

        Args:
            ids: The tokens.
        """
        said = self.counts[ids.cpu().numpy()].toarray() + self.mass * self.everywhere
        return torch.from_numpy(np.log(said / said.sum(1, keepdims=True))).float().to(ids.device)


def count_bigrams(model: Model, text: Any, *, ahead: int = 0) -> Bigram:
    """Counts a text.

    Args:
        model: Its vocabulary.
        text: A `Corpus`, or `Tokens`.
        ahead: How many tokens lie between a token and the one that it predicts.

    Raises:
        BadInput: No row has enough tokens.
    """
    pairs: list[Pairs] = [
        (tokens.ids[where].numpy(), later(tokens.ids, where, ahead + 1).numpy())
        for tokens, where, _ in counted(text, ahead=ahead, batch=_BATCH)
    ]
    tenth = max(1, len(pairs) // 10)
    part, rest = _bigram(pairs[:-tenth] or pairs, model.d_vocab), pairs[-tenth:]
    likely = [_log_likelihood(replace(part, mass=mass), rest) for mass in _MASSES]  # 3.
    return replace(_bigram(pairs, model.d_vocab), mass=_MASSES[int(np.argmax(likely))])


def _bigram(pairs: Sequence[Pairs], vocab: int) -> Bigram:
    """1. The counts of some pairs."""
    first, second = (np.concatenate(each) for each in zip(*pairs, strict=True))
    counts = coo_array((np.ones(len(first), np.float32), (first, second)), shape=(vocab, vocab)).tocsr()
    frequent = np.bincount(second, minlength=vocab) + 1.0  # one more, so that no token is impossible
    return Bigram(counts, frequent / frequent.sum(), 1.0)


def _log_likelihood(bigram: Bigram, pairs: Sequence[Pairs]) -> float:
    first, second = (np.concatenate(each) for each in zip(*pairs, strict=True))
    counts = np.asarray(bigram.counts.sum(1)).ravel()[first]
    both = bigram.counts[first, second]
    return float(np.log((both + bigram.mass * bigram.everywhere[second]) / (counts + bigram.mass)).sum())
