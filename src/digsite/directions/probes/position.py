"""Where in a text a model thinks it is: the few dimensions of a site that hold the position, and whether they are used.

1. Some texts are held out, texts of the same tokens together. Position 0 is left out: the BOS there is like no other.
2. The mean of the activations at a position, over texts, is what the site says of the position: what tokens say
   averages out. The principal directions of these means are the position's, the strongest first.
3. How many: the fewest that hold 95 % of the variance of the means which two halves of the texts agree on. What they do
   not agree on is what the tokens of so few texts left behind.
4. Read: on held-out texts, the position whose mean is nearest in the subspace. Null: random subspaces of as many
   dimensions, in which a loud position is read too.
5. Used: at two neighbouring positions a and a + 1 of a held-out text the subspace is exchanged, so that each token says
   that it stands where the other stands. What the model predicts after them should be what it predicts where the two
   tokens themselves are exchanged. Null: both activations moved as far, in a random subspace.

Step 5 is exact where position enters here alone and one layer of attention follows: attention is a sum over what it
sees, in whatever order. Further layers also see what the neighbours themselves saw, of which the first cannot see the
second; so the effect is less than whole in a model that looks back step by step.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import kl_div

from digsite._core.cost import measure
from digsite._core.errors import BadInput, explain
from digsite._core.numerics import bootstrap_interval, ratio_interval, require_finite
from digsite._core.progress import track
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.directions.direction import concrete
from digsite.directions.labelled import read_at, split
from digsite.directions.subspace import Subspace
from digsite.directions.texts import same_texts
from digsite.models import Edit, Model, Tokens, add, made_by
from digsite.sites import Site

AGREED = 0.95
"""The share of what two halves agree on that the subspace holds."""
FEWEST, SHORTEST = 8, 4
"""Groups of texts, and tokens of each, at least."""
BATCH = 32
SMALLEST = 1e-4
"""Nats: where exchanging tokens changes less than this, there is no effect that could be explained."""


@dataclass(frozen=True, kw_only=True)
class PositionSubspace(Result):
    """The dimensions of a site that hold the position, whether it is read there, and whether the model uses them.

    Attributes:
        site: Where.
        basis: The directions, the strongest first.
        means: The mean of the activations at each position from 1 on, over the texts that were fitted on.
        loud: Variance of the means by that of all activations.
        right: Which positions of held-out texts are read rightly.
        right_random: The share of them that is read rightly in random subspaces.
        tokens_moved: For each held-out text, how far exchanging two neighbouring tokens moves what is predicted after
            them, in nats (KL).
        left: What of it is left when their positions are exchanged in the subspace instead.
        left_random: The same for changes as large in random subspaces.
    """

    SCHEMA: ClassVar[str] = "directions.position_subspace/1"

    site: str
    basis: Float[Tensor, "basis width"]
    means: Float[Tensor, "place width"]
    loud: float
    right: Bool[Tensor, "example place"]
    right_random: Float[Tensor, "draw place"]
    tokens_moved: Float[Tensor, " example"]
    left: Float[Tensor, " example"]
    left_random: Float[Tensor, "draw example"]

    @property
    def subspace(self) -> Subspace:
        """The dimensions of position; `.ablate()` leaves what the site says on average over positions."""
        return Subspace(
            site=Site.parse(self.site),
            basis=self.basis,
            mean=self.means.mean(0),
            name="position",
            how="means at each position",
            provenance=self.provenance,
        )

    def to_frame(self) -> pl.DataFrame:
        """Two rows: positions read, and the effect of exchanging tokens that exchanging positions explains."""
        read = self.right.double().mean(1)
        low, high = bootstrap_interval(read)
        below, above = ratio_interval(self.left, self.tokens_moved)
        moved = self.tokens_moved.sum()
        rows = [
            ("positions read", float(read.mean()), low, high, self.right_random.mean(1)),
            (
                "exchange explained",
                1 - float(self.left.sum() / moved),
                1 - above,
                1 - below,
                1 - self.left_random.sum(1) / moved,
            ),
        ]
        return pl.DataFrame(
            [
                {
                    "what": what,
                    "share": share,
                    "low": float(low),
                    "high": float(high),
                    "random": float(null.mean()),
                    "random_95": float(null.quantile(0.95)),
                    "n": len(self.left),
                }
                for what, share, low, high, null in rows
            ]
        )

    @property
    def is_read(self) -> bool:
        """Whether positions are read better than in random subspaces as large."""
        row = self.to_frame().row(0, named=True)
        return row["low"] > row["random_95"]

    @property
    def is_used(self) -> bool:
        """Whether exchanging positions explains some of what exchanging tokens does, and more than random changes."""
        row = self.to_frame().row(1, named=True)
        return float(self.tokens_moved.mean()) >= SMALLEST and row["low"] > max(0.0, row["random_95"])

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        read, used = self.to_frame().to_dicts()
        not_read = "" if self.is_read else ", so the position is not shown to be read"
        if float(self.tokens_moved.mean()) < SMALLEST:
            effect = "the model predicts the same where neighbouring tokens are exchanged, so use cannot be judged"
        else:
            not_used = "" if self.is_used else ", so the model is not shown to use them"
            effect = (
                f"exchanging neighbours' positions there does {used['share']:.0%} of what exchanging their tokens does "
                f"(95 % {used['low']:.0%} to {used['high']:.0%}; as large random changes up to "
                f"{used['random_95']:.0%}){not_used}"
            )
        return (
            f"Position takes {self.loud:.0%} of the variance at {self.site}, in {len(self.basis)} of "
            f"{self.basis.shape[1]} dimensions: {read['share']:.0%} of positions are read from them (95 % "
            f"{read['low']:.0%} to {read['high']:.0%}; random ones up to {read['random_95']:.0%}){not_read}; {effect}; "
            f"n = {read['n']} held-out texts"
        )


@method
@torch.no_grad()
def position_subspace(
    model: Model,
    tokens: Tokens,
    site: str | Site = "layers.0.resid_pre",
    *,
    size: int | None = None,
    draws: int = 20,
    held_out: float = 0.5,
    seed: int = 0,
) -> PositionSubspace:
    """Which dimensions of a site hold the position in the text, and does the model use them?

    Args:
        model: The model.
        tokens: Texts; positions that all of them have are looked at. What stands at a position should not depend on it
            (random tokens, or pieces cut out of running text), or the mean at a position is that of its words.
        site: Where, of the width of the stream.
        size: In how many dimensions; None lets two halves of the texts decide.
        draws: How many random subspaces.
        held_out: The share of the texts that is held out.
        seed: Of the split, the neighbours and the random subspaces.

    Raises:
        BadInput: Too few texts, texts too short, no random subspace, or more dimensions than there are.
        NotFinite: An activation is NaN or infinite.

    Units: shares; nats for the effect of an exchange.

    Source: Song and Zhong 2023, "Uncovering hidden geometry in Transformers via disentangling position and context",
        arXiv 2310.04861, section 2, for means and their few dimensions. How many, and the exchange, are ours.

    Caveats:
        A model with rotary positions has none in its stream to begin with: nothing is found at its first layer. What
        is found later comes from what attention saw.
        Where neighbours are alike an exchange does nothing, and tells nothing.
    """
    site, length = concrete(site), min(tokens.lengths)
    groups = same_texts(tokens)
    if len(groups.unique()) < FEWEST or length < SHORTEST:
        found = f"{len(groups.unique())} texts, the shortest of {length} tokens"
        asked = f"Positions are told apart on {FEWEST} different texts of {SHORTEST} tokens or more"
        raise BadInput(explain(asked, found=found))
    if draws < 1:
        raise BadInput(explain("A subspace is judged beside random ones", found=f"draws={draws}", possible="1 or more"))
    with measure() as cost:
        train, test = split(torch.ones(len(tokens), dtype=torch.bool), groups, held_out, seed)  # 1
        rows, columns, _ = tokens.places(slice(1, length))
        x = read_at(model, tokens, [str(site)], rows, columns)[str(site)]
        x = require_finite(f"an activation at {site}", x).double().unflatten(0, (len(tokens), length - 1))
        means = x[train].mean(0)  # 2
        directions = _principal(means)
        size = _agreed(x[train], groups[train], seed) if size is None else size
        if not 1 <= size <= len(directions):
            asked = f"A subspace of {size} dimensions cannot be found"
            raise BadInput(
                explain(asked, possible=f"1 to {len(directions)}", do="give more positions, or fewer dimensions")
            )
        basis, random = directions[:size], _random(size, x.shape[-1], draws, seed)
        right = _read(x[test], means, basis)  # 4
        right_random = torch.stack([_read(x[test], means, one).double().mean(0) for one in random])
        first = torch.from_numpy(np.random.default_rng([seed, 2]).integers(1, length - 2, len(tokens)))
        moved = _moved(model, tokens, site, test, first, x, [basis, *random])  # 5
    return PositionSubspace(
        site=str(site),
        basis=basis.float(),
        means=means.float(),
        loud=float(_spread(means) / _spread(x[train].flatten(0, 1))),
        right=right,
        right_random=right_random,
        tokens_moved=moved[0],
        left=moved[1],
        left_random=moved[2:],
        provenance=made_by(
            f"digsite.directions.probes.position_subspace(model, tokens, {str(site)!r}, size={size}, seed={seed})",
            model,
            tokens.fingerprint,
            seed=seed,
        ),
        cost=cost,
    )


def neighbours_exchanged(tokens: Tokens, first: Int[Tensor, " batch"]) -> Tokens:
    """The texts with the tokens at two neighbouring positions exchanged.

    Args:
        tokens: The texts.
        first: For each the first of the two positions.
    """
    ids, rows = tokens.ids.clone(), torch.arange(len(tokens))
    here = torch.tensor(tokens.starts) + first
    ids[rows, here], ids[rows, here + 1] = tokens.ids[rows, here + 1], tokens.ids[rows, here]
    return replace(tokens, ids=ids, texts=None, turns=None)


def _principal(means: Float[Tensor, "place width"]) -> Float[Tensor, "basis width"]:
    """2. The directions in which the means of positions differ, the strongest first."""
    _, sizes, basis = torch.linalg.svd(means - means.mean(0), full_matrices=False)
    return basis[sizes > 1e-6 * sizes[0].clamp_min(1e-30)]


def _agreed(x: Float[Tensor, "example place width"], groups: Int[Tensor, " example"], seed: int) -> int:
    """3. How many directions hold nearly all that two halves of the texts agree on; at least one."""
    halves = split(torch.ones(len(x), dtype=torch.bool), groups, 0.5, seed)
    one, other = (mean - mean.mean(0) for mean in (x[half].mean(0) for half in halves))
    basis = _principal(one)
    agreed = ((one @ basis.T) * (other @ basis.T)).sum(0).cumsum(0)
    return int((agreed >= AGREED * agreed.max()).nonzero()[0]) + 1 if agreed.max() > 0 else 1


def _random(size: int, width: int, draws: int, seed: int) -> list[Float[Tensor, "basis width"]]:
    drawn = torch.randn(draws, width, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return list(torch.linalg.qr(drawn)[0].mT)


def _read(
    x: Float[Tensor, "example place width"], means: Float[Tensor, "place width"], basis: Float[Tensor, "basis width"]
) -> Bool[Tensor, "example place"]:
    """4. Whether the nearest mean in a subspace is that of the position."""
    apart = torch.cdist(x @ basis.T, (means @ basis.T).expand(len(x), -1, -1))
    return apart.argmin(-1) == torch.arange(len(means))


def _spread(x: Float[Tensor, "row width"]) -> Tensor:
    return (x - x.mean(0)).square().sum(1).mean()


class _Pair(NamedTuple):
    """Some held-out texts, with and without two neighbours exchanged."""

    plain: Tokens
    swapped: Tokens
    first: Int[Tensor, " batch"]
    apart: Float[Tensor, "batch width"]  # what the second neighbour has at the site, less what the first has


def _moved(
    model: Model,
    tokens: Tokens,
    site: Site,
    test: Int[Tensor, " other"],
    first: Int[Tensor, " batch"],
    x: Float[Tensor, "batch place width"],
    bases: list[Float[Tensor, "basis width"]],
) -> Float[Tensor, "way example"]:
    """5. How far each held-out text is from where its tokens are exchanged: as it is, and changed in each basis.

    In the first basis the neighbours are exchanged; in the others they are moved as far as that.
    """
    found = []
    for pair in track(list(_pairs(tokens, test, first, x)), "exchanging neighbours"):
        wanted = model.run(pair.swapped).logits
        parts = [pair.apart @ basis.T @ basis for basis in bases]
        far = parts[0].norm(dim=1, keepdim=True)
        parts = [parts[0], *(far * part / part.norm(dim=1, keepdim=True).clamp_min(1e-30) for part in parts[1:])]
        edits: list[list[Edit]] = [[], *([_exchange(site, part.float(), pair.first)] for part in parts)]
        found.append(torch.stack([_apart(wanted, model.run(pair.plain, edits=one).logits, pair) for one in edits]))
    return torch.cat(found, 1)


def _pairs(tokens: Tokens, test: Tensor, first: Tensor, x: Tensor) -> Iterator[_Pair]:
    for some in test.split(BATCH):
        plain, at = tokens[some], first[some]
        apart = x[some, at] - x[some, at - 1]  # the means and x begin at position 1
        yield _Pair(plain, neighbours_exchanged(plain, at), at, apart)


def _exchange(site: Site, part: Float[Tensor, "batch width"], first: Int[Tensor, " batch"]) -> Edit:
    """Adds to the first neighbour what the second has more, and takes it from the second."""
    return add(site, torch.stack([part, -part], 1), at=torch.stack([first, first + 1], 1))


def _apart(wanted: Float[Tensor, "batch pos vocab"], said: Float[Tensor, "batch pos vocab"], pair: _Pair) -> Tensor:
    """The mean KL, in nats, over the positions after the two neighbours."""
    each = kl_div(said.double().log_softmax(-1), wanted.double().log_softmax(-1), reduction="none", log_target=True)
    after = pair.plain.mask & (pair.plain.positions > pair.first[:, None] + 1)
    return (each.sum(-1).cpu() * after).sum(1) / after.sum(1)
