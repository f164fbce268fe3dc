"""Ablation: take away any set of components and see what the task loses.

1. The clean and corrupt rows give the two ends: all of the behaviour, none of it.
2. The set is knocked out (replaced) in one run, and kept alone (everything else replaced) in another.
3. Random sets with as many heads and as many MLPs are knocked out and kept in the same way: the null.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, explain
from digsite._core.numerics import bootstrap_interval
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.models import Model, made_by
from digsite.patching.components import checked, components, evaluate_sets
from digsite.tasks import Task


@dataclass(frozen=True, kw_only=True)
class AblationResult(Result):
    """What a set of components is needed for and what it is enough for, against random sets of the same size.

    Attributes:
        components: The set.
        how: What replaced a component.
        metric_name: The metric, and its unit.
        unit: Its unit.
        clean: The metric on the clean rows.
        corrupt: The metric with every component replaced.
        knockout: With the set replaced and the rest untouched.
        keep: With everything but the set replaced.
        random_knockout: The metric with a random set knocked out, mean over the first `random_examples` examples.
        random_keep: The same for keeping a random set alone.
        random_examples: How many examples those means are over.
    """

    SCHEMA: ClassVar[str] = "patching.ablation/1"

    components: tuple[str, ...]
    how: str
    metric_name: str
    unit: str
    clean: Float[Tensor, " example"]
    corrupt: Float[Tensor, " example"]
    knockout: Float[Tensor, " example"]
    keep: Float[Tensor, " example"]
    random_knockout: Float[Tensor, " draw"]
    random_keep: Float[Tensor, " draw"]
    random_examples: int

    def share(self, values: Float[Tensor, "*cells"]) -> Float[Tensor, "*cells"]:
        """A metric as a share of the way from none of the behaviour (all replaced) to all of it (clean)."""
        none, full = self.corrupt.mean(), self.clean.mean()
        return (values - none) / (full - none)

    @property
    def kept(self) -> tuple[float, float, float]:
        """Share kept by the set alone, with its 95 % interval."""
        return _with_interval(self.share(self.keep))

    @property
    def left(self) -> tuple[float, float, float]:
        """Share left when the set is knocked out, with its 95 % interval."""
        return _with_interval(self.share(self.knockout))

    @property
    def beaten(self) -> tuple[int, int]:
        """How many random sets it beats on the same examples: at breaking the behaviour, and at keeping it."""
        few = slice(0, self.random_examples)
        breaks = int((self.random_knockout > self.knockout[few].mean()).sum())
        return breaks, int((self.random_keep < self.keep[few].mean()).sum())

    @property
    def beats_chance(self) -> tuple[bool, bool]:
        """Whether it breaks, and keeps, more than 95 % of random sets do."""
        breaks, keeps = (count >= 0.95 * len(self.random_keep) for count in self.beaten)
        return breaks, keeps

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        draws, (breaks, keeps) = len(self.random_keep), self.beaten
        return (
            f"Without these {len(self.components)} components {self.left[0]:.0%} of the behaviour is left "
            f"(breaks more than {breaks} of {draws} random sets); with nothing but them {self.kept[0]:.0%} "
            f"(keeps more than {keeps} of {draws}); n = {len(self.clean)}"
        )

    def to_frame(self) -> pl.DataFrame:
        """One row a condition: metric with interval, share, and the random sets' range."""
        rows = []
        for name, values, null in (
            ("clean", self.clean, None),
            ("all replaced", self.corrupt, None),
            ("knocked out", self.knockout, self.random_knockout),
            ("kept alone", self.keep, self.random_keep),
        ):
            mean, low, high = _with_interval(values)
            ends = (None, None) if null is None or not len(null) else (float(null.min()), float(null.max()))
            rows.append((name, mean, low, high, float(self.share(values).mean()), *ends, len(values)))
        columns = ["condition", self.metric_name, "low", "high", "share", "random_min", "random_max", "n"]
        return pl.DataFrame(rows, schema=columns, orient="row")


