"""Sanity before insight: five checks that a finding must pass before it may be called supported.

The effect of the finding's subject (see `subjects`) is measured on the task. It must beat its null there, be at least a
hundredth of what there is to explain, and be in a model that does the task at all. Then:

1. Null input: prompts of random ordinary tokens, of the same lengths. The effect must vanish.
2. Shuffled labels: the answers of other examples. The effect must vanish. Here, and in 1., examples are drawn several
   times over where there are fewer than 200, for single random prompts and answers say little.
3. Other seed: new examples of the same family and other random draws. The effect must persist.
4. Random weights: a model of the same architecture with its weights shuffled, three times. The effect must vanish.
5. Second metric: another way to score the same answers. The effect must persist.

How each is judged:

- An effect *beats its null* in a direction if its 95 % interval lies beyond the mean of the random subjects there, and
  its mean, on the examples that they were measured on, beyond 95 % of them.
- It *persists* if it beats its null in the direction that it has on the task.
- It *vanishes* unless it beats its null in some direction and is, beyond it, more than a quarter of what it is on the
  task, beyond the null there.
- A check that cannot be made has not been passed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, DigsiteError, explain
from digsite._core.numerics import bootstrap_interval
from digsite._core.progress import track
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.circuits.judgement import IDLE
from digsite.investigations.controls import others_answers, random_prompts
from digsite.investigations.subjects import FEW, Behaviour, Effect, Subject, subject_of
from digsite.models import Model, made_by, untrained
from digsite.tasks import METRICS, Task
from digsite.tasks.families import FAMILIES, usual_options

LEFT = 0.25
"""A control whose effect is at most this part of the original's has vanished."""
BEYOND = 0.95
"""The share of random subjects that an effect must lie beyond."""
RANDOM_MODELS = 3
ENOUGH = 200
"""So many examples are made of random prompts, and of shuffled answers."""
FEWEST_EXAMPLES, FEWEST_DRAWS = 8, 20
ORIGINAL, NULL_INPUT, SHUFFLED, OTHER_SEED, RANDOM_WEIGHTS, SECOND_METRIC = (
    "the claim itself",
    "null input",
    "shuffled labels",
    "other seed",
    "random weights",
    "second metric",
)
PERSIST, VANISH = "persist", "vanish"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One measurement of the effect, and whether it is as it should be.

    Attributes:
        name: Which check; those of random weights are numbered.
        must: "persist" or "vanish".
        metric_name: The metric.
        unit: Its unit.
        effect: In each example; empty where the check could not be made.
        null: The mean effect of each random subject, over the first `few` examples.
        few: How many these are.
        whole: The mean of what there is to explain.
        passed: Whether it is as it should be.
        words: What was seen, or why the check could not be made.
    """

    name: str
    must: str
    metric_name: str
    unit: str
    effect: Float[Tensor, " example"]
    null: Float[Tensor, " draw"]
    few: int
    whole: float
    passed: bool
    words: str


@dataclass(frozen=True, kw_only=True)
class BatteryResult(Result):
    """What became of an effect under five sanity checks.

    Attributes:
        subject: What the finding is about, as it was written.
        kind: What that is: "component", "latent", "circuit", ….
        model: The model's name.
        task: The task's name.
        description: What its prompts are.
        options: What its family was asked for; see `Task.options`.
        usual: What it is asked for unless one says otherwise.
        checks: The effect on the task itself, then that of each check.
    """

    SCHEMA: ClassVar[str] = "investigations.battery/1"

    subject: str
    kind: str
    model: str
    task: str
    description: str
    options: dict[str, str]
    usual: dict[str, str]
    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[str, ...]:
        """The checks that did not pass, each in words."""
        return tuple(f"{check.name} ({check.words})" for check in self.checks if not check.passed)

    @property
    def passed(self) -> bool:
        """Whether the effect beats its null and all five checks are as they should be."""
        return not self.failed

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        first = self.checks[0]
        does = {"circuit": "keeps", "behaviour": "is"}.get(self.kind, "carries")
        known = first.effect.numel() and abs(first.whole) > 1e-6 and self.kind != "behaviour"
        share = f"{round(100 * float(first.effect.mean()) / first.whole)} % of the " if known else ""
        what = f"{self.subject} {does} {share}{self.task} {first.metric_name}: {first.words}; n = {len(first.effect)}"
        if self.passed:
            return f"{what}; it passes all five checks"
        return f"{what}; it fails {len(self.failed)} of its checks: {'; '.join(self.failed)}"

    def to_frame(self) -> pl.DataFrame:
        """One row a check: effect with its 95 % interval, the null's mean and range, n, whether it passed."""
        rows = []
        for check in self.checks:
            mean, low, high = estimate(check.effect)
            null = check.null if len(check.null) else torch.full((1,), torch.nan)
            rows.append(
                {
                    "check": check.name,
                    "must": check.must,
                    "effect": mean,
                    "low": low,
                    "high": high,
                    "null": float(null.mean()),
                    "null_low": float(null.quantile(0.025)),
                    "null_high": float(null.quantile(0.975)),
                    "unit": check.unit,
                    "n": len(check.effect),
                    "passed": check.passed,
                    "words": check.words,
                }
            )
        return pl.DataFrame(rows)


