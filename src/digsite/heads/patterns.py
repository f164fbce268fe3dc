"""Which pairs of positions each kind of head looks at: destinations that attend, sources that are attended to.

Pairs are columns of the token grid, right under padding on either side; a position never pairs with one after it.

1. previous token: the source is one position before.
2. duplicate token: the source is an earlier copy of the destination's token.
3. induction: the source comes right after an earlier copy of the destination's token.
4. first token: the source is the first of the row (the BOS where there is one), the destination any later one.
5. labelled: the source is in one span of a task, the destination in another ("answer" is where the answer is read).

A pair that fits two of the kinds 1 to 4 tells nothing about either ("a a": the position before holds the same token);
`told_apart` leaves such pairs out.

`weights` turns pairs into what is summed: all sources of a destination together, the mean over destinations that have
one. `beside` makes the null: the same pairs with each source so many positions aside, and as much of them.
"""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from digsite.models import Tokens
from digsite.tasks import Task

Pairs = Bool[Tensor, "batch dst src"]


def offsets(width: int) -> Int[Tensor, "dst src"]:
    """How far each source lies before each destination."""
    return torch.arange(width)[:, None] - torch.arange(width)


def visible(tokens: Tokens) -> Pairs:
    """Real positions, and the real ones that they may look at: those before them, and themselves."""
    return (offsets(tokens.ids.shape[1]) >= 0) & tokens.mask[:, :, None] & tokens.mask[:, None]


def earlier(tokens: Tokens) -> Pairs:
    """Real positions, and the real ones before them."""
    return (offsets(tokens.ids.shape[1]) > 0) & visible(tokens)


def previous_token(tokens: Tokens) -> Pairs:
    """1. The position before."""
    return (offsets(tokens.ids.shape[1]) == 1) & earlier(tokens)


def duplicate_token(tokens: Tokens) -> Pairs:
    """2. The same token before."""
    return (tokens.ids[:, :, None] == tokens.ids[:, None]) & earlier(tokens)


def induction(tokens: Tokens) -> Pairs:
    """3. What followed the same token before."""
    same = duplicate_token(tokens)
    after = torch.zeros_like(same)
    after[:, :, 1:] = same[:, :, :-1]
    return after & earlier(tokens)


def first_token(tokens: Tokens) -> Pairs:
    """4. The first position of the row."""
    return (tokens.positions[:, None] == 0) & earlier(tokens)


def labelled(task: Task, dst: str, src: str) -> Pairs:
    """5. Spans of a task; both ends may be the name of a span, and the destination "answer".

    Raises:
        BadInput: The task has no such span.
    """
    last = torch.zeros_like(task.clean.mask)
    last[:, task.answer_position] = True
    destinations = last if dst == "answer" else task.inside([dst])
    return destinations[:, :, None] & task.inside([src])[:, None] & visible(task.clean)


KINDS: Mapping[str, Callable[[Tokens], Pairs]] = {
    "previous token": previous_token,
    "duplicate token": duplicate_token,
    "induction": induction,
    "first token": first_token,
}
"""The kinds of head that are told by where they look, and the pairs of each."""


def told_apart(tokens: Tokens) -> dict[str, Pairs]:
    """The pairs of each kind, less those that fit another kind too."""
    pairs = {kind: of(tokens) for kind, of in KINDS.items()}
    alone = torch.stack(list(pairs.values())).sum(0) == 1
    return {kind: some & alone for kind, some in pairs.items()}


def weights(pairs: Pairs) -> Float[Tensor, "batch dst src"]:
    """What attention is weighted with: sums over sources, means over destinations with any; 0 in a row without."""
    return pairs / pairs.any(2).sum(1).clamp(min=1)[:, None, None]


def beside(pairs: Pairs, tokens: Tokens, by: int) -> Float[Tensor, "batch dst src"]:
    """The weights of a null: each source `by` positions later, where that is a real position no later than its own.

    A pair that is among the original ones is left out. What is left of a destination's sources weighs as much as all of
    them did, so that a head which looks everywhere alike gets the same number as from the pairs themselves.
    """
    moved = torch.zeros_like(pairs)
    inner = slice(max(by, 0), pairs.shape[2] + min(by, 0))
    outer = slice(max(-by, 0), pairs.shape[2] + min(-by, 0))
    moved[:, :, inner] = pairs[:, :, outer]
    moved &= visible(tokens) & ~pairs
    size = pairs.sum(2, keepdim=True) / moved.sum(2, keepdim=True).clamp(min=1)
    return weights(moved) * size


def attention(
    pattern: Float[Tensor, "batch head dst src"], weight: Float[Tensor, "batch dst src"]
) -> Float[Tensor, "batch head"]:
    """How much of its attention each head gives to the pairs."""
    return torch.einsum("bhds,bds->bh", pattern.float(), weight.to(pattern.device, torch.float32))
