"""What two languages share: a direction of one, read and written in the other; and which reading a sentence gets.

`language_transfer`:
1. Tasks tell the same in each language; clean prompts have the concept, corrupt ones have not. Examples of one number
   say the same, and lie on one side of the split in every language.
2. In each language a direction is fitted on one half of the examples.
3. Read: its AUROC on the held-out half of each language. Null: shuffled labels.
4. Written: added to the held-out corrupt prompts of each language, by how much it moves them towards the clean answer.
   Null: random directions of the same length.

`readings`: for sentences with two readings, log p(continuation of one) - log p(continuation of the other), with and
without a direction; Wilcoxon's signed-rank test over the sentences; null: random directions of the same length.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float
from scipy.stats import wilcoxon
from torch import Tensor

import digsite.models as models
from digsite._core.cost import measure
from digsite._core.errors import BadInput, explain
from digsite._core.numerics import bootstrap_interval
from digsite._core.progress import track
from digsite._core.ranking import auroc, auroc_interval
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.directions.direction import Direction, concrete
from digsite.directions.labelled import task_rows
from digsite.directions.probes.fits import Fit, mean_difference
from digsite.models import Edit, Model, made_by
from digsite.models.tokens import Positions
from digsite.sites import Site
from digsite.tasks import Task
from digsite.tasks.metrics import answer_scores

FEWEST = 8
"""Examples below which nothing is fitted."""


@dataclass(frozen=True, kw_only=True)
class LanguageTransfer(Result):
    """How far a direction of one language serves in another.

    Attributes:
        site: Where.
        languages: Their names.
        labels: Of the held-out prompts.
        scores: Readings of the direction of each language on the held-out prompts of each.
        null: AUROC of directions that were fitted on shuffled labels.
        effects: By how much each direction moves the held-out corrupt prompts of each language, in logits.
        null_effects: The mean effect of random directions of the same length.
        cosines: Between the directions of two languages.
    """

    SCHEMA: ClassVar[str] = "directions.language_transfer/1"

    site: Site
    languages: tuple[str, ...]
    labels: Bool[Tensor, " example"]
    scores: Float[Tensor, "language other example"]
    null: Float[Tensor, "language other draw"]
    effects: Float[Tensor, "language other chosen"]
    null_effects: Float[Tensor, "language other draw"]
    cosines: Float[Tensor, "language other"]

    def to_frame(self) -> pl.DataFrame:
        """One row for each language of origin and of use: AUROC and effect, with intervals and nulls."""
        rows = []
        for at, origin in enumerate(self.languages):
            for to, used in enumerate(self.languages):
                scores, labels = self.scores[at, to].numpy(), self.labels.numpy()
                low, high = auroc_interval(scores, labels)
                effect = self.effects[at, to]
                effect_low, effect_high = bootstrap_interval(effect)
                rows.append(
                    {
                        "from": origin,
                        "to": used,
                        "auroc": float(auroc(scores, labels)),
                        "low": low,
                        "high": high,
                        "null_mean": float(self.null[at, to].mean()),
                        "null_max": float(self.null[at, to].max()),
                        "effect": float(effect.mean()),
                        "effect_low": float(effect_low),
                        "effect_high": float(effect_high),
                        "null_effect_max": float(self.null_effects[at, to].max()),
                        "cosine": float(self.cosines[at, to]),
                        "n": len(effect),
                    }
                )
        return pl.DataFrame(rows)

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        rows = {(row["from"], row["to"]): row for row in self.to_frame().to_dicts()}
        said = []
        for origin in self.languages:
            own = rows[origin, origin]
            for used in self.languages:
                row = rows[origin, used]
                if used == origin:
                    continue
                failed = [] if row["low"] > max(0.5, row["null_mean"]) else ["reading no better than shuffled labels"]
                failed += [] if row["effect_low"] > row["null_effect_max"] else ["steering no better than chance"]
                lost = f" ({', '.join(failed)})" if failed else ""
                said.append(
                    f"{origin} in {used}: AUROC {row['auroc']:.2f} (at home {own['auroc']:.2f}), effect "
                    f"{row['effect']:+.2f} (home {own['effect']:+.2f}, random at most {row['null_effect_max']:+.2f}) "
                    f"logits{lost}"
                )
        cosine = float(self.cosines[0, 1])
        n = next(iter(rows.values()))["n"]
        return f"{self.site}, cosine {cosine:.2f}: {'; '.join(said)}; n = {n} held-out events"


@method
def language_transfer(
    model: Model,
    tasks: Mapping[str, Task],
    site: str | Site,
    *,
    fit: Fit = mean_difference,
    draws: int = 10,
    seed: int = 0,
) -> LanguageTransfer:
    """Whether a direction that was found in one language reads and steers in another.

    Args:
        model: The model.
        tasks: By language: clean prompts have the concept, corrupt ones have not, the right answer says so; example i
            means the same in all.
        site: Where; activations are taken, and moved, at the last position.
        fit: How a direction is found.
        draws: Shuffled labels and random directions.
        seed: Of the halves and the nulls.

    Raises:
        BadInput: Fewer than two languages, tasks of different length or without corrupt prompts, or fewer than 8
            examples.

    Units: AUROC; effects in the tasks' metric (logits).

    Caveats:
        Where one axis carries most of the variance, shuffled labels find it too, with either sign: their AUROC is then
        near 0 or 1 and only its mean is near chance. Where the answers are the same words in both languages, what is
        shared may be the word that is about to be said and not the meaning: compare an early with a late layer.
    """
    where = concrete(site)
    sizes = {name: len(task) for name, task in tasks.items()}
    if len(tasks) < 2 or len(set(sizes.values())) != 1 or min(sizes.values()) < FEWEST:
        found = ", ".join(f"{name} {size}" for name, size in sizes.items()) or "none"
        asked = f"Transfer needs two languages or more, with the same events, {FEWEST} at least"
        raise BadInput(explain(asked, found=found))
    count = next(iter(sizes.values()))
    with measure() as cost, torch.no_grad():
        # 1. Halves by event.
        random = np.random.default_rng(seed)
        order = random.permutation(count)
        test, train = (np.sort(part) for part in (order[: count // 2], order[count // 2 :]))
        rows = {name: task_rows(model, task, [str(where)]) for name, task in tasks.items()}
        x = {name: one.rows[str(where)] for name, one in rows.items()}
        labels = torch.arange(2 * count) < count
        taught, asked_of = (torch.from_numpy(np.concatenate([part, part + count])) for part in (train, test))
        # 2. A direction a language.
        fitted = {name: fit(x[name][taught], labels[taught]) for name in tasks}
        mixed = [labels[taught][torch.from_numpy(random.permutation(len(taught)))] for _ in range(draws)]
        chance = {name: [fit(x[name][taught], one) for one in mixed] for name in tasks}
        noise = torch.randn(draws, x[next(iter(tasks))].shape[1], generator=torch.Generator().manual_seed(seed))
        noise = noise / noise.norm(dim=1, keepdim=True)
        scores, null, effects, null_effects = [], [], [], []
        for origin in track(list(tasks), "transfer between languages"):
            one = fitted[origin]
            # 3. Read.
            scores.append([one.scores(x[used][asked_of].double()) for used in tasks])
            told = labels[asked_of].numpy()
            held = [x[used][asked_of].double() for used in tasks]
            null.append([[float(auroc(bad.scores(one).numpy(), told)) for bad in chance[origin]] for one in held])
            # 4. Written.
            shifts = [one.vector, *(one.vector.norm() * noise)]
            moved = [_effects(model, task.take(test.tolist()), where, shifts) for task in tasks.values()]
            effects.append([one[0] for one in moved])
            null_effects.append([one[1:].mean(1) for one in moved])
        unit = torch.stack([one.vector / one.vector.norm() for one in fitted.values()])
    return LanguageTransfer(
        site=where,
        languages=tuple(tasks),
        labels=labels[asked_of],
        scores=torch.stack([torch.stack(row) for row in scores]).float(),
        null=torch.tensor(null, dtype=torch.float32).reshape(len(tasks), len(tasks), draws),
        effects=torch.stack([torch.stack(row) for row in effects]),
        null_effects=torch.stack([torch.stack(row) for row in null_effects]),
        cosines=(unit @ unit.T).float(),
        provenance=made_by(
            f"digsite.directions.steering.language_transfer(model, tasks, {str(where)!r}, seed={seed})",
            model,
            " ".join(task.fingerprint for task in tasks.values()),
            seed=seed,
        ),
        cost=cost,
    )


def _effects(model: Model, task: Task, site: Site, shifts: list[Tensor]) -> Float[Tensor, "draw example"]:
    """4. What each shift at the last position does to the answers of the corrupt prompts."""
    prompts = task.require_corrupt()
    plain = task.metric(model.run(prompts, logits=task.keep).logits)
    edits = [models.add(site, shift.float(), at=-1) for shift in shifts]
    return torch.stack(
        [task.metric(model.run(prompts, edits=[edit], logits=task.keep).logits) - plain for edit in edits]
    )


@dataclass(frozen=True, kw_only=True)
class Readings(Result):
    """Which of two readings a model prefers, and whether a direction changes that.

    Attributes:
        name: What the sentences are.
        plain: log p(first reading) - log p(second reading) of each sentence, per token, in nats.
        steered: The same with the direction.
        null: The same with each random direction.
    """

    SCHEMA: ClassVar[str] = "directions.readings/1"

    name: str
    plain: Float[Tensor, " example"]
    steered: Float[Tensor, " example"]
    null: Float[Tensor, "draw example"]

    def to_frame(self) -> pl.DataFrame:
        """Preference and shift: medians, means with intervals, and p of Wilcoxon's signed-rank test."""
        rows = []
        shifts = self.null - self.plain
        for name, values, null in (
            ("preference", self.plain, None),
            ("steered preference", self.steered, None),
            ("shift", self.steered - self.plain, shifts),
        ):
            low, high = bootstrap_interval(values)
            rows.append(
                {
                    "what": name,
                    "mean": float(values.mean()),
                    "low": float(low),
                    "high": float(high),
                    "median": float(values.median()),
                    "p": signed_rank(values),
                    "null_low": None if null is None else float(null.mean(1).min()),
                    "null_high": None if null is None else float(null.mean(1).max()),
                    "n": len(values),
                }
            )
        return pl.DataFrame(rows)

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        plain, _, shift = self.to_frame().to_dicts()
        first = "no reading" if plain["p"] >= 0.05 else f"the {'first' if plain['mean'] > 0 else 'second'} reading"
        beyond = shift["low"] > shift["null_high"] or shift["high"] < shift["null_low"]
        lost = "" if beyond and shift["p"] < 0.05 else ", which is no more than chance"
        return (
            f"{self.name}: by itself the model prefers {first} ({plain['mean']:+.2f} nats, Wilcoxon p = "
            f"{plain['p']:.2g}); the direction moves it by {shift['mean']:+.2f} (95 % {shift['low']:+.2f} to "
            f"{shift['high']:+.2f}, p = {shift['p']:.2g}; random directions {shift['null_low']:+.2f} to "
            f"{shift['null_high']:+.2f}){lost}; "
            f"n = {plain['n']} sentences"
        )


