"""Whether a model uses what a probe reads: the direction is taken away, and the behaviour is measured.

1. Reading: x·v̂ at the probe's site and positions is set to its mean over the examples the probe was fitted on, so that
   it no longer tells the labels apart; nothing beside the direction changes.
2. Prediction to first order: the gradient of the metric along v̂, times how far x·v̂ is moved.
3. Null: x is moved as far, example by example and position by position, in a random direction.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

import digsite.models as models
from digsite._core.cost import count_backward, measure
from digsite._core.errors import BadInput, Unsupported, explain
from digsite._core.numerics import bootstrap_interval, require_finite
from digsite._core.progress import track
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.directions.direction import Direction
from digsite.directions.probes.fitting import random_directions
from digsite.directions.probes.prompts import BATCH, LabelledPrompts
from digsite.models import Model, Tokens, made_by
from digsite.models.plan import Logits
from digsite.models.tokens import Positions
from digsite.tasks import Task

Metric = Callable[[Tensor], Tensor]
"""Logits [batch, pos, vocab] of left-padded prompts to one number a prompt, larger where the label is yes."""


class _Batch(NamedTuple):
    """Prompts, where the direction is taken away, their metric, and the columns of the logits that it reads."""

    tokens: Tokens
    at: Positions
    metric: Metric
    keep: Logits


@dataclass(frozen=True, kw_only=True)
class CausalCheck(Result):
    """What becomes of a behaviour when a direction is taken away.

    Attributes:
        direction: The direction.
        metric_name: What was measured.
        unit: Of the metric.
        base: The metric of each prompt; with a metric of one's own its sign is turned where the label is no.
        ablated: The same without the direction.
        predicted: The same as first order predicts it.
        random: The same after equal changes in random directions.
    """

    SCHEMA: ClassVar[str] = "directions.causal_check/1"

    direction: Direction
    metric_name: str
    unit: str
    base: Float[Tensor, " example"]
    ablated: Float[Tensor, " example"]
    predicted: Float[Tensor, " example"]
    random: Float[Tensor, "draw example"]

    def to_frame(self, *, resamples: int = 1000, seed: int = 0) -> pl.DataFrame:
        """What the metric lost: one row for the direction, its prediction, and each random direction."""
        lost = [("direction", self.base - self.ablated), ("predicted", self.base - self.predicted)]
        lost += [(f"random {at}", self.base - one) for at, one in enumerate(self.random)]
        rows = []
        for name, values in lost:
            low, high = bootstrap_interval(values.double(), resamples=resamples, seed=seed)
            mean = float(values.double().mean())
            rows.append({"change": name, "lost": mean, "low": float(low), "high": float(high), "n": len(values)})
        return pl.DataFrame(rows)

    @property
    def is_used(self) -> bool:
        """Whether the metric loses more than under each equal change in a random direction."""
        rows = self.to_frame().to_dicts()
        return rows[0]["low"] > max(0.0, *(row["lost"] for row in rows[2:]))

    @property
    def agreement(self) -> float:
        """Correlation over prompts between what was lost and what first order predicted; NaN where neither varies."""
        both = torch.stack([self.base - self.ablated, self.base - self.predicted]).double()
        return float(torch.corrcoef(both)[0, 1]) if len(self.base) > 1 else float("nan")

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        rows = self.to_frame().to_dicts()
        took, random = rows[0], [row["lost"] for row in rows[2:]]
        used = "" if self.is_used else ", so the direction is no more than a random one"
        return (
            f"Without the direction {self.direction.name} at {self.direction.site} the {self.metric_name} falls by "
            f"{took['lost']:.2f} {self.unit} (95 % {took['low']:.2f} to {took['high']:.2f}) from "
            f"{float(self.base.mean()):.2f}; first order predicts {rows[1]['lost']:.2f} (r = {self.agreement:.2f}), "
            f"equal changes in {len(random)} random directions take {min(random):.2f} to {max(random):.2f}{used}; "
            f"n = {took['n']}"
        )


@method
def causal_check(
    model: Model,
    direction: Direction,
    behaviour: Task | tuple[LabelledPrompts, Metric],
    *,
    at: Positions = -1,
    draws: int = 20,
    seed: int = 0,
) -> CausalCheck:
    """Does ablating a direction change what the model does, more than an equal change elsewhere?

    Args:
        model: The model.
        direction: With its scale, whose mean is what is left in its place.
        behaviour: A task, whose clean prompts and metric are used; or prompts with labels and a metric of one's own.
        at: Where the direction is taken away: a position, or one for each of a task's prompts; prompts with labels say
            so themselves.
        draws: How many random directions.
        seed: Of the random directions.

    Raises:
        BadInput: A direction without a scale, or one that is not this model's; a metric that gives another number of
            values than there are prompts.
        Unsupported: A task with answers of several tokens, where a position is not the same in every row.
        NotFinite: The metric is NaN or infinite.

    Units: those of the metric; positive where the metric falls.

    Caveats:
        An effect says that the direction matters here, not that it means what the probe is named for. No effect may
        mean that the model keeps the same information elsewhere too.
    """
    direction.check(model)
    if direction.scale is None:
        raise BadInput(explain("The mean along the direction is not known", do="call directions.measured(…) first"))
    mean, unit_vector = direction.scale.mean, direction.unit_vector
    batches, name, unit, fingerprint = _batches(behaviour, at)
    vectors = random_directions(len(unit_vector), draws, seed=seed).float()
    taken = [_moved(direction, unit_vector, unit_vector, mean)]
    taken += [_moved(direction, unit_vector, vector, mean) for vector in vectors]
    found: list[list[Tensor]] = []
    with measure() as cost:
        for tokens, places, metric, keep in track(batches, "ablating"):
            base, predicted = _first_order(model, tokens, places, metric, keep, direction)
            edited = []
            for edit in taken:
                run = model.run(tokens, edits=[models.apply(direction.site, edit, at=places)], logits=keep)
                edited.append(_checked(metric(run.logits), len(tokens)))
            found.append([base, predicted, *edited])
    base, predicted, ablated, *random = (torch.cat(parts).detach().double().cpu() for parts in zip(*found, strict=True))
    call = f"digsite.directions.probes.causal_check(model, direction, behaviour, draws={draws}, seed={seed})"
    return CausalCheck(
        direction=direction,
        metric_name=name,
        unit=unit,
        base=base,
        ablated=ablated,
        predicted=predicted,
        random=torch.stack(random) if random else torch.zeros(0, len(base), dtype=torch.float64),
        provenance=made_by(call, model, fingerprint, seed=seed),
        cost=cost,
    )


def _moved(direction: Direction, along: Tensor, into: Tensor, mean: float) -> Callable[[Tensor], Tensor]:
    """1. and 3. Moves x as far as it takes to bring x·v̂ to its mean, along v̂ or into another direction."""

    def edit(x: Tensor) -> Tensor:
        exact = torch.promote_types(x.dtype, torch.float32)
        far = mean - x.to(exact) @ along.to(x.device, exact)
        return (x.to(exact) + far[..., None] * into.to(x.device, exact)).to(x.dtype)

    return edit


def _first_order(
    model: Model, tokens: Tokens, at: Positions, metric: Metric, keep: Logits, direction: Direction
) -> tuple[Tensor, Tensor]:
    """2. The metric, and what it would be if it were linear in x·v̂."""
    assert direction.scale is not None
    with torch.enable_grad():
        run = model.run(tokens, read=[direction.site], logits=keep, grad=True)
        x, base = run[direction.site], _checked(metric(run.logits), len(tokens))
        (slope,) = torch.autograd.grad(base.sum(), x)
        count_backward(len(tokens))
    along = direction.unit_vector.to(x.device, x.dtype)
    change = (direction.scale.mean - x.detach() @ along) * (slope @ along)
    places = tokens.places(at)
    total = torch.zeros(len(tokens), dtype=change.dtype, device=change.device)
    total.index_add_(0, places.rows.to(x.device), change[places.rows, places.columns])
    return base.detach(), base.detach() + total


def _batches(behaviour: Task | tuple[LabelledPrompts, Metric], at: Positions) -> tuple[list[_Batch], str, str, str]:
    """The prompts some at a time, the name of the metric, its unit, and a fingerprint of all of it."""
    if isinstance(behaviour, Task):
        task = behaviour
        if task.keep > 1:
            asked = f"The task {task.name} has answers of several tokens, whose rows hold part of the answer"
            raise Unsupported(explain(asked, do="give prompts with labels and a metric of your own"))
        each = at if isinstance(at, Tensor) and at.ndim else None
        if each is not None and len(each) != len(task):
            asked = "A task's prompts have one position, or one each"
            raise BadInput(explain(asked, found=f"{len(each)} positions for {len(task)} prompts"))
        several = [slice(start, start + BATCH) for start in range(0, len(task), BATCH)]
        name = task.metric_name.replace("_", " ")
        parts = [
            _Batch(part.clean, at if each is None else each[some], part.metric, part.keep)
            for some, part in ((some, task.take(some)) for some in several)
        ]
        return parts, name, task.unit, task.fingerprint
    prompts, metric = behaviour
    parts = [
        _Batch(tokens.padded_left(), where, _signed(metric, prompts.labels[chosen]), "all")
        for chosen, tokens, where in prompts.batches()
    ]
    return parts, getattr(metric, "__name__", "metric").replace("_", " "), "", prompts.tokens.fingerprint


def _signed(metric: Metric, labels: Tensor) -> Metric:
    sign = torch.where(labels, 1.0, -1.0)

    def towards_the_label(logits: Tensor) -> Tensor:
        found = metric(logits)
        return found * sign.to(found) if found.shape == sign.shape else found

    return towards_the_label


def _checked(values: Tensor, count: int) -> Tensor:
    if values.shape != (count,):
        raise BadInput(
            explain("A metric gives one number a prompt", found=f"shape {tuple(values.shape)} for {count} prompts")
        )
    return require_finite("the metric", values)
