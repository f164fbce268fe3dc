"""The steer card: what a steering does, what it costs, and whether a random direction does the same.

1. The unsteered model gives the target's number for every prompt, its predictions on neutral prompts, its loss on plain
   text, and what it writes.
2. For every coefficient of a grid the steered model gives the same: the effect is the difference of the target's
   number, the cost is the KL on neutral prompts, the loss on text, and how much less of what it writes is distinct.
3. Control: the same with every place moved equally far in one random direction, for several directions.
4. One half of the prompts chooses the coefficient: of those whose KL on half of the neutral prompts is allowed,
   the one with the largest mean effect. The other halves report.
5. A coefficient that makes a logit NaN or infinite stays in the table, marked, without numbers.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import polars as pl
import torch
from jaxtyping import Bool, Float
from scipy.stats import spearmanr
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, NotFinite, explain
from digsite._core.numerics import bootstrap_interval
from digsite._core.progress import track
from digsite._core.provenance import Provenance
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.directions.direction import Direction
from digsite.directions.measuring import BATCH
from digsite.directions.steering.control import equally_large
from digsite.directions.steering.price import distinct, price
from digsite.directions.steering.shown import show
from digsite.directions.steering.target import Target
from digsite.models import Edit, Model, Tokens, made_by
from digsite.models.measure import TokenSource
from digsite.models.tokens import Positions

Steering = Callable[[float], Edit | Sequence[Edit]]
"""A coefficient to edits."""

MONOTONE = 0.9
"""Spearman's correlation below which a curve is not called monotone."""
COEFFICIENTS = (-2.0, -1.0, -0.5, -0.25, 0.25, 0.5, 1.0, 2.0)
WRITTEN = 8
"""Prompts after which the model is let write."""
FEWEST = 8
"""Prompts below which there are no two halves."""


