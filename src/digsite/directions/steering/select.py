"""Which direction decides a behaviour: candidates at every layer and position, and the test that each has to pass.

1. The prompts with the behaviour and those without are parted: half give the candidates, a quarter chooses, a quarter
   reports.
2. A candidate is the difference of means at one layer and position.
3. Each is tested on the choosing prompts. Ablated everywhere (in the stream before each block, and in what attention
   and MLPs write), the behaviour should go: its log odds at the last token of the prompts that show it. Added at its
   own layer, it should come: the log odds on prompts that do not. And prompts that do not show it should be left alone:
   KL of the ablated model at the last token.
4. Candidates in the last fifth of the layers are dropped, those that do not bring the behaviour, and those that cost
   more than the KL allowed. Of the others that is chosen whose ablation leaves the lowest log odds.
5. The chosen one is tested again on the reporting prompts, beside random directions as long as it.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

import digsite.models as models
from digsite._core.cost import measure
from digsite._core.errors import BadInput, explain
from digsite._core.numerics import bootstrap_interval
from digsite._core.progress import track
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.directions.direction import Direction
from digsite.directions.measuring import BATCH
from digsite.directions.probes import mean_difference
from digsite.directions.steering.target import listed, log_odds, token_ids
from digsite.directions.steering.vectors import with_scale
from digsite.models import Edit, Model, Tokens, made_by
from digsite.models.measure import TokenSource
from digsite.sites import Site

EVERYWHERE = ("layers.*.resid_pre", "layers.*.attn.out", "layers.*.mlp.out")
"""Where a direction is ablated, so that no layer can write it again."""
FEWEST = 8
"""Prompts on a side below which nothing is chosen."""


class Tried(NamedTuple):
    """One candidate on some prompts.

    Attributes:
        ablated: Log odds on prompts that show the behaviour, the direction ablated everywhere.
        induced: Log odds on prompts that do not show it, the direction added.
        kl: On those prompts at the last token, of the ablated model.
    """

    ablated: Float[Tensor, " example"]
    induced: Float[Tensor, " other"]
    kl: Float[Tensor, " other"]


@dataclass(frozen=True, kw_only=True)
class Selection(Result):
    """Every candidate with its tests, and the chosen one on prompts that did not choose it.

    Attributes:
        target: The tokens of the behaviour.
        sites: Site of each candidate.
        positions: Position of each, as asked.
        layers: Layer of each.
        depth: Layers of the model.
        ablated: Mean log odds where the behaviour is shown, ablated, on the choosing prompts.
        induced: Mean log odds where it is not, added.
        kl: Mean KL where it is not, ablated.
        most_kl: The KL that is allowed.
        least_induced: The log odds that adding must bring.
        latest: Layers from this share of the depth on are dropped.
        direction: The chosen one; None where none passed.
        plain: Log odds of the reporting prompts that show the behaviour.
        reported: The same with the chosen direction ablated.
        quiet: Log odds of the reporting prompts that do not show it.
        brought: The same with the chosen direction added.
        spent: KL of those, ablated.
        null_reported: As `reported`, for random directions as long.
        null_brought: As `brought`, for random directions.
    """

    SCHEMA: ClassVar[str] = "directions.selection/1"

    target: str
    sites: tuple[str, ...]
    positions: Int[Tensor, " candidate"]
    layers: Int[Tensor, " candidate"]
    depth: int
    ablated: Float[Tensor, " candidate"]
    induced: Float[Tensor, " candidate"]
    kl: Float[Tensor, " candidate"]
    most_kl: float
    least_induced: float
    latest: float
    direction: Direction | None
    plain: Float[Tensor, " example"]
    reported: Float[Tensor, " example"]
    quiet: Float[Tensor, " other"]
    brought: Float[Tensor, " other"]
    spent: Float[Tensor, " other"]
    null_reported: Float[Tensor, "draw example"]
    null_brought: Float[Tensor, "draw other"]

    @property
    def passed(self) -> Bool[Tensor, " candidate"]:
        """Which candidates pass every test."""
        finite = self.ablated.isfinite() & self.induced.isfinite() & self.kl.isfinite()
        early = self.layers < self.latest * self.depth
        return finite & early & (self.kl <= self.most_kl) & (self.induced >= self.least_induced)

    @property
    def chosen(self) -> int | None:
        """The number of the chosen candidate."""
        if not bool(self.passed.any()):
            return None
        return int(self.ablated.masked_fill(~self.passed, torch.inf).argmin())

    def to_frame(self) -> pl.DataFrame:
        """One row a candidate: its tests on the choosing prompts, and why it was dropped."""
        rows = []
        for at, site in enumerate(self.sites):
            dropped = "late layer" if self.layers[at] >= self.latest * self.depth else ""
            dropped = dropped or ("KL" if not self.kl[at] <= self.most_kl else "")
            dropped = dropped or ("does not induce" if not self.induced[at] >= self.least_induced else "")
            rows.append(
                {
                    "site": site,
                    "position": int(self.positions[at]),
                    "ablated": float(self.ablated[at]),
                    "induced": float(self.induced[at]),
                    "kl": float(self.kl[at]),
                    "dropped": dropped,
                    "chosen": at == self.chosen,
                }
            )
        return pl.DataFrame(rows)

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        if self.chosen is None:
            return (
                f"None of {len(self.sites)} candidates passes: KL at most {self.most_kl:g}, log odds of {self.target} "
                f"at least {self.least_induced:g} when added, in the first {self.latest:.0%} of the layers"
            )
        down, up = self.reported - self.plain, self.brought - self.quiet
        lows = [[float(end) for end in bootstrap_interval(change)] for change in (down, up)]
        null_down = (self.null_reported - self.plain).mean(1)
        null_up = (self.null_brought - self.quiet).mean(1)
        failed = []
        if lows[0][1] >= min(0.0, float(null_down.min())):
            failed.append("ablating it takes away no more than random directions do")
        if lows[1][0] <= max(0.0, float(null_up.max())):
            failed.append("adding it brings no more than random directions do")
        ending = f"; but {' and '.join(failed)}" if failed else ""
        return (
            f"{self.sites[self.chosen]} at position {int(self.positions[self.chosen])}, of {len(self.sites)} candidates"
            f": on held-out prompts ablating it moves the log odds of {self.target} by {float(down.mean()):+.2f} nats "
            f"(95 % {lows[0][0]:+.2f} to {lows[0][1]:+.2f}; random directions at most {float(null_down.min()):+.2f}), "
            f"adding it by {float(up.mean()):+.2f} ({lows[1][0]:+.2f} to {lows[1][1]:+.2f}; random "
            f"{float(null_up.max()):+.2f}), at a KL of {float(self.spent.mean()):.3f} nats; n = {len(down)} and "
            f"{len(up)}{ending}"
        )


@method
def select_direction(
    model: Model,
    showing: Tokens,
    lacking: Tokens,
    tokens: Sequence[str | int],
    *,
    against: Sequence[str | int] | None = None,
    sites: str = "layers.*.resid_pre",
    positions: Sequence[int] = (-1,),
    most_kl: float = 0.1,
    least_induced: float = 0.0,
    latest: float = 0.8,
    text: TokenSource | None = None,
    draws: int = 5,
    seed: int = 0,
) -> Selection:
    """The one direction that decides a behaviour, chosen by intervention among layers and positions.

    Args:
        model: The model.
        showing: Prompts after which the behaviour follows.
        lacking: Prompts after which it does not.
        tokens: The tokens with which the behaviour begins: any set (a refusal, a language, an answer).
        against: What they are weighed against; None for all other tokens.
        sites: A residual stream of every layer.
        positions: Of the prompts, negative ones from their end.
        most_kl: KL in nats that ablation may cost on `lacking`.
        least_induced: Mean log odds that adding must bring on `lacking`.
        latest: Layers from this share of the depth on are dropped.
        text: What the scale of the chosen direction is measured on; the prompts unless given.
        draws: Random directions of the null.
        seed: Of the parts and the null.

    Raises:
        BadInput: Fewer than eight prompts on a side, or prompts that are too short for a position.

    Units: nats.

    Source: Arditi et al. 2024, arXiv 2406.11717, section 2 and appendix C; theirs chooses and reports on other data
    sets, ours parts the prompts that are given.

    Caveats: log odds against all other tokens say that a set is improbable even where it is the likeliest one; with
    many ways to say the same, name them all or use `against`.
    """
    if min(len(showing), len(lacking)) < FEWEST:
        found = f"{len(showing)} prompts that show the behaviour, {len(lacking)} that do not"
        raise BadInput(explain(f"A direction is chosen with {FEWEST} prompts of each side or more", found=found))
    generator = torch.Generator().manual_seed(seed)
    fit, choose, report = zip(*(_parts(side, generator) for side in (showing, lacking)), strict=True)
    ids, other = token_ids(model, tokens), None if against is None else token_ids(model, against)
    call = f"digsite.directions.steering.select_direction(model, showing, lacking, {list(tokens)!r})"
    made = made_by(call, model, f"{showing.fingerprint} {lacking.fingerprint}", seed=seed)
    with measure() as cost, torch.no_grad():
        candidates = _candidates(model, fit, model.anatomy.expand(sites), positions)
        trial = _Trial(model, choose, ids, other)
        tried = [trial.of(one.site, one.vector) for one in track(candidates, "trying directions")]
        found = Selection(
            target=listed(tokens),
            sites=tuple(str(one.site) for one in candidates),
            positions=torch.tensor([one.position for one in candidates]),
            layers=torch.tensor([int(str(one.site.layer)) for one in candidates]),
            depth=model.n_layers,
            ablated=torch.stack([one.ablated.mean() for one in tried]),
            induced=torch.stack([one.induced.mean() for one in tried]),
            kl=torch.stack([one.kl.mean() for one in tried]),
            most_kl=most_kl,
            least_induced=least_induced,
            latest=latest,
            direction=None,
            **_nothing(draws),
            provenance=made,
            cost=cost,
        )
        if found.chosen is None:
            return found
        best = candidates[found.chosen]
        how = f"chosen mean difference at position {best.position}"
        direction = Direction(site=best.site, vector=best.vector, name=found.target, how=how, provenance=made)
        direction = with_scale(direction, model, text, [showing, lacking])
        noise = torch.randn(draws, len(best.vector), generator=generator)
        noise = noise / noise.norm(dim=1, keepdim=True) * best.vector.norm()
        trial = _Trial(model, report, ids, other)
        final, *null = (trial.of(best.site, one) for one in (best.vector, *noise))
    return dataclasses.replace(
        found,
        direction=direction,
        plain=trial.plain,
        reported=final.ablated,
        quiet=trial.quiet,
        brought=final.induced,
        spent=final.kl,
        null_reported=torch.stack([one.ablated for one in null]) if null else found.null_reported,
        null_brought=torch.stack([one.induced for one in null]) if null else found.null_brought,
    )


def _nothing(draws: int) -> dict[str, Tensor]:
    """The report where nothing was chosen."""
    names = ("plain", "reported", "quiet", "brought", "spent")
    return {name: torch.zeros(0) for name in names} | {
        name: torch.zeros(draws, 0) for name in ("null_reported", "null_brought")
    }


def _parts(tokens: Tokens, generator: torch.Generator) -> tuple[Tokens, Tokens, Tokens]:
    """1. Half, a quarter, a quarter."""
    order = torch.randperm(len(tokens), generator=generator)
    half, more = len(tokens) // 2, len(tokens) // 4
    return tokens[order[:half]], tokens[order[half : half + more]], tokens[order[half + more :]]


class _Candidate(NamedTuple):
    site: Site
    position: int
    vector: Float[Tensor, " width"]


def _candidates(
    model: Model, sides: tuple[Tokens, Tokens], sites: Sequence[Site], positions: Sequence[int]
) -> list[_Candidate]:
    """2. The difference of means at each site and position; where both sides hold the same there is none."""
    runs = [model.run(side, read=sites, logits=None, batch_size=BATCH, to="cpu") for side in sides]
    labels = torch.arange(len(sides[0]) + len(sides[1])) < len(sides[0])
    cells = {position: [side.places(position) for side in sides] for position in positions}
    found = []
    for site in sites:
        for position, places in cells.items():
            x = [run[site][place.rows, place.columns] for run, place in zip(runs, places, strict=True)]
            found.append(_Candidate(site, position, mean_difference(torch.cat(x), labels).vector.float()))
    return [one for one in found if bool(one.vector.any())]


class _Trial:
    """3. The tests of candidates on some prompts, and those prompts without edits."""

    def __init__(self, model: Model, prompts: tuple[Tokens, Tokens], ids: Sequence[int], against: Sequence[int] | None):
        self.model, self.ids, self.against = model, ids, against
        self.showing, self.lacking = (side.padded_left() for side in prompts)
        self.calm = self._last(self.lacking, ())
        self.plain = self._log_odds(self._last(self.showing, ()))
        self.quiet = self._log_odds(self.calm)

    def of(self, site: Site, vector: Float[Tensor, " width"]) -> Tried:
        """The tests of one vector."""
        ablate = [models.ablate(where, direction=vector) for where in EVERYWHERE]
        ablated = self._last(self.lacking, ablate)
        before, after = self.calm.log_softmax(-1), ablated.log_softmax(-1)
        return Tried(
            ablated=self._log_odds(self._last(self.showing, ablate)),
            induced=self._log_odds(self._last(self.lacking, [models.add(site, vector)])),
            kl=(before.exp() * (before - after)).sum(-1).clamp_min(0),
        )

    def _last(self, tokens: Tokens, edits: Sequence[Edit]) -> Float[Tensor, "batch vocab"]:
        run = self.model.run(tokens, edits=edits, logits=1, batch_size=BATCH, to="cpu")
        return run.logits[:, -1].float()

    def _log_odds(self, logits: Float[Tensor, "batch vocab"]) -> Float[Tensor, " batch"]:
        return log_odds(logits, self.ids, self.against)
