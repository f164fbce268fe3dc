"""A direction that is trained: gradient descent on a vector, judged beside the mean difference and random directions.

1. The examples are parted: the vector is trained on one half and judged on the other.
2. From a random start, AdamW on an objective (`ReftR1` or `RePS`), with the learning rate falling linearly to zero.
3. Beside it: the difference of the mean activations at the continuations' own tokens, with the concept minus without;
   directions that the caller has; random directions.
4. Each is added at every token at the same lengths, on held-out examples. What is reported is the shortest length at
   which the trained vector makes most training examples prefer the concept.
5. The same vectors as detectors: the AUROC of the largest reading at the tokens of held-out continuations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from digsite._core.cost import count_backward, measure
from digsite._core.errors import BadInput, explain
from digsite._core.numerics import bootstrap_interval, require_finite
from digsite._core.progress import track
from digsite._core.ranking import auroc
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.directions.direction import Direction, Scale, concrete, same_place
from digsite.directions.measuring import activations, content, scale_along
from digsite.directions.steering.objectives import Batch, Objective, RePS
from digsite.models import Model, made_by
from digsite.models.tokens import grid, pad_id
from digsite.sites import Site
from digsite.tasks import Task
from digsite.tasks.answers import Answers
from digsite.tasks.metrics import answer_scores

LENGTHS = (0.25, 0.5, 1.0, 2.0)
"""How far an activation is moved, in units of the mean length of an activation."""
FEWEST = 8
"""Examples below which nothing is trained."""
TRAINED, DIFFERENCE = "trained", "mean difference"


@dataclass(frozen=True, kw_only=True)
class TrainedDirection(Result):
    """A trained vector, and whether training was worth it.

    Attributes:
        site: Where it is added.
        objective: What it was trained for.
        vector: The vector.
        scale: Of the activations along it, on the training prompts.
        losses: On the training batches, step by step.
        held_out: Loss on the held-out examples: at the start and after each epoch.
        judged: "trained", "mean difference", what the caller put beside.
        lengths: How far activations were moved, in units of their mean length.
        chosen: Which of the lengths is reported; the training half chose it.
        effects: By how much log p(with) - log p(without) rises on held-out examples, in nats.
        null: The mean effect of each random direction.
        detection: AUROC of each as a detector on held-out continuations.
        null_detection: That of random directions.
    """

    SCHEMA: ClassVar[str] = "directions.trained/1"

    site: Site
    objective: str
    vector: Float[Tensor, " width"]
    scale: Scale
    losses: Float[Tensor, " update"]
    held_out: Float[Tensor, " point"]
    judged: tuple[str, ...]
    lengths: tuple[float, ...]
    chosen: int
    effects: Float[Tensor, "judged setting example"]
    null: Float[Tensor, "draw setting"]
    detection: Float[Tensor, " judged"]
    null_detection: Float[Tensor, " draw"]

    @property
    def direction(self) -> Direction:
        """The vector as a direction, with its scale."""
        return Direction(
            site=self.site, vector=self.vector, scale=self.scale, how=self.objective, provenance=self.provenance
        )

    def to_frame(self) -> pl.DataFrame:
        """One row a direction and length: the mean effect with its 95 % interval, and the largest of the null."""
        rows = []
        for at, name in enumerate(self.judged):
            for number, length in enumerate(self.lengths):
                effect = self.effects[at, number]
                low, high = bootstrap_interval(effect)
                rows.append(
                    {
                        "direction": name,
                        "length": length,
                        "chosen": number == self.chosen,
                        "effect": float(effect.mean()),
                        "low": float(low),
                        "high": float(high),
                        "null_mean": float(self.null[:, number].mean()),
                        "null_max": float(self.null[:, number].max()),
                        "auroc": float(self.detection[at]),
                        "n": len(effect),
                    }
                )
        return pl.DataFrame(rows)

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        ours, *others = [row for row in self.to_frame().to_dicts() if row["chosen"]]
        failed = [
            row["direction"]
            for at, row in enumerate(others, 1)
            if float(bootstrap_interval(self.effects[0, self.chosen] - self.effects[at, self.chosen])[0]) <= 0
        ]
        failed += ["random directions"] if ours["low"] <= ours["null_max"] else []
        failed += ["its own start"] if float(self.held_out[-1]) >= float(self.held_out[0]) else []
        beside = ", ".join(f"{row['direction']} {row['effect']:+.2f}" for row in others)
        lost = f", so training is no better than {' and '.join(failed)}" if failed else ""
        return (
            f"{self.objective} at {self.site}: moving activations by {ours['length']:g} of their length makes the "
            f"concept {ours['effect']:+.2f} nats likelier (95 % {ours['low']:+.2f} to {ours['high']:+.2f}); {beside}, "
            f"random at most {ours['null_max']:+.2f}{lost}; as a detector AUROC {ours['auroc']:.2f} (random at most "
            f"{float(self.null_detection.max()):.2f}); n = {ours['n']} held-out examples"
        )


def training_passes(task: Task, objective: Objective) -> int:
    """How many forward passes training will take (there are as many backward), to know beforehand."""
    steps = -(-(len(task) - len(task) // 2) // objective.batch) * objective.epochs
    return steps * (2 if isinstance(objective, RePS) else 1)


@method
def train_direction(
    model: Model,
    task: Task,
    site: str | Site,
    objective: Objective,
    *,
    beside: Sequence[Direction] = (),
    lengths: Sequence[float] = LENGTHS,
    draws: int = 10,
    seed: int = 0,
) -> TrainedDirection:
    """Train a vector that makes the model continue prompts with a concept, and judge it on held-out prompts.

    Args:
        model: The model; its weights stay as they are.
        task: Prompts that are neutral to the concept. The one right answer of each has the concept, the one wrong
            answer has not.
        site: Where the vector is added, such as "layers.2.resid_post".
        objective: `ReftR1()` or `RePS()`, with how it is trained.
        beside: Directions at the same site to compare with.
        lengths: How far activations are moved, in units of their mean length.
        draws: Random directions.
        seed: Of the halves, the start, the batches and the random directions.

    Returns:
        The vector, its losses, and the effect of everything judged at equal lengths.

    Raises:
        BadInput: Fewer than 8 examples, an example that has not one right and one wrong answer, or a direction of
            another site or model.
        NotFinite: The loss became NaN.

    Units: effects in nats, per token of a continuation.

    Source: AxBench, arXiv 2501.17148; RePS, arXiv 2505.20809; see `objectives` for the formulas and what differs.

    Caveats:
        Examples are parted one by one: where many share a sentence, the held-out half knows the sentence. The effect
        says nothing of what else the vector breaks; a steer card does.
    """
    where = concrete(site)
    _check(model, task, where, beside, lengths)
    with measure() as cost:
        # 1. Two halves.
        order = np.random.default_rng([seed, 0]).permutation(len(task))
        half = len(task) // 2
        train, test = task.take(sorted(order[half:])), task.take(sorted(order[:half]))
        x = activations(model, train.clean, [where])[0]
        norm = float(x.norm(dim=-1).mean())
        # 2. Descent.
        vector, losses, held_out = _descended(model, train, test, where, objective, norm, seed)
        # 3. What stands beside.
        named = {TRAINED: vector, DIFFERENCE: _difference(model, train, where)}
        named |= {one.name or one.how: one.vector for one in beside}
        chance = torch.randn(draws, len(vector), generator=torch.Generator().manual_seed(seed + 1))
        # 4. Equal lengths.
        every = [*named.values(), *chance]
        amounts = [norm * length for length in lengths]
        chosen = _enough(model, train, where, vector, amounts)
        effects = _effects(model, test, where, every, amounts)
        # 5. As detectors.
        found = _detection(model, test, where, every)
    return TrainedDirection(
        site=where,
        objective=type(objective).__name__,
        vector=vector,
        scale=scale_along(vector, x),
        losses=losses,
        held_out=held_out,
        judged=tuple(named),
        lengths=tuple(lengths),
        chosen=chosen,
        effects=effects[: len(named)],
        null=effects[len(named) :].mean(-1),
        detection=found[: len(named)],
        null_detection=found[len(named) :],
        provenance=made_by(
            f"digsite.directions.steering.train_direction(model, task, {str(where)!r}, {objective}, seed={seed})",
            model,
            task.fingerprint,
            seed=seed,
        ),
        cost=cost,
    )


def _descended(
    model: Model, train: Task, test: Task, site: Site, objective: Objective, norm: float, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """2. The vector, the losses of the steps, and the held-out losses."""
    draw = torch.Generator().manual_seed(seed)
    unit = torch.randn(len(activations(model, train.clean[0], [site])[0][0]), generator=draw)
    unit = (unit / unit.norm()).to(model.device).requires_grad_()
    length = objective.length(norm)
    optimiser = torch.optim.AdamW([unit], lr=objective.rate, weight_decay=0.0)
    parts, aside = _batches(model, train, site, objective.batch), _batches(model, test, site, objective.batch)
    steps = objective.epochs * len(parts)
    orders = [int(part) for _ in range(objective.epochs) for part in torch.randperm(len(parts), generator=draw)]

    def judged() -> float:
        with torch.no_grad():
            total = sum(len(b.task) * float(objective.loss(b, length * unit, 1.0, None)) for b in aside)
        return total / len(test)

    losses, held_out = [], [judged()]
    for step, part in enumerate(track(orders, f"training {type(objective).__name__}")):
        for group in optimiser.param_groups:
            group["lr"] = objective.rate * (1 - step / steps)
        loss = objective.loss(parts[part], length * unit, step / steps, draw)
        losses.append(float(require_finite("the loss of the trained direction", loss.detach())))
        (unit.grad,) = torch.autograd.grad(loss, [unit])
        count_backward(len(parts[part].task.clean))
        torch.nn.utils.clip_grad_norm_([unit], 1.0)
        optimiser.step()
        with torch.no_grad():
            unit.copy_(objective.settled(unit))
        if (step + 1) % len(parts) == 0:
            held_out.append(judged())
    return (length * unit).detach().float().cpu(), torch.tensor(losses), torch.tensor(held_out)


def _batches(model: Model, task: Task, site: Site, size: int) -> list[Batch]:
    made = []
    for start in range(0, len(task), size):
        part = task.take(slice(start, start + size))
        logits = model.run(part.clean, logits=part.keep).logits
        right, wrong = (answer_scores(logits, side)[:, 0] for side in (part.right, part.wrong))
        keep = content(part.clean, model.tokenizer).to(model.device)
        made.append(Batch(model=model, task=part, site=site, keep=keep, plain=(right, wrong)))
    return made


def _effects(
    model: Model, task: Task, site: Site, vectors: Sequence[Tensor], amounts: Sequence[float]
) -> Float[Tensor, "judged setting example"]:
    """4. By how much log p(with) - log p(without), per token, rises when each vector is added at each length."""
    found = []
    with torch.no_grad():
        for batch in _batches(model, task, site, 64):
            before = _gap(batch, 0 * vectors[0])
            units = [vector / vector.norm() for vector in vectors]
            found.append([[_gap(batch, amount * unit) - before for amount in amounts] for unit in units])
    return torch.cat([torch.stack([torch.stack(row) for row in part]) for part in found], -1).float().cpu()


def _enough(model: Model, task: Task, site: Site, vector: Tensor, amounts: Sequence[float]) -> int:
    """4. The first of the amounts at which most examples prefer the concept; the last where none does."""
    unit, batches = vector / vector.norm(), _batches(model, task, site, 64)
    with torch.no_grad():
        for number, amount in enumerate(amounts):
            if float(torch.cat([_gap(batch, amount * unit) > 0 for batch in batches]).float().mean()) > 0.5:
                return number
    return len(amounts) - 1


def _gap(batch: Batch, shift: Tensor) -> Float[Tensor, " example"]:
    right, wrong = batch.scores(batch.shifted(shift.to(batch.keep.device)))
    return right - wrong


def _difference(model: Model, task: Task, site: Site) -> Float[Tensor, " width"]:
    """3. Mean activation at the tokens of the continuations with the concept, minus that without."""
    with_it, without = (_at_answers(model, task, side, site) for side in (task.right, task.wrong))
    return with_it[0][with_it[1]].mean(0) - without[0][without[1]].mean(0)


def _detection(model: Model, task: Task, site: Site, vectors: Sequence[Tensor]) -> Float[Tensor, " judged"]:
    """5. How well the largest reading at a continuation's tokens tells those with the concept from those without."""
    sides = [_at_answers(model, task, side, site) for side in (task.right, task.wrong)]
    labels = np.repeat([True, False], len(task))
    scores = [
        torch.cat([(x @ vector).masked_fill(~mask, -torch.inf).amax(1) for x, mask in sides]) for vector in vectors
    ]
    return torch.tensor([float(auroc(one.numpy(), labels)) for one in scores])


