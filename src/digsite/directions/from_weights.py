"""Directions that the weights give in closed form."""

from digsite._core.errors import BadInput, explain
from digsite.directions.direction import Direction
from digsite.models import Model, folded, made_by
from digsite.sites import Site


def token_direction(model: Model, token: str | int, *, against: str | int | None = None) -> Direction:
    """Along which direction the last stream must move for a token to become likelier: what the unembedding reads.

    Args:
        model: The model.
        token: An id, or a string that is one token, with its leading space.
        against: A token that is to become unlikelier, in the same way; None for none.

    Returns:
        W_U[:, token] - W_U[:, against], with the gain of the final norm folded in, at the last resid_post. The logit
        difference is its reading divided by the norm's scale, up to the biases.

    Raises:
        BadInput: The string is not one token.

    Caveats:
        Bias, logit scale and soft-cap are left out; they do not depend on the stream.
    """
    W_U, norm = model.weights.W_U.detach(), model.weights.norm(None)
    W_U = W_U if norm is None else folded(W_U, norm)
    vector = W_U[:, _id(model, token)]
    vector = vector if against is None else vector - W_U[:, _id(model, against)]
    name = f"{token}" if against is None else f"{token} rather than {against}"
    call = f"digsite.directions.token_direction(model, {token!r}, against={against!r})"
    site = Site("resid_post", layer=model.n_layers - 1)
    return Direction(site=site, vector=vector, name=name, how="unembedding", provenance=made_by(call, model))


def _id(model: Model, token: str | int) -> int:
    if isinstance(token, int):
        if not 0 <= token < model.d_vocab:
            raise BadInput(explain(f"Token id {token} is not in the vocabulary", possible=f"0 to {model.d_vocab - 1}"))
        return token
    ids = model.tokens([token], special=False).ids[0].tolist()
    if len(ids) != 1:
        raise BadInput(
            explain(f"{token!r} is not one token", found=f"{len(ids)} tokens", do="give one token, or its id")
        )
    return ids[0]
