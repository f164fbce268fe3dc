"""Surgery: switch off a circuit, and see whether anything else breaks.

1. The part is cut: edges of a circuit, or whole heads and MLPs.
2. What it was for: the task's metric before and after.
3. What else changes: the metric of other tasks, and on neutral text the distance from the model's own predictions (KL)
   and the cross-entropy of the text.
4. The null: random parts of the same size, cut in the same way. It says what any cut of that size does.
5. The cut is surgical if the task loses more than with 95 % of the random parts, and nothing else does.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, explain
from digsite._core.numerics import bootstrap_interval
from digsite._core.progress import track
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.editing.cuts import HOW, Cut, EdgeCut, NodeCut
from digsite.graphs import Circuit
from digsite.models import Model, Tokens, made_by
from digsite.models.prediction import cross_entropy, divergence, predicted
from digsite.tasks import METRICS, Task

BATCH = 32
"""Examples of a task in one pass."""
ROWS = 8
"""Rows of neutral text in one pass, whose logits are all kept."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """One thing that is measured with the part and without it.

    Attributes:
        name: What it is measured on: a task, or "neutral text".
        metric: What is measured.
        unit: Its unit.
        better: "higher" or "lower".
        before: Of the model as it is.
        after: Without the part.
        random: Without random parts: the mean over the first `few` examples.
        few: How many those are.
    """

    name: str
    metric: str
    unit: str
    better: str
    before: Float[Tensor, " example"]
    after: Float[Tensor, " example"]
    random: Float[Tensor, " draw"]
    few: int

    @property
    def loss(self) -> Float[Tensor, " example"]:
        """What is lost without the part; positive is worse, whichever way the metric goes."""
        return (self.before - self.after) * (1 if self.better == "higher" else -1)

    @property
    def random_loss(self) -> Float[Tensor, " draw"]:
        """What is lost on average without each random part."""
        return (self.before[: self.few].mean() - self.random) * (1 if self.better == "higher" else -1)

    @property
    def more_than(self) -> float:
        """The share of random parts without which less is lost than without this one, on the same examples."""
        return float((self.random_loss < self.loss[: self.few].mean()).double().mean())


@dataclass(frozen=True, kw_only=True)
class Surgery(Result):
    """What a model can no longer do without a part of it, and what else changes, beside random parts.

    Attributes:
        what: "edges", or "heads and MLPs".
        names: What was cut.
        how: What took its place: "mean", "zero" or "resample".
        changes: What was measured; the task comes first.
    """

    SCHEMA: ClassVar[str] = "editing.surgery/1"

    what: str
    names: tuple[str, ...]
    how: str
    changes: tuple[Change, ...]

    @property
    def broken(self) -> bool:
        """Whether the task loses more than with 95 % of the random parts."""
        return self.changes[0].more_than >= 0.95 and float(self.changes[0].loss.mean()) > 0

    @property
    def harmed(self) -> tuple[Change, ...]:
        """What else loses more than with 95 % of the random parts."""
        return tuple(one for one in self.changes[1:] if one.more_than >= 0.95 and float(one.loss.mean()) > 0)

    @property
    def surgical(self) -> bool:
        """Whether the task is broken and nothing else is harmed."""
        return self.broken and not self.harmed and len(self.changes) > 1

    def to_frame(self) -> pl.DataFrame:
        """One row a measurement: before, after, what is lost with its 95 % interval, and what random parts lose."""
        rows = []
        for one in self.changes:
            low, high = (float(end) for end in bootstrap_interval(one.loss))
            null = one.random_loss if len(one.random) else torch.tensor([math.nan])
            means = (float(values.mean()) for values in (one.before, one.after, one.loss))
            ends = (float(null.mean()), float(null.max()), one.more_than)
            rows.append((one.name, one.metric, one.unit, *means, low, high, *ends, len(one.before)))
        columns = [
            "on",
            "metric",
            "unit",
            "before",
            "after",
            "loss",
            "low",
            "high",
            "random",
            "random_max",
            "more_than",
        ]
        return pl.DataFrame(rows, schema=[*columns, "n"], orient="row")

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        first, *rest = self.to_frame().to_dicts()
        if len(self.changes) == 1:
            said = "nothing else was measured, so whether it is surgical is open"
        elif self.surgical:
            said = "surgical: nothing else loses more than with random parts"
        elif self.broken:
            said = f"not surgical: {', '.join(f'{one.name} ({one.metric})' for one in self.harmed)} is harmed too"
        else:
            said = "not surgical: random parts of this size break the task as much"
        cost = "".join(
            f"; {row['on']} {row['metric']} loses {row['loss']:.3g} {row['unit']} (random {row['random']:.3g})"
            for row in rest
        )
        return (
            f"Without {len(self.names)} {self.what} ({self.how}) {first['on']} goes from {first['before']:.2f} to "
            f"{first['after']:.2f} {first['unit']} (95 % of the loss {first['low']:.2f} to {first['high']:.2f}; random "
            f"parts lose {first['random']:.2f}){cost}; {said}; n = {first['n']}"
        )


@method
def disable(
    model: Model,
    part: Circuit | Sequence[str],
    task: Task,
    *,
    how: str = "mean",
    over: Any = None,
    others: Sequence[Task] = (),
    neutral: Any = None,
    neutral_rows: int = 64,
    random_parts: int = 20,
    random_examples: int = 32,
    seed: int = 0,
) -> Surgery:
    """Whether a behaviour can be switched off by itself, by cutting the part of the model that is said to do it.

    Args:
        model: The model; it is not changed.
        part: A circuit, whose edges are cut; or heads and MLPs by name, which are replaced for all that read them.
        task: What the part is for.
        how: "mean" (over real tokens of `over`), "zero", or "resample" (another row of the same text).
        over: Tokens or corpus that the mean is taken over; the neutral text if None, else the task's own prompts.
        others: Tasks that should not change.
        neutral: Tokens or corpus that should not change either.
        neutral_rows: The most rows of it that are used.
        random_parts: How many random parts of the same size are cut for comparison.
        random_examples: On how many examples of each task, and rows of the neutral text, they are cut.
        seed: Of random parts and of resampling.

    Returns:
        What is lost, per example, beside what random parts lose. For the edits that switch nodes off in your own runs
        and generations see `node_edits`; `bake` writes them into a copy of the weights.

    Raises:
        BadInput: Nothing to cut, an unknown node, a circuit of another model, or a way that does not exist.
        ShapeMismatch: Resampling a row that has no other of its length.
        Unsupported: A circuit in a model that is not a sum of heads and MLPs that read one stream.

    Units:
        Of each metric. KL in nats per token: mean over predicted tokens of KL(model ‖ model without the part).

    Source:
        Li, Davies & Nadeau 2023, "Circuit Breaking" (arXiv:2309.05973), for the question and the retained-loss side;
        random circuits as the null.

    Caveats:
        A random part of the same size often misses the busy early layers; what passes here may still be coarse. Neutral
        text shows only what it contains.
    """
    if how not in HOW:
        raise BadInput(explain(f"how={how!r} is not a way to switch a part off", possible=HOW, near=how))
    own = task.clean if task.corrupt is None else task.corrupt
    over = over if over is not None else neutral if neutral is not None else own
    make = EdgeCut if isinstance(part, Circuit) else NodeCut
    with measure() as cost:
        cut = make(model, part, how=how, over=over, seed=seed)  # pyright: ignore[reportArgumentType]
        parts = [torch.zeros_like(cut.own), cut.own]
        random = cut.random(random_parts, seed=seed)
        changes = [_on_task(cut, one, parts, random, random_examples) for one in track([task, *others], "tasks")]
        if neutral is not None:
            changes += _on_text(cut, _rows(neutral, neutral_rows), parts, random, random_examples)
    said = f"<circuit of {part.name}>" if isinstance(part, Circuit) else repr(list(part))
    return Surgery(
        what=cut.what,
        names=cut.names,
        how=how,
        changes=tuple(changes),
        provenance=made_by(f"digsite.disable(model, {said}, task, how={how!r})", model, task.fingerprint, seed=seed),
        cost=cost,
    )


def _on_task(cut: Cut, task: Task, parts: list[Tensor], random: list[Tensor], few: int) -> Change:
    before, after = _scored(cut, task, parts)
    few = min(few, len(task))
    null = _scored(cut, task.take(slice(0, few)), random).mean(1) if random else torch.zeros(0)
    return Change(
        name=task.name,
        metric=task.metric_name,
        unit=task.unit,
        better=METRICS[task.metric_name].better,
        before=before,
        after=after,
        random=null,
        few=few,
    )


def _scored(cut: Cut, task: Task, parts: list[Tensor]) -> Float[Tensor, "part example"]:
    found = []
    for some in _evenly(len(task), BATCH):
        few = task.take(some)
        found.append(torch.stack([few.metric(one).float().cpu() for one in cut.logits(few.clean, parts, few.keep)]))
    return torch.cat(found, 1)


def _on_text(cut: Cut, rows: Tokens, parts: list[Tensor], random: list[Tensor], few: int) -> list[Change]:
    few = min(few, len(rows))
    kl, loss = _spread(cut, rows, parts)
    null = _spread(cut, rows[:few], [parts[0], *random])[:, 1:].mean(2) if random else torch.zeros(2, 0)
    lay = {"name": "neutral text", "better": "lower", "few": few}
    return [
        Change(metric="KL", unit="nats per token", before=kl[0], after=kl[1], random=null[0], **lay),
        Change(metric="cross-entropy", unit="nats per token", before=loss[0], after=loss[1], random=null[1], **lay),
    ]


def _spread(cut: Cut, rows: Tokens, parts: list[Tensor]) -> Float[Tensor, "2 part row"]:
    """KL from the model as it is (the first part is none) and cross-entropy, per row, in nats per predicted token."""
    found = []
    for some in _evenly(len(rows), ROWS):
        tokens, own, each = rows[some], None, []
        for logits in cut.logits(tokens, parts, tokens.ids.shape[1]):
            said = predicted(logits).cpu()
            own = said if own is None else own
            each.append(torch.stack([divergence(own, said, tokens), cross_entropy(said, tokens)]))
        found.append(torch.stack(each, 1))
    return torch.cat(found, 2)


def _rows(text: Any, most: int) -> Tokens:
    """The first rows of a text."""
    first = next(iter(text.batches(most)), None)
    if first is None:
        raise BadInput(explain("The neutral text is empty"))
    return first


def _evenly(count: int, most: int) -> list[Tensor]:
    """Indices in chunks of nearly one size, so that no row is alone in its chunk unless it is the only one."""
    return list(torch.arange(count).tensor_split(math.ceil(count / most)))
