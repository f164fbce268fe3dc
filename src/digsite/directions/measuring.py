"""How large activations are along a direction, on some text: what units other than raw rest on."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from digsite._core.errors import BadInput, explain
from digsite._core.numerics import require_finite
from digsite.directions.direction import Direction, Scale
from digsite.models import Model, Tokens
from digsite.models.measure import TokenSource
from digsite.sites import Site

BATCH = 32


def scale_along(vector: Float[Tensor, " width"], x: Float[Tensor, "row width"]) -> Scale:
    """What activations are like along a vector.

    Args:
        vector: Of any length; readings are along it at length 1.
        x: Activations, one a row.

    Raises:
        BadInput: No rows.
        NotFinite: An activation is NaN or infinite.
    """
    if not len(x):
        raise BadInput(explain("A scale is measured on one activation or more", found="none"))
    x = require_finite("an activation", x).double()
    along = x @ (vector / vector.norm()).to(x)
    return Scale(
        norm=float(x.norm(dim=-1).mean()),
        mean=float(along.mean()),
        sd=float(along.std(correction=0)),
        smallest=float(along.min()),
        largest=float(along.max()),
        rows=len(x),
    )


def measured(direction: Direction, model: Model, corpus: TokenSource | Tokens) -> Direction:
    """The same direction, with the scale that some text gives it.

    Args:
        direction: The direction.
        model: The model that it belongs to.
        corpus: Tokens or a corpus; every real token counts but the BOS and the first of each row.

    Raises:
        BadInput: The direction is one of another model, or there is no token.
    """
    direction.check(model)
    return replace(direction, scale=scale_along(direction.vector, activations(model, corpus, [direction.site])[0]))


def activations(model: Model, corpus: TokenSource | Tokens, sites: Iterable[Site]) -> list[Float[Tensor, "row width"]]:
    """What real tokens have at some sites; not the BOS and the first of each row, which are of another size.

    Args:
        model: The model.
        corpus: Tokens or a corpus.
        sites: Concrete sites, of one head where they name one.
    """
    wanted = list(sites)
    parts: list[list[Tensor]] = [[] for _ in wanted]
    for tokens in corpus.batches(BATCH):
        keep = content(tokens, model.tokenizer)
        run = model.run(tokens, read=wanted, logits=None, to="cpu")
        for part, site in zip(parts, wanted, strict=True):
            part.append(run[site][keep])
    if not parts or not parts[0]:
        raise BadInput(explain("There is no text to measure on", found="an empty corpus"))
    return [torch.cat(part) for part in parts]


def content(tokens: Tokens, tokenizer: Any) -> Tensor:
    """Which cells [batch, pos] hold a real token that is no BOS, nor the first of its row, which is a sink like one."""
    bos = getattr(tokenizer, "bos_token_id", None)
    keep = tokens.mask.clone()
    for row, (start, length) in enumerate(zip(tokens.starts, tokens.lengths, strict=True)):
        keep[row, start] = length == 1
    return keep if bos is None else keep & (tokens.ids != bos)
