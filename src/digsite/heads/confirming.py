"""Does the model need these heads to go on with what it has read? The causal check behind induction scores.

1. Rows in which something is said twice: random repeats, or rows that are given.
2. The loss on every token that followed the same token before, so that the row itself foretells it; the mean of a row.
3. The same with the heads replaced by their mean over these rows.
4. Null: the same with as many other heads of the model, drawn at random.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from digsite._core.cost import measure
from digsite._core.errors import BadInput, explain
from digsite._core.numerics import bootstrap_interval
from digsite._core.progress import track
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.heads.rows import foretold, random_repeats
from digsite.models import Edit, Model, Tokens, ablate, made_by, replace

Head = tuple[int, int]
"""Layer and head."""


@dataclass(frozen=True, kw_only=True)
class HeadCheck(Result):
    """What is lost of copying from context without some heads, beside as many other heads.

    Attributes:
        model: The model.
        heads: What was knocked out.
        losses: Of each row with the whole model, in nats: the mean over tokens that the row itself foretells.
        without: The same without the heads.
        others: The same without as many other heads, for each draw.
        drawn: Which other heads.
    """

    SCHEMA: ClassVar[str] = "heads.check/1"

    model: str
    heads: tuple[tuple[int, int], ...]
    losses: Float[Tensor, " example"]
    without: Float[Tensor, " example"]
    others: Float[Tensor, "draw example"]
    drawn: tuple[tuple[tuple[int, int], ...], ...]

    @property
    def rise(self) -> Float[Tensor, " example"]:
        """By how much the loss of each row rises without the heads, in nats."""
        return self.without - self.losses

    @property
    def null(self) -> Float[Tensor, " draw"]:
        """By how much it rises without other heads, the mean over rows for each draw."""
        return (self.others - self.losses).mean(1)

    def to_frame(self) -> pl.DataFrame:
        """One row for the heads and one for each draw of others: the rise of the loss with its interval."""
        rises = torch.cat([self.rise[None], self.others - self.losses])
        low, high = bootstrap_interval(rises.T)
        named = [_named(heads) for heads in (self.heads, *self.drawn)]
        return pl.DataFrame(
            {
                "heads": named,
                "drawn": [False] + [True] * len(self.drawn),
                "rise": rises.mean(1).tolist(),
                "low": low.tolist(),
                "high": high.tolist(),
            }
        ).with_columns(n=pl.lit(len(self.losses)))

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        row = self.to_frame().row(0, named=True)
        high = float(self.null.max())
        told = "more than" if row["low"] > high else "no more than"
        return (
            f"without {row['heads']} the loss on what the row foretells rises by {row['rise']:.2f} nats "
            f"(95 % {row['low']:.2f} to {row['high']:.2f}; from {self.losses.mean():.2f}), {told} without "
            f"{len(self.heads)} other heads (at most {high:.2f} in {len(self.null)} draws; n = {row['n']} rows)"
        )


@method
@torch.no_grad()
def confirm_heads(
    model: Model,
    heads: Sequence[Head],
    *,
    tokens: Tokens | None = None,
    rows: int = 50,
    length: int | None = None,
    draws: int = 20,
    seed: int = 0,
) -> HeadCheck:
    """Whether the model needs these heads to go on with what it has read, more than as many others.

    Args:
        model: The model.
        heads: Such as `scores.found("induction")`.
        tokens: Rows in which something is said twice; random repeats if None.
        rows: Random repeats to draw.
        length: Tokens of a repeated segment.
        draws: How often other heads are drawn.
        seed: Of the rows and the draws.

    Raises:
        BadInput: No head, a head that the model does not have, too few others to draw from, or rows that foretell
            nothing.

    Units: nats a token.

    Source: Olsson et al. 2022, "In-context Learning and Induction Heads", the ablations; mean instead of zero.

    Caveats:
        A head whose work others take over when it is gone looks needless here. A head that is needed need not be an
        induction head: a previous-token head below one is needed too.
    """
    every = [(i, h) for i in range(model.n_layers) if model.anatomy.has((i, "attn.z")) for h in range(model.n_heads)]
    named = tuple(dict.fromkeys((int(layer), int(head)) for layer, head in heads))
    others = [head for head in every if head not in named]
    if not named or not set(named) <= set(every) or len(others) < len(named):
        raise BadInput(
            explain(
                "A check needs heads of this model, and as many others to draw from",
                found=f"{list(named) or 'no head'}",
                possible=f"(layer, head) of {len(every)} heads",
            )
        )
    rows_read = random_repeats(model, rows, length=length, seed=seed) if tokens is None else tokens
    known = foretold(rows_read)
    rows_read, known = _with_any(rows_read, known)
    rng = np.random.default_rng(seed)
    with measure() as cost:
        means = {layer: _mean(model, layer, rows_read) for layer in {layer for layer, _ in every}}
        drawn = [tuple(others[i] for i in rng.choice(len(others), len(named), replace=False)) for _ in range(draws)]
        found = [
            _losses(model, rows_read, known, [replace(_site(*head), means[head[0]][head[1]]) for head in some])
            for some in track([(), named, *drawn], "knocking out heads")
        ]
    return HeadCheck(
        model=model.name,
        heads=named,
        losses=found[0],
        without=found[1],
        others=torch.stack(found[2:]) if draws else torch.zeros(0, len(found[0])),
        drawn=tuple(drawn),
        provenance=made_by(
            f"digsite.heads.confirm_heads(model, {list(named)}, tokens={'tokens' if tokens is not None else None}, "
            f"rows={rows}, length={length}, draws={draws}, seed={seed})",
            model,
            rows_read.fingerprint,
            seed=seed,
        ),
        cost=cost,
    )


def _with_any(tokens: Tokens, known: Tensor) -> tuple[Tokens, Tensor]:
    """The rows that foretell something."""
    rows = known.any(1).nonzero().flatten()
    if not len(rows):
        raise BadInput(
            explain("No row says anything twice", do="give rows in which a token comes again with what followed it")
        )
    kept = tokens[rows]
    return kept, foretold(kept)


def _site(layer: int, head: int) -> str:
    return f"layers.{layer}.attn.z[{head}]"


def _mean(model: Model, layer: int, tokens: Tokens) -> Tensor:
    return model.resolved(ablate(f"layers.{layer}.attn.z", how="mean", over=tokens)).value  # pyright: ignore[reportReturnType]


def _losses(model: Model, tokens: Tokens, known: Tensor, edits: list[Edit]) -> Float[Tensor, " example"]:
    logits = model.run(tokens, edits=edits, batch_size=64).logits.float()
    wanted = tokens.ids.roll(-1, 1).to(logits.device)
    each = cross_entropy(logits.transpose(1, 2), wanted, reduction="none").cpu()
    return (each * known).sum(1) / known.sum(1)


def _named(heads: Iterable[Head]) -> str:
    return ", ".join(f"{layer}.{head}" for layer, head in heads)