@method
def battery(
    model: Model,
    task: Task,
    subject: str,
    *,
    again: Task | None = None,
    metric: str | None = None,
    draws: int = FEWEST_DRAWS,
    seed: int = 0,
    folder: str | Path = ".",
) -> BatteryResult:
    """Whether what was found is a fact about the model, or would be found anywhere.

    Args:
        model: The model.
        task: Clean and corrupt pairs; at least 8 examples, better 100.
        subject: What the finding is about: `layers.2.attn.z[3]`, `digsite/tinyworld/sae-0#12`, the folder of a circuit
            or direction, `behaviour`, …; see the head of `subjects`.
        again: New examples of the same kind. Unless given, the task's family draws them with the next seed.
        metric: The task's own if None.
        draws: Random subjects that each effect is compared with.
        seed: Of everything random.
        folder: Where relative paths in `subject` begin.

    Returns:
        The effect and the five checks; `passed`, and a verdict that says what failed.

    Raises:
        BadInput: Too few examples or draws, a subject that is none, or a task whose family does not say how to draw it
            again.

    Units:
        Effects are in the metric's unit.

    Source:
        Adebayo et al. 2018 (arXiv:1810.03292) for random weights; Méloux et al. 2025 (arXiv:2510.00845) for other
        examples; Zhang & Nanda 2024 (arXiv:2309.16042) for how much the metric decides.

    Caveats:
        A finding that passes may still be wrong in what it says; it only is no artefact of the five kinds. With few
        examples a true finding may fail: an effect that cannot be told from its null does not persist.
    """
    if len(task) < FEWEST_EXAMPLES or draws < FEWEST_DRAWS:
        found = f"{len(task)} examples, {draws} draws"
        possible = f"{FEWEST_EXAMPLES} examples and {FEWEST_DRAWS} draws, or more"
        raise BadInput(explain("A battery of so little says nothing", found=found, possible=possible))
    about = subject_of(model, subject, folder=folder)
    fresh = again if again is not None else redrawn(model, task)
    name = metric or task.metric_name
    with measure() as cost:
        measurements = list(_measurements(model, task, fresh, name, seed))
        first, *others = measurements
        original = _judged(first, about, draws, None)
        checks = [original, *(_judged(one, about, draws, original) for one in track(others, "sanity checks"))]
    call = f"digsite.investigations.battery(model, task, {subject!r}, draws={draws})"
    return BatteryResult(
        subject=subject.strip(),
        kind=about.kind,
        model=model.name,
        task=task.name,
        description=task.description,
        options=dict(task.options),
        usual=usual_options(task.name),
        checks=tuple(checks),
        provenance=made_by(call, model, task.fingerprint, seed=seed),
        cost=cost,
    )


def redrawn(model: Model, task: Task) -> Task:
    """New examples of a task's family.

    Raises:
        BadInput: The family is not known, or draws other examples with the task's own seed, so that it would ask
            something else.
    """
    family = FAMILIES.get(task.name)
    if family is not None and task.seed is not None:
        same = family(model, len(task), seed=task.seed)
        if same.fingerprint == task.fingerprint:
            return family(model, len(task), seed=task.seed + 1)
    asked = f"How new examples of the task {task.name} are drawn is not known"
    raise BadInput(explain(asked, do="pass them: again=, a task with other examples of the same kind"))


def rows_needed(task: Task, draws: int = FEWEST_DRAWS) -> int:
    """Rows that a battery sends through the model, about."""
    rows, few = len(task.clean), draws * min(FEW, len(task.clean))
    return (3 + RANDOM_MODELS) * (4 * rows + few) + 2 * (4 * rows * _times(task) + few)


@dataclass(frozen=True)
class _Measurement:
    """What one check runs: made when it is its turn, for it may not be possible."""

    name: str
    must: str
    metric: str
    seed: int
    setting: Callable[[], tuple[Model, Task]]


