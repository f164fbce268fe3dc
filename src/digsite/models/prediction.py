"""How well a model predicts a text, sequence by sequence, and how far from another's its prediction is.

Both are means over the tokens that are predicted: every real token but a sequence's first.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from digsite.models.tokens import Tokens


def predicted(logits: Float[Tensor, "batch pos vocab"]) -> Float[Tensor, "batch predicted vocab"]:
    """The log probability of every token as the next one; the last position predicts nothing that is there."""
    return logits[:, :-1].float().log_softmax(-1)


def cross_entropy(said: Float[Tensor, "batch predicted vocab"], tokens: Tokens) -> Float[Tensor, " batch"]:
    """What the text costs: the mean of -log p(next token).

    Args:
        said: What `predicted` gives.
        tokens: The text.

    Units: nats per token.
    """
    ids = tokens.ids[:, 1:].to(said.device)
    return _over_real(-said.gather(-1, ids.unsqueeze(-1)).squeeze(-1), tokens)


def kl(own: Float[Tensor, "*axes vocab"], said: Float[Tensor, "*axes vocab"]) -> Float[Tensor, "*axes"]:
    """KL(own || said), token by token.

    Args:
        own: Log probabilities of the one.
        said: Log probabilities of the other.

    Units: nats.
    """
    return (own.exp() * (own - said)).sum(-1)


def divergence(
    own: Float[Tensor, "batch predicted vocab"], said: Float[Tensor, "batch predicted vocab"], tokens: Tokens
) -> Float[Tensor, " batch"]:
    """KL(own || said): how far a changed model's prediction is from the model's own.

    Args:
        own: What the model predicts.
        said: What the changed one predicts.
        tokens: The text.

    Units: nats per token.
    """
    return _over_real(kl(own, said), tokens)


def _over_real(each: Float[Tensor, "batch predicted"], tokens: Tokens) -> Float[Tensor, " batch"]:
    real = (tokens.mask[:, 1:] & tokens.mask[:, :-1]).to(each.device)
    return torch.where(real, each, 0.0).sum(1) / real.sum(1).clamp(min=1)