@method
def ablation(
    model: Model,
    task: Task,
    names: tuple[str, ...] | list[str],
    *,
    how: str = "corrupt",
    over: Any = None,
    metric: str | None = None,
    random_sets: int = 200,
    random_examples: int = 50,
    seed: int = 0,
) -> AblationResult:
    """Whether a set of components is needed, and whether it is enough.

    Args:
        model: The model.
        task: Clean and corrupt pairs.
        names: Heads ("layers.3.attn.z[2]") and MLPs ("layers.3.mlp.out"); wildcards allowed.
        how: What takes a component's place: "corrupt" (its value on the row's corrupt prompt), "mean", "zero" or
            "resample" (see `evaluate_sets`).
        over: Tokens or corpus for "mean" and "resample".
        metric: The task's own if None.
        random_sets: How many random sets to compare with; each has as many heads and as many MLPs.
        random_examples: The first so many examples are used for random sets.
        seed: Of the random sets and of resampling.

    Raises:
        BadInput: An empty set, an unknown component, or a task without corrupt prompts where they are needed.

    Units:
        The metric's; shares are fractions of (clean - all replaced).

    Source:
        Wang et al. 2022 (knockout, faithfulness of kept circuits); random circuits as the null.

    Caveats:
        A share above 1 means that the rest of the model works against the behaviour. Shares mean little where clean
        and replaced metric lie close together.
    """
    chosen = checked(model, names)
    if not chosen:
        raise BadInput(explain("The set of components is empty", do="name at least one head or MLP"))
    everything = components(model)
    flags = torch.tensor([name in chosen for name in everything])
    with measure() as cost:
        sets = torch.stack([torch.zeros_like(flags), torch.ones_like(flags), flags, ~flags])
        knobs = {"how": how, "over": over, "metric": metric, "seed": seed}
        clean, corrupt, knockout, keep = evaluate_sets(model, task, sets, **knobs)
        drawn = random_flags(everything, flags, random_sets, seed=seed)
        few = task if len(task) <= random_examples else task.take(slice(0, random_examples))
        knobs["description"] = "random sets"
        null = evaluate_sets(model, few, torch.cat((drawn, ~drawn)), **knobs) if random_sets else torch.zeros(0, 1)
    means = null.mean(1)
    name = metric or task.metric_name
    return AblationResult(
        components=chosen,
        how=how,
        metric_name=name,
        unit=task.unit if metric is None else "",
        clean=clean,
        corrupt=corrupt,
        knockout=knockout,
        keep=keep,
        random_knockout=means[:random_sets],
        random_keep=means[random_sets:],
        random_examples=len(few),
        provenance=made_by(
            f"digsite.ablation(model, task, {list(names)!r}, how={how!r})", model, task.fingerprint, seed=seed
        ),
        cost=cost,
    )


def random_flags(
    names: tuple[str, ...], like: Bool[Tensor, " component"], count: int, *, seed: int, apart: bool = False
) -> Bool[Tensor, "draw component"]:
    """Random sets with as many heads and as many MLPs as a given one.

    Args:
        names: Of all components.
        like: The given set.
        count: How many sets.
        seed: Of the draws.
        apart: Whether they hold none of its components; where too few others are left, they are smaller.
    """
    rng = np.random.default_rng(seed)
    head = np.array(["attn.z" in name for name in names])
    flags = np.zeros((count, len(names)), dtype=bool)
    for row in flags:
        for kind in (head, ~head):
            size = int((like.numpy() & kind).sum())
            pool = np.flatnonzero(kind & ~like.numpy() if apart else kind)
            row[rng.choice(pool, min(size, len(pool)), replace=False)] = True
    return torch.from_numpy(flags)


def _with_interval(values: Float[Tensor, " example"]) -> tuple[float, float, float]:
    low, high = bootstrap_interval(values)
    return float(values.mean()), float(low), float(high)