def _measurements(model: Model, task: Task, fresh: Task, name: str, seed: int) -> Iterator[_Measurement]:
    """1. to 5., after the claim itself."""
    often = task.take(list(range(len(task))) * _times(task))
    yield _Measurement(ORIGINAL, PERSIST, name, seed, lambda: (model, task))
    yield _Measurement(NULL_INPUT, VANISH, name, seed, lambda: (model, random_prompts(model, often, seed=seed)))
    yield _Measurement(SHUFFLED, VANISH, name, seed, lambda: (model, others_answers(often, seed=seed)))
    yield _Measurement(OTHER_SEED, PERSIST, name, seed + 1, lambda: (model, fresh))
    for number in range(1, RANDOM_MODELS + 1):
        other = seed + number
        called = f"{RANDOM_WEIGHTS} {number}"
        yield _Measurement(called, VANISH, name, other, lambda other=other: (untrained(model, seed=other), task))
    yield _Measurement(SECOND_METRIC, PERSIST, second_metric(task, name), seed, lambda: (model, task))


def _times(task: Task) -> int:
    return -(-ENOUGH // len(task))


def second_metric(task: Task, name: str) -> str:
    """Another metric of the same answers."""
    paired = bool(task.wrong.real.any(-1).all())
    if name == "logit_diff":
        return "prob"
    return "logit_diff" if paired else "log_prob" if name in ("accuracy", "rank") else "accuracy"


def _judged(one: _Measurement, about: Subject, draws: int, original: Check | None) -> Check:
    """The effect in one setting, and whether it is as it should be."""
    unit, none = METRICS[one.metric].unit, torch.zeros(0)
    told = {"name": one.name, "must": one.must, "metric_name": one.metric, "unit": unit}
    try:
        model, task = one.setting()
        effect = about.effect(model, task, one.metric, draws, one.seed)
    except (DigsiteError, ValueError) as refusal:
        if original is None:
            raise
        words = f"could not be made: {str(refusal).splitlines()[0]}"
        return Check(**told, effect=none, null=none, few=0, whole=torch.nan, passed=False, words=words)
    sign = _sign(about, original, effect)
    mean, low, high = estimate(effect.values)
    words = f"{mean:.3g} {unit}, 95 % {low:.3g} to {high:.3g}; random ones {float(effect.null.mean()):.3g}"
    if one.must == PERSIST:
        passed = beats(effect, sign)
    else:
        assert original is not None
        small = abs(_excess(effect.values, effect.null)) <= LEFT * abs(_excess(original.effect, original.null))
        passed = small or not (beats(effect, 1) or beats(effect, -1))
    if original is None and not isinstance(about, Behaviour) and (why := _nothing(one, model, task, effect, draws)):
        passed, words = False, f"{words}; {why}"
    fields = {"effect": effect.values, "null": effect.null, "few": effect.few, "whole": effect.whole}
    return Check(**told, **fields, passed=passed, words=words)


def _nothing(one: _Measurement, model: Model, task: Task, effect: Effect, draws: int) -> str:
    """Why there is nothing to find, whatever the null says: too small, or no behaviour; empty where there is."""
    if abs(float(effect.values.mean())) < IDLE * abs(effect.whole):
        return f"less than {IDLE:.0%} of the {one.metric} there is to explain"
    try:
        does = Behaviour().effect(model, task, one.metric, draws, one.seed)
    except BadInput as refusal:
        return f"whether the model does the task cannot be said: {str(refusal).splitlines()[0]}"
    if beats(does, 1):
        return ""
    return f"and the model does not do the task: {float(does.values.mean()):.3g} {METRICS[one.metric].unit}"


def _sign(about: Subject, original: Check | None, effect: Effect) -> int:
    """The direction of the claim: up for what must keep or be there; else the one it has on the task."""
    if about.kind in ("circuit", "behaviour"):
        return 1
    values, null = (effect.values, effect.null) if original is None else (original.effect, original.null)
    return 1 if _excess(values, null) >= 0 else -1


def beats(effect: Effect, sign: int) -> bool:
    """Whether an effect lies beyond its null in a direction; see the head of this file."""
    if not len(effect.null):
        return False
    _, low, high = estimate(effect.values)
    near, null = (low if sign > 0 else -high), sign * effect.null
    here = sign * float(effect.values[: effect.few].mean())
    return near > float(null.mean()) and float((null < here).float().mean()) >= BEYOND


def estimate(values: Float[Tensor, " example"]) -> tuple[float, float, float]:
    """Mean and 95 % interval; NaN for no examples."""
    if not len(values):
        return torch.nan, torch.nan, torch.nan
    low, high = bootstrap_interval(values)
    return float(values.mean()), float(low), float(high)


def _excess(values: Float[Tensor, " example"], null: Float[Tensor, " draw"]) -> float:
    return float(values.mean() - null.mean()) if len(null) else float(values.mean())
