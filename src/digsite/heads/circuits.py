"""What heads do with a token by their weights alone: copy it, or say what comes after it.

Every head reads the token as `token_streams` gives it, through its layer's norm, W_V and W_O; the unembedding has the
final norm's gain in it. Biases are left out.

1. Copying score: the eigenvalues of W_E W_V W_O W_U, which are those of the d_head × d_head product
   W_O (W_U W_E) W_V: the sum of their real parts by the sum of their sizes. 1 where every token raises its own logit.
   Null: each token embedding with the unembedding of another.
2. Successor score: the share of the items of known orders (days, months …) whose successor has the highest logit among
   the items of that order. Null: other places of the order, such as the item itself and the one before.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from digsite._core.errors import BadInput, explain
from digsite.heads.rows import ordinary_tokens
from digsite.models import Model
from digsite.models.direct import folded_unembedding, head_outputs, head_values, read_by
from digsite.models.token_streams import token_streams
from digsite.models.tokens import one_token

TOKENS = 4096
"""Tokens that the eigenvalues are taken over, drawn from a larger vocabulary."""
DRAWS = 10
STEPS = (-2, -1, 0, 2, 3)
"""Places of an order, counted from the item, that the null of the successor score asks for."""
FEWEST = 5
"""Items of an order, each one token, below which it is left out."""

Orders = Mapping[str, tuple[Sequence[str], bool]]


@torch.no_grad()
def copying(
    model: Model, layers: Sequence[int], *, seed: int
) -> tuple[Float[Tensor, "layer head 1"], Float[Tensor, "layer head draw"]]:
    """The copying score of each head, and that with tokens mixed up."""
    rng = np.random.default_rng(seed)
    known = ordinary_tokens(model)
    ids = torch.tensor(known if len(known) <= TOKENS else sorted(rng.choice(known, TOKENS, replace=False)))
    reads = folded_unembedding(model, ids)
    orders = [torch.arange(len(ids)), *(torch.from_numpy(rng.permutation(len(ids))) for _ in range(DRAWS))]
    found = []
    for layer in layers:
        streams = read_by(model, layer, "attn", token_streams(model, ids, layer=layer))
        values, outputs = head_values(model, layer), head_outputs(model, layer)
        found.append(torch.stack([_share(outputs @ (reads[:, order] @ streams) @ values) for order in orders], -1))
    scores = torch.stack(found).cpu()
    return scores[..., :1], scores[..., 1:]


def _share(products: Float[Tensor, "head d_head d_head"]) -> Float[Tensor, " head"]:
    eigenvalues = torch.linalg.eigvals(products.double())
    return (eigenvalues.real.sum(-1) / eigenvalues.abs().sum(-1).clamp(min=1e-30)).float()


@torch.no_grad()
def succession(
    model: Model, layers: Sequence[int], orders: Orders
) -> tuple[Float[Tensor, "layer head example"], Float[Tensor, "layer head draw"]]:
    """Whether each head raises most, of an order, what comes next; and the same for other places of the order.

    Raises:
        BadInput: No order has enough items that are one token.
    """
    known = known_orders(model, orders)
    if not known:
        raise BadInput(
            explain(
                "A successor head cannot be looked for",
                found=f"no order of which {FEWEST} items in a row are one token each",
                do="give orders={'name': (items, goes_round)} in this model's words, or leave 'successor' out",
            )
        )
    found = []
    for layer in layers:
        values, outputs = head_values(model, layer), head_outputs(model, layer)
        said = []
        for ids, goes_round in known:
            streams = read_by(model, layer, "attn", token_streams(model, ids, layer=layer))
            logits = torch.einsum("td,hdk,hke->hte", streams, values, outputs) @ folded_unembedding(model, ids)
            said.append(_places(logits.argmax(-1).cpu(), goes_round=goes_round))
        found.append(torch.cat(said, 1))
    hits = torch.stack(found).float()  # [layer, head, item, step]
    return hits[..., 0].contiguous(), hits[..., 1:].mean(2)


def _places(top: Tensor, *, goes_round: bool) -> Tensor:
    """[head, item, step]: whether the top item stands one further than each item, and at each step of the null."""
    count = top.shape[1]
    at = torch.arange(count)
    items = at if goes_round else at[: count - 1]
    wanted = torch.stack([at + step for step in (1, *STEPS)], -1)
    wanted = wanted % count if goes_round else wanted
    return (top[..., None] == wanted)[:, items]


def known_orders(model: Model, orders: Orders) -> list[tuple[Int[Tensor, " place"], bool]]:
    """The ids of each order's items, as far as they are one token each, and whether the last precedes the first."""
    found = []
    for items, goes_round in orders.values():
        ids = _longest_run(model, items)
        if len(ids) >= FEWEST:
            found.append((torch.tensor(ids), goes_round and len(ids) == len(items)))
    return found


def _longest_run(model: Model, items: Sequence[str]) -> list[int]:
    """The ids of the longest run of items that are one token each, written with a space before them or without."""
    best: list[int] = []
    for write in (" {}".format, "{}".format):
        run: list[int] = []
        for token in (*(one_token(model.tokenizer, write(item)) for item in items), None):
            if token is not None and token not in run:
                run.append(token)
                continue
            best, run = max(best, run, key=len), []
    return best