def _at_answers(
    model: Model, task: Task, side: Answers, site: Site
) -> tuple[Float[Tensor, "example token width"], Tensor]:
    """Activations at the tokens of each example's answer, read after its prompt, and which of them are real."""
    ids, mask = side.ids[:, 0], side.mask[:, 0]
    prompts = task.clean[side.rows[:, 0]]
    rows = [
        [*row[real].tolist(), int(answer[-1])] for row, real, answer in zip(prompts.ids, prompts.mask, ids, strict=True)
    ]
    tokens = grid(rows, pad=pad_id(model.tokenizer), padding="left", tokenizer=model.tokenizer)
    run = model.run(tokens, read=[site], logits=None, batch_size=64, to="cpu")
    return run[site][:, -ids.shape[1] :].float(), mask


def _check(model: Model, task: Task, site: Site, beside: Sequence[Direction], lengths: Sequence[float]) -> None:
    if len(task) < FEWEST:
        raise BadInput(explain(f"A direction is trained on {FEWEST} examples or more", found=f"{len(task)}"))
    odd = [i for i in range(len(task)) if int(task.right.real[i].sum()) != 1 or int(task.wrong.real[i].sum()) != 1]
    if odd:
        found = f"example {odd[0]} has {int(task.right.real[odd[0]].sum())} right and "
        found += f"{int(task.wrong.real[odd[0]].sum())} wrong"
        raise BadInput(explain("Every example has one continuation with the concept and one without", found=found))
    if not lengths or min(lengths) <= 0 or list(lengths) != sorted(lengths):
        raise BadInput(explain("Lengths are positive numbers, ascending", found=f"{tuple(lengths)}"))
    for direction in beside:
        direction.check(model)
        if direction.site != site:
            same_place(direction, direction.moved(site=site))
