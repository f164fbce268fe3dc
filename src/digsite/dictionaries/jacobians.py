"""Whether a transcoder computes what the model computes: not only the same output, but by the same local rule.

1. At sampled tokens, the Jacobian of the model's own part from what the dictionary reads to what it writes, and that of
   the dictionary there. Both as products with the same vectors: all of a basis where there are few coordinates, else
   random orthonormal ones.
2. Their cosine as matrices: <J, J'> / (|J| |J'|), Frobenius.
3. Controls: the dictionary's Jacobian beside the model's at another token, and the best dense linear map beside the
   model's. A dictionary that only rebuilds outputs is no closer than these.

A token at which both Jacobians are zero says nothing and is left out.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from digsite._core.cost import count_backward, measure
from digsite._core.errors import Unsupported, explain
from digsite._core.numerics import bootstrap_interval
from digsite._core.progress import track
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.dictionaries.dictionary import Dictionary
from digsite.dictionaries.halves import halves
from digsite.dictionaries.moments import Moments
from digsite.dictionaries.splice import rows_in, rows_of
from digsite.models import Model, Tokens, made_by
from digsite.store import Rows

Route = tuple[str, str]
ALIKE = 0.005
"""Cosines that differ by less are alike."""


@dataclass(frozen=True, kw_only=True)
class JacobianFaithfulness(Result):
    """How like the model's Jacobian a dictionary's is.

    Attributes:
        dictionary: What was judged.
        routes: From what to what, one for each block.
        cosine: Cosine of the two Jacobians, mean over the sampled tokens of each sequence; NaN where all were zero.
        other: The same with the model's Jacobian at another token.
        dense: Cosine of the best dense linear map and the model's Jacobian.
        ratio: Length of the dictionary's Jacobian over that of the model's.
        tokens: Tokens sampled in each sequence.
        probes: Vectors that the Jacobians were multiplied with.
        exact: Whether these were a whole basis, for each route.
    """

    SCHEMA: ClassVar[str] = "dictionaries.jacobian_faithfulness/1"

    dictionary: str
    routes: tuple[str, ...]
    cosine: Float[Tensor, "route example"]
    other: Float[Tensor, "route example"]
    dense: Float[Tensor, "route example"]
    ratio: Float[Tensor, "route example"]
    tokens: int
    probes: int
    exact: tuple[bool, ...]

    def to_frame(self) -> pl.DataFrame:
        """One row a route: the cosine with its 95 % interval, its two controls, the ratio of lengths, n."""
        rows = []
        for at, route in enumerate(self.routes):
            there = self.cosine[at][self.cosine[at].isfinite()]
            low, high = bootstrap_interval(there) if len(there) else (torch.nan, torch.nan)
            rows.append(
                {
                    "route": route,
                    "cosine": float(there.mean()),
                    "low": float(low),
                    "high": float(high),
                    "another_token": float(self.other[at].nanmean()),
                    "dense_map": float(self.dense[at].nanmean()),
                    "ratio": float(self.ratio[at].nanmean()),
                    "exact": self.exact[at],
                    "n": len(there),
                }
            )
        return pl.DataFrame(rows)

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        worst = min(self.to_frame().to_dicts(), key=lambda row: row["cosine"])
        failed = [
            name
            for key, name in (("another_token", "the Jacobian of another token"), ("dense_map", "a dense linear map"))
            if worst[key] >= worst["low"] - ALIKE
        ]
        lost = f", so it is no more faithful than {' and '.join(failed)}" if failed else ""
        where = f" (worst of {len(self.routes)} routes: {worst['route']})" if len(self.routes) > 1 else ""
        return (
            f"{self.dictionary}: its Jacobian has a cosine of {worst['cosine']:.2f} with the model's (95 % "
            f"{worst['low']:.2f} to {worst['high']:.2f}){where}; with that of another token "
            f"{worst['another_token']:.2f}; a dense linear map has {worst['dense_map']:.2f}{lost}; "
            f"n = {worst['n']} sequences"
        )


@method
def jacobian_faithfulness(
    model: Model,
    dictionary: Dictionary,
    corpus: Any,
    *,
    rows: int = 32,
    tokens: int = 4,
    probes: int = 64,
    seed: int = 0,
) -> JacobianFaithfulness:
    """Whether a transcoder, a skip transcoder, a MOLT or each layer of a CLT computes by the model's own local rule.

    Args:
        model: The model.
        dictionary: Each of its blocks reads one column and writes, first of all, what the model makes of it at the same
            token.
        corpus: Text that it was not trained on: anything with `batches(batch_size)`.
        rows: Sequences to judge; as many more are used to fit the dense map.
        tokens: Tokens sampled in each.
        probes: Vectors that the Jacobians are multiplied with, where what is written is wider.
        seed: Of the sampled tokens and the vectors.

    Raises:
        Unsupported: A block writes what it reads, or attention lies between what it reads and what it writes.
        BadInput: Fewer than four sequences.

    Units: cosines, from -1 to 1.

    Source: transformer-circuits.pub/2025/bulk-update (MOLTs), where the Jacobian cosine is the measure of faithfulness.

    Caveats:
        Where one linear map is nearly all that an MLP does, a dense map has a high cosine too: read the cosine beside
        its controls. Of a cross-layer transcoder only what a layer reads itself is differentiated: what it takes from
        earlier layers counts against it.
    """
    routes = _routes(dictionary)
    columns = tuple(dict.fromkeys(column for route in routes for column in route))
    fit, held = halves(corpus, rows, batch=1)
    training, drawn = dictionary.training, torch.Generator().manual_seed(seed)
    dictionary.eval()
    try:
        with measure() as cost:
            dense = _dense_maps(model, routes, columns, fit)
            vectors = {write: _probes(dictionary.config.columns[write].width, probes, drawn) for _, write in routes}
            found = [
                _sequence(model, dictionary, routes, columns, one, vectors, dense, tokens, drawn)
                for one in track(held, "comparing Jacobians")
            ]
    finally:
        dictionary.train(training)
    cosine, other, linear, ratio = torch.stack(found, 2)
    return JacobianFaithfulness(
        dictionary=repr(dictionary).removeprefix("Dictionary "),
        routes=tuple(f"{read} → {write}" for read, write in routes),
        cosine=cosine,
        other=other,
        dense=linear,
        ratio=ratio,
        tokens=tokens,
        probes=probes,
        exact=tuple(len(vectors[write]) == vectors[write].shape[1] for _, write in routes),
        provenance=made_by(
            f"digsite.dictionaries.jacobian_faithfulness(model, dictionary, corpus, rows={rows}, tokens={tokens})",
            model,
            corpus.fingerprint,
            seed=seed,
        ),
        cost=cost,
    )


def _routes(dictionary: Dictionary) -> list[Route]:
    if not dictionary.routes:
        found = "; ".join(f"{', '.join(b.config.reads)} → {', '.join(b.config.writes)}" for b in dictionary.blocks)
        asked = "Only what is made of one other column has a Jacobian to compare"
        raise Unsupported(explain(asked, found=found, possible="transcoders, MOLTs, cross-layer transcoders"))
    return dictionary.routes


def _probes(width: int, most: int, drawn: torch.Generator) -> Float[Tensor, "probe d"]:
    """1. A whole basis where it is small, else random orthonormal vectors."""
    if width <= most:
        return torch.eye(width)
    return torch.linalg.qr(torch.randn(width, most, generator=drawn))[0].T.contiguous()


@torch.no_grad()
def _dense_maps(
    model: Model, routes: list[Route], columns: tuple[str, ...], fit: Iterable[Tokens]
) -> dict[Route, Float[Tensor, "e d"]]:
    moments: Moments | None = None
    for tokens in track(fit, "fitting dense maps"):
        rows = rows_of(model.run(tokens, read=columns, logits=None), columns, rows_in(tokens))
        moments = moments or Moments({name: x.shape[1] for name, x in rows.items()}, columns)
        moments.add(rows)
    assert moments is not None
    return {route: moments.linear(*route).float() for route in routes}


def _sequence(
    model: Model,
    dictionary: Dictionary,
    routes: list[Route],
    columns: tuple[str, ...],
    tokens: Tokens,
    vectors: Mapping[str, Tensor],
    dense: Mapping[Route, Tensor],
    count: int,
    drawn: torch.Generator,
) -> Float[Tensor, "4 route"]:
    """1. to 3. for one sequence: cosine, with another token, of the dense map, ratio of lengths."""
    there = rows_in(tokens)[0].nonzero().flatten()
    chosen = there[torch.randperm(len(there), generator=drawn)[:count]]
    run = model.run(tokens, read=columns, logits=None, grad=True)
    given = Rows({name: run[name].detach().flatten(2)[0, chosen] for name in columns}, ids=tokens.ids[0, chosen])
    found = []
    for read, write in routes:
        own = _of_model(run[read], run[write], vectors[write], chosen)
        ours = _of_dictionary(dictionary, read, write, given, vectors[write])
        map_ = (vectors[write] @ dense[read, write]).unsqueeze(1).expand_as(own)
        cells = (_cosine(ours, own), _cosine(ours, own.roll(1, 1)), _cosine(map_, own))
        if len(chosen) < 2:
            cells = (cells[0], torch.full_like(cells[1], torch.nan), cells[2])
        lengths = torch.where(_length(own) > 0, _length(ours) / _length(own), torch.nan)
        found.append(torch.stack([*(each.nanmean() for each in cells), lengths.nanmean()]))
    return torch.stack(found, 1)


def _of_model(x: Tensor, y: Tensor, vectors: Tensor, chosen: Tensor) -> Float[Tensor, "probe token d"]:
    """Vectors times the Jacobian of the model's part, at the chosen tokens."""
    if not y.requires_grad:
        raise _no_way()
    flat, found = y.flatten(2)[0, chosen], []
    for v in vectors.to(y.device, y.dtype):
        (grad,) = torch.autograd.grad((flat @ v).sum(), x, retain_graph=True, allow_unused=True)
        count_backward(1)
        if grad is None:
            raise _no_way()
        found.append(grad.flatten(2)[0, chosen])
    (one,) = torch.autograd.grad(flat[0].sum(), x, retain_graph=True)
    apart = torch.ones(x.shape[1], dtype=torch.bool, device=x.device)
    apart[chosen[0]] = False
    if one.flatten(2)[0, apart].any():
        raise Unsupported(
            explain(
                "What a token writes depends on what other tokens read there, so it has no Jacobian of its own",
                found="attention between the two sites",
                do="compare sites on both sides of an MLP",
            )
        )
    return torch.stack(found).float().cpu()


