"""Conditional steering: steer a row only where its prompt reads above a threshold along a condition direction.

1. The condition is read at the prompts alone, once, before anything is steered.
2. On one half of the prompts without the condition, the threshold is set so that no more than the wanted share of them
   lies above it.
3. On the other half, it is said how many with the condition lie above it, and how many without.
4. Null: the same with random directions.

The decision is about rows of a batch, and is made from the prompt. So it is the same alone and in a batch, under left
padding, and with a KV cache; and the condition may lie at a later layer than what is steered.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, explain
from digsite._core.numerics import require_finite, wilson_interval
from digsite._core.ranking import auroc, auroc_interval
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.directions.direction import Direction
from digsite.directions.measuring import BATCH
from digsite.models import Edit, Model, Tokens, made_by


@dataclass(frozen=True, kw_only=True)
class Condition(Result):
    """Where to steer: a direction, a position and a threshold.

    Attributes:
        direction: What is read.
        at: The position of the prompt at which it is read.
        threshold: Above it, a row is steered.
        false_positives: The share of false positives that was asked for.
        readings: Of the prompts on which it is reported.
        labels: Which of those have the condition.
        chosen_on: How many prompts without the condition set the threshold.
        null: AUROC of random directions.
    """

    SCHEMA: ClassVar[str] = "directions.condition/1"

    direction: Direction
    at: int
    threshold: float
    false_positives: float
    readings: Float[Tensor, " example"]
    labels: Bool[Tensor, " example"]
    chosen_on: int
    null: Float[Tensor, " draw"]

    def holds(self, model: Model, tokens: Tokens) -> Bool[Tensor, " batch"]:
        """Which prompts have the condition; runs the model as far as the condition's site."""
        return _read(model, tokens, [self.direction], self.at)[0] > self.threshold

    def edits(self, model: Model, tokens: Tokens, edits: Sequence[Edit]) -> list[Edit]:
        """The same edits in those rows alone that have the condition; none where no row has it.

        Args:
            model: The model.
            tokens: The prompts that will be run or go on being written, in this order.
            edits: What is done where the condition holds.
        """
        rows = self.holds(model, tokens).nonzero().flatten().tolist()
        limited = [[row for row in rows if edit.rows is None or row in edit.rows] for edit in edits]
        return [dataclasses.replace(e, rows=tuple(some)) for e, some in zip(edits, limited, strict=True) if some]

    @property
    def rates(self) -> tuple[float, float]:
        """The shares of held-out prompts above the threshold: of those with the condition, of those without."""
        above = self.readings > self.threshold
        return tuple(float(above[self.labels == has].float().mean()) for has in (True, False))  # pyright: ignore[reportReturnType]

    def to_frame(self) -> pl.DataFrame:
        """One row for the prompts with the condition and one for those without: how many lie above the threshold."""
        rows = []
        for name, has in (("with", True), ("without", False)):
            above = self.readings[self.labels == has] > self.threshold
            low, high = wilson_interval(int(above.sum()), len(above))
            rows.append(
                {
                    "prompts": name,
                    "above": float(above.float().mean()),
                    "low": low,
                    "high": high,
                    "n": len(above),
                    "asked": None if has else self.false_positives,
                }
            )
        return pl.DataFrame(rows, schema_overrides={"asked": pl.Float64})

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        has, has_not = self.to_frame().to_dicts()
        scores, labels = self.readings.numpy(), self.labels.numpy()
        found = float(auroc(scores, labels))
        low, high = auroc_interval(scores, labels)
        most = float(self.null.max()) if len(self.null) else float("nan")
        failed = f", so no better than a random direction ({most:.2f})" if low <= most else ""
        late = "" if has_not["low"] <= self.false_positives else f", more than the {self.false_positives:.0%} asked for"
        return (
            f"{self.direction.name or self.direction.how}: {has['above']:.0%} of held-out prompts with the condition "
            f"are above the threshold (95 % {has['low']:.0%} to {has['high']:.0%}), and {has_not['above']:.0%} of "
            f"those without ({has_not['low']:.0%} to {has_not['high']:.0%}{late}); AUROC {found:.2f} ({low:.2f} to "
            f"{high:.2f}), random directions at most {most:.2f}{failed}; n = {len(self.labels)}"
        )


@method
def condition(
    model: Model,
    direction: Direction,
    having: Tokens,
    lacking: Tokens,
    *,
    at: int = -1,
    false_positives: float = 0.05,
    draws: int = 10,
    seed: int = 0,
) -> Condition:
    """A condition for steering, with how often it holds where it should and where it should not.

    Args:
        model: The model.
        direction: What is read; found on other prompts than these.
        having: Prompts in which the condition holds.
        lacking: Prompts in which it does not.
        at: The position that is read.
        false_positives: The share of prompts without the condition that may lie above the threshold.
        draws: Random directions of the null.
        seed: Of the halves and the null.

    Raises:
        BadInput: Fewer than four prompts on a side, or a share that is none.

    Units: shares; the threshold in the units of the reading.

    Source: Lee et al. 2024, "Programming Refusal with Conditional Activation Steering", arXiv 2409.05907. Theirs
    compares a cosine in the same pass; ours reads the direction before, so that one pass decides for all tokens.

    Caveats: A share of 5 % asks for 20 prompts at least in the half that sets the threshold.
    """
    direction.check(model)
    if min(len(having), len(lacking)) < 4 or not 0 <= false_positives < 1:
        found = f"{len(having)} with and {len(lacking)} without the condition, false_positives={false_positives}"
        raise BadInput(explain("A condition needs four prompts on each side and a share below 1", found=found))
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(lacking), generator=generator)
    setting, reported = order[: len(lacking) // 2], order[len(lacking) // 2 :]
    with measure() as cost:
        noise = torch.randn(draws, len(direction.vector), generator=generator)
        random = [dataclasses.replace(direction, vector=one, reader=None, bias=0.0) for one in noise]
        yes, no = (_read(model, tokens, [direction, *random], at) for tokens in (having, lacking))
    # 2. The smallest threshold with so few above it, and a hair higher, so that rounding in another batch is no matter.
    ranked = no[0, setting].sort(descending=True).values
    threshold = float(ranked[int(false_positives * len(ranked))] + 1e-4 * (ranked[0] - ranked[-1]))
    labels = torch.arange(len(having) + len(reported)) < len(having)
    both = torch.cat([yes, no[:, reported]], 1)
    null = auroc(both[1:].numpy(), np.broadcast_to(labels.numpy(), (draws, len(labels)))) if draws else np.zeros(0)
    call = f"digsite.directions.steering.condition(model, direction, having, lacking, at={at}, seed={seed})"
    return Condition(
        direction=direction,
        at=at,
        threshold=threshold,
        false_positives=false_positives,
        readings=both[0],
        labels=labels,
        chosen_on=len(setting),
        null=torch.from_numpy(np.maximum(null, 1 - null)).float(),
        provenance=made_by(call, model, f"{having.fingerprint} {lacking.fingerprint}", seed=seed),
        cost=cost,
    )


def _read(model: Model, tokens: Tokens, directions: Sequence[Direction], at: int) -> Float[Tensor, "probe batch"]:
    """1. The reading of each prompt along each direction."""
    site = directions[0].site
    run = model.run(tokens, read=[site], logits=None, batch_size=BATCH, to="cpu")
    places = tokens.places(at)
    x = require_finite(f"an activation at {site}", run[site][places.rows, places.columns])
    return torch.stack([one.read(x) for one in directions])