@method
def readings(
    model: Model,
    task: Task,
    direction: Direction,
    coefficient: float = 1.0,
    unit: str = "raw",
    *,
    at: Positions = None,
    draws: int = 10,
    seed: int = 0,
) -> Readings:
    """Which reading of ambiguous sentences a model continues, and whether a direction decides it.

    Args:
        model: The model.
        task: The sentences; the right answer continues the first reading, the wrong answer the second.
        direction: Such as one that was found in a language in which the sentences are not ambiguous.
        coefficient: How much of it is added.
        unit: Of the coefficient.
        at: Positions; None for all.
        draws: Random directions of the same length.
        seed: Of them.

    Raises:
        BadInput: The direction is one of another model, an answer is missing, or fewer than 8 sentences.

    Units: nats per token of a continuation.

    Source: Wilcoxon 1945, the signed-rank test, two-sided, sentences without a difference left out.
    """
    direction.check(model)
    if len(task) < FEWEST or not bool((task.right.real.any(1) & task.wrong.real.any(1)).all()):
        asked = f"Readings need {FEWEST} sentences or more, each with a continuation of either reading"
        raise BadInput(explain(asked, found=f"{len(task)} sentences"))
    with measure() as cost, torch.no_grad():
        length = direction.amount(coefficient, unit)
        noise = torch.randn(draws, len(direction.vector), generator=torch.Generator().manual_seed(seed))
        units = [noise_ / noise_.norm() for noise_ in noise]
        edits = [models.add(direction.site, length * one, at=at) for one in units]
        plain = _preference(model, task, [])
        steered = _preference(model, task, [direction.add(coefficient, unit, at=at)])
        null = torch.stack([_preference(model, task, [edit]) for edit in edits])
    call = f"digsite.directions.steering.readings(model, task, direction, {coefficient}, {unit!r}, seed={seed})"
    made = made_by(call, model, task.fingerprint, seed=seed)
    return Readings(name=task.name, plain=plain, steered=steered, null=null, provenance=made, cost=cost)


def _preference(model: Model, task: Task, edits: list[Edit]) -> Float[Tensor, " example"]:
    logits = model.run(task.clean, edits=edits, logits=task.keep).logits
    first, second = (answer_scores(logits, side, per_token=True).amax(1) for side in (task.right, task.wrong))
    return (first - second).float().cpu()


def signed_rank(values: Float[Tensor, " example"]) -> float:
    """The two-sided p of Wilcoxon's signed-rank test of values that lie evenly about 0; 1 where all are 0."""
    some = values.double().numpy()
    return float(wilcoxon(some)[1]) if np.any(some) else 1.0  # pyright: ignore[reportArgumentType, reportIndexIssue]