def _no_way() -> Unsupported:
    return Unsupported(
        explain("What is written does not depend on what is read", do="name sites before and after an MLP")
    )


def _of_dictionary(
    dictionary: Dictionary, read: str, write: str, rows: Rows, vectors: Tensor
) -> Float[Tensor, "probe token d"]:
    """Vectors times the Jacobian of what the dictionary makes of one column that it reads; the others stay."""
    like = dictionary.b_dec[0]
    near = rows.to(like.device, like.dtype)
    x = near[read].clone().requires_grad_()
    given = Rows({**near, read: x}, ids=near.ids)
    with torch.enable_grad():
        y = dictionary.column(write, dictionary.encode(given), given)
        grads = [
            torch.autograd.grad((y @ v).sum(), x, retain_graph=True, allow_unused=True)[0]
            for v in vectors.to(like.device, like.dtype)
        ]
    return torch.stack([torch.zeros_like(x) if grad is None else grad for grad in grads]).detach().float().cpu()


def _cosine(a: Float[Tensor, "probe token d"], b: Float[Tensor, "probe token d"]) -> Float[Tensor, " token"]:
    """2. Cosine of two matrices at each token; NaN where both are zero, 0 where one is."""
    lengths = _length(a) * _length(b)
    found = (a * b).sum((0, 2)) / lengths
    return torch.where(lengths > 0, found, torch.where(_length(a) + _length(b) > 0, 0.0, torch.nan))


def _length(a: Float[Tensor, "probe token d"]) -> Float[Tensor, " token"]:
    return a.square().sum((0, 2)).sqrt()