@dataclass(frozen=True, kw_only=True)
class SteerCard(Result):
    """The effect of a steering against its cost, coefficient by coefficient.

    Attributes:
        steered: What is steered with.
        target: What it is meant to raise.
        effect_unit: The unit of that.
        unit: The unit of the coefficients.
        at: Where it is written, on the tokens of the first prompts.
        coefficients: The grid, ascending.
        effect: Steered minus unsteered, for every prompt.
        kl: To the unsteered model, of every neutral prompt, in nats a token.
        loss: Cross entropy on every row of plain text, in nats a token.
        plain_loss: The same, unsteered.
        distinct: Share of different bigrams in what the model writes.
        plain_distinct: The same, unsteered.
        random_effect: As `effect`, with every place moved equally far in a random direction.
        random_kl: As `kl`, likewise; the mean over neutral prompts.
        random_loss: As `loss`, likewise; the mean over rows.
        choosing: Which prompts choose the coefficient; the others report.
        choosing_neutral: Which neutral prompts do.
        most_kl: What the KL may be for a coefficient to be chosen.
        samples: A prompt, what follows it unsteered, and what follows at the chosen coefficient.
    """

    SCHEMA: ClassVar[str] = "directions.steer_card/1"

    steered: str
    target: str
    effect_unit: str
    unit: str
    at: str
    coefficients: Float[Tensor, " coefficient"]
    effect: Float[Tensor, "coefficient example"]
    kl: Float[Tensor, "coefficient prompt"]
    loss: Float[Tensor, "coefficient text"]
    plain_loss: Float[Tensor, " text"]
    distinct: Float[Tensor, "coefficient generation"]
    plain_distinct: Float[Tensor, " generation"]
    random_effect: Float[Tensor, "draw coefficient example"]
    random_kl: Float[Tensor, "draw coefficient"]
    random_loss: Float[Tensor, "draw coefficient"]
    choosing: Bool[Tensor, " example"]
    choosing_neutral: Bool[Tensor, " prompt"]
    most_kl: float
    samples: tuple[tuple[str, str, str], ...]

    @property
    def finite(self) -> Bool[Tensor, " coefficient"]:
        """Which coefficients leave every logit finite."""
        losses = self.loss.isfinite() | ~self.plain_loss.isfinite()
        return self.effect.isfinite().all(1) & self.kl.isfinite().all(1) & losses.all(1)

    @property
    def chosen(self) -> int | None:
        """The number of the chosen coefficient; None where none is within the KL allowed, or none raises the target."""
        effect = self.effect[:, self.choosing].mean(1)
        allowed = self.finite & (self.kl[:, self.choosing_neutral].mean(1) <= self.most_kl) & (effect > 0)
        return int(effect.masked_fill(~allowed, -torch.inf).argmax()) if bool(allowed.any()) else None

    @property
    def reported(self) -> Float[Tensor, "coefficient example"]:
        """Effects on the prompts that report."""
        return self.effect[:, ~self.choosing]

    @property
    def cost_reported(self) -> Float[Tensor, "coefficient prompt"]:
        """KL on the neutral prompts that report."""
        return self.kl[:, ~self.choosing_neutral]

    @property
    def random_reported(self) -> Float[Tensor, "draw coefficient"]:
        """The mean effect of each random direction on the prompts that report."""
        return self.random_effect[:, :, ~self.choosing].mean(2)

    @property
    def random_reach(self) -> Float[Tensor, " coefficient"]:
        """The most that a random direction moves the target, either way; infinite where one makes a logit NaN."""
        return self.random_reported.abs().amax(0).nan_to_num(torch.inf)

    @property
    def monotone(self) -> float:
        """Spearman's correlation of coefficient and mean effect: 1 where more is always more."""
        ok = self.finite
        if int(ok.sum()) < 3:
            return float("nan")
        found, _ = spearmanr(self.coefficients[ok].numpy(), self.reported[ok].mean(1).numpy())
        return float(found)  # pyright: ignore[reportArgumentType]

    @property
    def front(self) -> Bool[Tensor, " coefficient"]:
        """Which coefficients no other beats on both mean effect and mean KL."""
        effect, cost = self.reported.mean(1), self.cost_reported.mean(1)
        better = (effect >= effect[:, None]) & (cost <= cost[:, None])
        better &= (effect > effect[:, None]) | (cost < cost[:, None])
        return self.finite & ~(better & self.finite).any(1)

    def to_frame(self, *, resamples: int = 1000, seed: int = 0) -> pl.DataFrame:
        """One row a coefficient, on the prompts that report: effect and cost with 95 % intervals, and the control."""
        low, high = bootstrap_interval(self.reported.T, resamples=resamples, seed=seed)
        kl_low, kl_high = bootstrap_interval(self.cost_reported.T, resamples=resamples, seed=seed)
        random = self.random_reported
        columns = {
            "coefficient": self.coefficients,
            "effect": self.reported.mean(1),
            "low": low,
            "high": high,
            "wrong_way": (self.reported * self.coefficients.sign()[:, None] < 0).float().mean(1),
            "kl": self.cost_reported.mean(1),
            "kl_low": kl_low,
            "kl_high": kl_high,
            "loss_added": (self.loss - self.plain_loss).nanmean(1),
            "distinct": self.distinct.mean(1),
            "random_least": random.amin(0),
            "random_most": random.amax(0),
            "random_kl": self.random_kl.mean(0),
            "random_loss_added": self.random_loss.mean(0) - self.plain_loss.nanmean(),
        }
        frame = pl.DataFrame({name: x.double().numpy() for name, x in columns.items()})
        chosen = torch.arange(len(self.coefficients)) == (-1 if self.chosen is None else self.chosen)
        marks = {"front": self.front, "chosen": chosen, "finite": self.finite}
        return frame.with_columns(pl.selectors.float().fill_nan(None)).with_columns(
            **{name: pl.Series(x.numpy()) for name, x in marks.items()}
        )

    @property
    def failures(self) -> tuple[str, ...]:
        """What speaks against the steering, each as a clause."""
        broken = [f"{self.coefficients[at]:g}" for at in (~self.finite).nonzero().flatten().tolist()]
        failed = [f"{', '.join(broken)} {self.unit} make logits NaN or infinite"] if broken else []
        if self.chosen is not None:
            row = self.to_frame().row(self.chosen, named=True)
            if row["low"] <= 0:
                failed.append("the effect is not told from zero")
            if row["low"] <= self.random_reach[self.chosen]:
                failed.append("a random direction does as much")
            if row["kl"] > self.most_kl:
                failed.append(f"its KL is above the {self.most_kl:g} allowed on the prompts that report")
        if self.monotone < MONOTONE:
            failed.append(f"more is not always more (Spearman {self.monotone:.2f})")
        return tuple(failed)

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        ending = f"; but {', and '.join(self.failures)}" if self.failures else ""
        if self.chosen is None:
            least = float(self.kl[self.finite].mean(1).min())
            return (
                f"{self.steered}: no coefficient raises {self.target} within a KL of {self.most_kl:g} nats a token on "
                f"neutral prompts (the least is {least:.2g}){ending}"
            )
        row, random = self.to_frame().row(self.chosen, named=True), self.random_reported[:, self.chosen]
        return (
            f"{self.steered} at {row['coefficient']:g} {self.unit} moves {self.target} by {row['effect']:+.2f} "
            f"{self.effect_unit} (95 % {row['low']:+.2f} to {row['high']:+.2f}; random directions "
            f"{random.min():+.2f} to {random.max():+.2f}) and {row['wrong_way']:.0%} of the prompts "
            f"the wrong way, at a KL of {row['kl']:.3f} nats a token on neutral prompts (random "
            f"{self.random_kl[:, self.chosen].mean():.3f}) and {row['loss_added']:+.3f} nats of loss on text; the "
            f"coefficient was chosen on other prompts, n = {self.reported.shape[1]}{ending}"
        )


