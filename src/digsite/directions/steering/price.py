"""What steering costs: what the model says of text that has nothing to do with it, and how much it repeats itself."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from digsite.models import Edit, Model, Tokens
from digsite.models.measure import TokenSource

BATCH = 16


class Price(NamedTuple):
    """What several sets of edits cost on one text.

    Attributes:
        kl: KL of each row to the run without edits, the mean over its tokens; NaN where logits are not finite.
        loss: Cross entropy of each row, the mean over its tokens that have a next one.
        plain: The same without edits.
    """

    kl: Float[Tensor, "setting text"]
    loss: Float[Tensor, "setting text"]
    plain: Float[Tensor, " text"]


def price(model: Model, text: TokenSource, settings: Sequence[Sequence[Edit]]) -> Price:
    """KL(without edits ‖ with edits) and cross entropy, row by row.

    Args:
        model: The model.
        text: Rows; every real token counts.
        settings: Several sets of edits.

    Units: nats a token.
    """
    kl: list[list[Tensor]] = [[] for _ in settings]
    loss: list[list[Tensor]] = [[] for _ in settings]
    plain = []
    for tokens in text.batches(BATCH):
        before = model.run(tokens).logits.float().log_softmax(-1)
        plain.append(cross_entropy(before, tokens))
        for at, edits in enumerate(settings):
            after = model.run(tokens, edits=edits).logits.float().log_softmax(-1)
            each = (before.exp() * (before - after)).sum(-1).cpu()
            kl[at].append(each.masked_fill(~tokens.mask, 0).sum(1) / tokens.mask.sum(1))
            loss[at].append(cross_entropy(after, tokens))
    joined = [torch.stack([torch.cat(part) for part in parts]) for parts in (kl, loss)]
    return Price(joined[0].clamp_min(0), joined[1], torch.cat(plain))


def cross_entropy(log_p: Float[Tensor, "batch pos vocab"], tokens: Tokens) -> Float[Tensor, " batch"]:
    """Nats for each token of a row that has one before it; NaN for a row of one token."""
    log_p = log_p.cpu()
    each = -log_p[:, :-1].gather(-1, tokens.ids[:, 1:, None])[..., 0]
    real = tokens.mask[:, 1:] & tokens.mask[:, :-1]
    return each.masked_fill(~real, 0).sum(1) / real.sum(1)


def distinct(ids: Sequence[int], n: int = 2) -> float:
    """The share of different n-grams among all of a text: 1 repeats nothing, 0 would repeat one for ever.

    Args:
        ids: The tokens that were generated.
        n: Tokens in an n-gram. A text that is shorter has nothing to repeat.

    Source: Li et al. 2016, arXiv 1510.03055 (distinct-n).
    """
    grams = [tuple(ids[start : start + n]) for start in range(len(ids) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0