@method
def steer_card(
    model: Model,
    steering: Direction | Steering,
    *,
    target: Target,
    neutral: TokenSource,
    text: TokenSource | None = None,
    coefficients: Sequence[float] = COEFFICIENTS,
    unit: str = "norm",
    at: Positions = None,
    name: str = "",
    most_kl: float = 0.1,
    draws: int = 5,
    new_tokens: int = 16,
    seed: int = 0,
) -> SteerCard:
    """What a steering does and what it costs, beside equally large changes in random directions.

    Args:
        model: The model.
        steering: A direction, which is added; or a function from a coefficient to edits, for every other way to steer
            (`lambda c: direction.set(c, "sd")`, a clamped latent, an `ActAdd`).
        target: What it is meant to raise, on prompts that the direction was not found on: `token_target`,
            `task_target`, or `probe_target` with a probe of a later layer.
        neutral: Prompts that have nothing to do with it.
        text: Plain text for the loss; the neutral prompts unless given.
        coefficients: The grid.
        unit: Of the coefficients; for a function only what they are called.
        at: Where a direction is added; None for every token, those that are written included.
        name: What to call the steering.
        most_kl: The KL in nats a token that the chosen coefficient may cost on neutral prompts.
        draws: Random directions.
        new_tokens: Tokens that the model writes after each of the first prompts, to see whether it repeats itself; 0
            for none.
        seed: Of the halves and the random directions.

    Raises:
        BadInput: Fewer than eight prompts or eight neutral ones; no coefficient or one twice; a unit that was not
            measured; a direction of another model; a probe at the very site that is steered.
        NotFinite: The unsteered model gives NaN or infinity, or the steered one does at every coefficient.

    Units: effect in those of the target; KL and loss in nats a token.

    Source: the protocol of Arditi et al. 2024, arXiv 2406.11717, section 4 (effect, KL, loss on text), with a grid,
    halves, and the equal-norm control.

    Caveats: The random direction is as long as the change, not as likely: most directions leave a model less disturbed
    than one that it uses. Prompts that the direction was found on make every number too good.
    """
    grid = _grid(coefficients)
    maker, called = _maker(model, steering, unit, at, name)
    _check(target, steering)
    with measure() as cost, torch.no_grad():
        own = [_several(maker(c)) for c in grid]
        random = [
            _random(model, edits, seed + draw, c) for draw in range(draws) for c, edits in zip(grid, own, strict=True)
        ]
        plain, scores = _scores(model, target, [*own, *random])
        spent = price(model, neutral, [*own, *random])
        told = spent if text is None else price(model, text, [*own, *random])
        works = scores[: len(grid)].isfinite().all(1).tolist()
        if not any(works):
            asked = f"Every coefficient of {called} makes logits NaN or infinite"
            raise NotFinite(explain(asked, found=f"{list(grid)} {unit}", do="use smaller ones"))
        written = _written(model, target, [[], *own], new_tokens, [True, *works])
    if min(len(plain), spent.kl.shape[1]) < FEWEST:
        found = f"{len(plain)} prompts, {spent.kl.shape[1]} neutral ones"
        raise BadInput(explain(f"A card needs {FEWEST} prompts of each, of which half choose", found=found))
    n, by_draw = len(grid), (draws, len(grid))
    generator = torch.Generator().manual_seed(seed)
    card = SteerCard(
        steered=called,
        target=target.name,
        effect_unit=target.unit,
        unit=unit,
        at=_shown(target.prompts, own),
        coefficients=torch.tensor(grid, dtype=torch.float64),
        effect=scores[:n] - plain,
        kl=spent.kl[:n],
        loss=told.loss[:n],
        plain_loss=told.plain,
        distinct=written.distinct[1:],
        plain_distinct=written.distinct[0],
        random_effect=(scores[n:] - plain).unflatten(0, by_draw),
        random_kl=spent.kl[n:].mean(1).unflatten(0, by_draw),
        random_loss=told.loss[n:].nanmean(1).unflatten(0, by_draw),
        choosing=_half(len(plain), generator),
        choosing_neutral=_half(spent.kl.shape[1], generator),
        most_kl=most_kl,
        samples=(),
        provenance=_made(model, target, neutral, called, seed),
        cost=cost,
    )
    if card.chosen is None:
        return card
    samples = zip(written.prompts, written.texts[0], written.texts[card.chosen + 1], strict=True)
    return dataclasses.replace(card, samples=tuple(samples))


class _Written(NamedTuple):
    """What the model wrote, unsteered first."""

    prompts: list[str]
    texts: list[list[str]]
    distinct: Float[Tensor, "setting generation"]


def _written(
    model: Model, target: Target, settings: Sequence[Sequence[Edit]], new: int, works: Sequence[bool]
) -> _Written:
    """1., 2. Texts after the first prompts, and the share of their bigrams that are distinct."""
    prompts = target.prompts[:WRITTEN]
    if not new:
        return _Written([], [[] for _ in settings], torch.zeros(len(settings), 0))
    texts, shares = [], []
    for edits, sound in zip(settings, works, strict=True):
        if not sound:
            texts.append([""] * len(prompts))
            shares.append([torch.nan] * len(prompts))
            continue
        made = model.generate(prompts, max_new_tokens=new, edits=edits)
        spelled = made.texts if model.tokenizer is not None else [str(ids) for ids in made.generated]
        texts.append(spelled)
        shares.append([distinct(ids) for ids in made.generated])
    starts = ["".join(strings) for strings in prompts.strings]
    return _Written(starts, texts, torch.tensor(shares))


def _scores(
    model: Model, target: Target, settings: Sequence[Sequence[Edit]]
) -> tuple[Float[Tensor, " example"], Float[Tensor, "setting example"]]:
    """1., 2. The target's numbers without edits and with each set of them; NaN where a logit is not finite."""

    def score(edits: Sequence[Edit]) -> Tensor | None:
        wanted = None if target.reads and not target.columns else target.columns
        run = model.run(target.prompts, read=target.reads, edits=edits, logits=wanted, batch_size=BATCH, to="cpu")
        found = [run[site] for site in target.reads] + (
            [] if wanted is None else [run.logits[target.prompts.mask[:, -wanted:]]]
        )
        return target.score(run).float() if all(bool(x.isfinite().all()) for x in found) else None

    plain = score(())
    if plain is None:
        raise NotFinite(explain(f"{model.name} gives NaN or infinity on the prompts without any steering"))
    nothing = torch.full_like(plain, torch.nan)
    each = [score(edits) for edits in track(settings, "steering")]
    return plain, torch.stack([nothing if one is None else one for one in each])


def _grid(coefficients: Sequence[float]) -> tuple[float, ...]:
    grid = tuple(sorted(float(c) for c in coefficients))
    if not grid or len(set(grid)) < len(grid) or 0.0 in grid or not all(math.isfinite(c) for c in grid):
        asked = "A grid has one coefficient or more, each once, finite and not zero"
        raise BadInput(explain(asked, found=f"{list(grid)}"))
    return grid


def _maker(model: Model, steering: Direction | Steering, unit: str, at: Positions, name: str) -> tuple[Steering, str]:
    """How a coefficient becomes edits, and what to call it."""
    if not isinstance(steering, Direction):
        if at is not None:
            raise BadInput(explain("at= is for a direction", do="let the function put its edits where they belong"))
        return steering, name or "steering"
    steering.check(model)
    steering.amount(1.0, unit)  # whether the unit was measured
    called = name or f"{steering.name or steering.how} at {steering.site}"
    return (lambda c: steering.add(c, unit, at=at)), called


def _check(target: Target, steering: Direction | Steering) -> None:
    if isinstance(steering, Direction) and steering.site in target.reads:
        asked = f"The target is read at {steering.site}, where the steering itself is written"
        raise BadInput(explain(asked, do="use a probe of a later layer, or tokens"))


def _several(edits: Edit | Sequence[Edit]) -> list[Edit]:
    return [edits] if isinstance(edits, Edit) else list(edits)


def _random(model: Model, edits: Sequence[Edit], seed: int, coefficient: float) -> list[Edit]:
    """3. Every place moved as far as by the edits, in a random direction."""
    return [equally_large(model.resolved(edit), seed, sign=math.copysign(1.0, coefficient)) for edit in edits]


def _shown(prompts: Tokens, own: Sequence[Sequence[Edit]]) -> str:
    edit = next((edit for edits in own for edit in edits), None)
    return "" if edit is None else show(prompts, edit.at, rows=2)


def _half(count: int, generator: torch.Generator) -> Bool[Tensor, " example"]:
    """4. One half, by the seed."""
    chosen = torch.zeros(count, dtype=torch.bool)
    chosen[torch.randperm(count, generator=generator)[: count // 2]] = True
    return chosen


def _made(model: Model, target: Target, neutral: TokenSource, called: str, seed: int) -> Provenance:
    call = f"digsite.directions.steering.steer_card(model, {called!r}, target={target.name!r}, ...)"
    return made_by(call, model, f"{target.prompts.fingerprint} {neutral.fingerprint}", seed=seed)
