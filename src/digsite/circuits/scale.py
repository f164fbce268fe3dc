"""How the circuit of a task grows with the model: the smallest circuit of a fixed faithfulness, in model after model.

For every model, smallest first:
1. Half of the examples score the edges; the other half judge.
2. The best k edges are kept and all else is cut, for sizes k that grow by a constant factor; f(k) is the share of the
   behaviour that is kept (`faithfulness`). Between the last size that is too small and the first that is enough, sizes
   are tried again, until they are neighbours or the rounds are used up. Size counts edges that do not dangle.
3. Interval: the judging examples are drawn again, and the smallest size that is enough is looked for among those tried.
4. Null: random circuits of the same sizes.

Then, over the models:
5. log(size) = a + b log(parameters) by least squares. b = 0: circuits do not grow; 1: they grow as the model does.
6. Interval of b: from the scatter of the models about the line (t distribution, models − 2 degrees of freedom) together
   with that of the examples: the wider of both.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from scipy import stats
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, explain
from digsite._core.progress import track
from digsite._core.provenance import record
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.circuits.attribution import eap_ig
from digsite.circuits.evaluate import Cutter
from digsite.circuits.judging import require_change, share_kept
from digsite.circuits.scores import EdgeScores, chosen
from digsite.graphs import EdgeSpace
from digsite.graphs.circuit import prune
from digsite.models import Model
from digsite.tasks import Task

POINTS = 24
"""Sizes tried in a round."""
ROUNDS = 3
RESAMPLES = 200


@dataclass(frozen=True, kw_only=True)
class SizeOverScale(Result):
    """The smallest circuit that keeps a share of a behaviour, in models of increasing size.

    Attributes:
        task: What the models do; its name, or the names where they differ.
        method: What scored the edges.
        share: Of the behaviour that a circuit must keep.
        models: Their names, by parameters.
        parameters: Of each.
        edges: Of each.
        sizes: Edges of the smallest circuit that keeps the share.
        nodes: Heads and MLPs that it uses.
        kept: The share that it keeps.
        again: Its edges when the examples are drawn again.
        random: Edges of the smallest random circuits that keep the share on average; all where none smaller does.
        examples: On which each was judged.
    """

    SCHEMA: ClassVar[str] = "circuits.scale/1"

    task: str
    method: str
    share: float
    models: tuple[str, ...]
    parameters: Int[Tensor, " model"]
    edges: Int[Tensor, " model"]
    sizes: Int[Tensor, " model"]
    nodes: Int[Tensor, " model"]
    kept: Float[Tensor, " model"]
    again: Int[Tensor, "draw model"]
    random: Int[Tensor, " model"]
    examples: Int[Tensor, " model"]

    @property
    def exponent(self) -> float:
        """b of size ∝ parameters^b."""
        return _slope(self.parameters, self.sizes)[0]

    @property
    def exponent_interval(self) -> tuple[float, float]:
        """95 %: over models or over examples, whichever is wider; NaN for two models."""
        if len(self.models) < 3:
            return float("nan"), float("nan")
        slope, error = _slope(self.parameters, self.sizes)
        reach = float(stats.t.ppf(0.975, len(self.models) - 2)) * error
        low, high = np.quantile([_slope(self.parameters, sizes)[0] for sizes in self.again], [0.025, 0.975])
        return min(slope - reach, float(low)), max(slope + reach, float(high))

    def to_frame(self) -> pl.DataFrame:
        """One row a model: its smallest circuit with 95 % interval over examples, share of all, the random one."""
        low, high = torch.quantile(self.again.double(), torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
        return pl.DataFrame(
            {
                "model": list(self.models),
                "parameters": self.parameters.tolist(),
                "edges": self.edges.tolist(),
                "size": self.sizes.tolist(),
                "low": low.tolist(),
                "high": high.tolist(),
                "nodes": self.nodes.tolist(),
                "of_all": (self.sizes / self.edges).tolist(),
                "kept": self.kept.tolist(),
                "random": self.random.tolist(),
                "n": self.examples.tolist(),
            }
        )

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        rows = self.to_frame().rows(named=True)
        sizes = ", ".join(f"{row['size']} of {row['edges']}" for row in rows)
        low, high = self.exponent_interval
        law = f"size grows as parameters^{self.exponent:.2f}"
        if low != low:
            law += " (two models: no interval)"
        else:
            law += f" (95 % {low:.2f} to {high:.2f}; n = {len(rows)} models)"
            law += "; that includes no growth" if low <= 0 <= high else ""
            law += "; that includes growth as fast as the model's" if low <= 1 <= high else ""
        chance = ", ".join(str(row["random"]) for row in rows)
        return (
            f"{self.share:.0%} of {self.task} is kept by {sizes} edges from {rows[0]['parameters']:,} to "
            f"{rows[-1]['parameters']:,} parameters; {law}; random circuits need {chance}"
        )


@method
def size_over_scale(
    models: Iterable[Model],
    task_of: Callable[[Model], Task],
    *,
    share: float = 0.9,
    find: Callable[[Model, Task], EdgeScores] = eap_ig,
    select: str = "absolute",
    how: str = "corrupt",
    semantics: str = "tree",
    metric: str | None = None,
    random_circuits: int = 3,
    seed: int = 0,
) -> SizeOverScale:
    """Does the circuit of a task grow with the model? The smallest circuit that keeps a share of it, model after model.

    Args:
        models: Two or more; a generator has one in memory at a time.
        task_of: The task for a model: of the same name and difficulty for all.
        share: Of the behaviour that a circuit must keep.
        find: Scores the edges.
        select: "absolute", "signed" or "greedy".
        how: What takes the place of a cut edge: "corrupt", "zero", "mean" or "resample".
        semantics: "tree" or "edge".
        metric: The task's own if None.
        random_circuits: Of each size.
        seed: Of the split into examples that score and that judge, and of all draws.

    Raises:
        BadInput: Fewer than two models, fewer than four examples, a share that is not between 0 and 1, or a metric that
            cutting all edges does not change.

    Units:
        Edges; the exponent has none.

    Caveats:
        It is the smallest circuit that this method finds: a method that ranks worse in larger models makes circuits
        seem to grow. A model that is worse at the task has less behaviour to keep. Models of one family are few, and
        differ in more than size.
    """
    if not 0 < share < 1:
        raise BadInput(explain("A circuit keeps a share of the behaviour", found=f"share={share}", possible="0 to 1"))
    with measure() as cost:
        found = []
        for model in models:
            task = task_of(model)
            if len(task) < 4:
                raise BadInput(explain("Half of the examples score, the others judge", found=f"{len(task)} examples"))
            order = torch.randperm(len(task), generator=torch.Generator().manual_seed(seed))
            half = len(task) // 2
            scores, judged = find(model, task.take(order[:half])), task.take(order[half:])
            cutter = Cutter(model, judged, how=how, semantics=semantics, metric=metric, seed=seed)
            smallest = _Smallest(cutter, scores, share, select)
            found.append(smallest.result(model, task, random_circuits, seed))
    if len(found) < 2:
        raise BadInput(explain("Growth needs two models or more", found=str(len(found))))
    found.sort(key=lambda one: one.parameters)
    numbers = {
        name: torch.tensor([getattr(one, name) for one in found])
        for name in ("parameters", "edges", "sizes", "nodes", "random", "examples")
    }
    return SizeOverScale(
        task=", ".join(dict.fromkeys(one.task for one in found)),
        method=found[0].method,
        share=share,
        models=tuple(one.name for one in found),
        kept=torch.tensor([one.kept for one in found]),
        again=torch.stack([one.again for one in found], 1),
        **numbers,
        provenance=record(
            f"digsite.circuits.size_over_scale(models, task_of, share={share}, select={select!r}, how={how!r}, "
            f"semantics={semantics!r}) of {', '.join(one.weights for one in found)}",
            model=", ".join(one.name for one in found),
            seed=seed,
        ),
        cost=cost,
    )


class _One(NamedTuple):
    """What was found of one model."""

    name: str
    weights: str
    task: str
    method: str
    parameters: int
    edges: int
    sizes: int
    nodes: int
    kept: float
    random: int
    examples: int
    again: Int[Tensor, " draw"]


class _Smallest:
    """The search for the smallest circuit that is enough, in one model."""

    def __init__(self, cutter: Cutter, scores: EdgeScores, share: float, select: str):
        self.cutter, self.scores, self.share, self.select = cutter, scores, share, select
        self.space: EdgeSpace = cutter.space
        ends = cutter(torch.stack([torch.zeros_like(self.space.real), self.space.real]))
        self.empty, self.full = ends[0], ends[1]
        require_change(self.empty, self.full, cutter.metric or cutter.task.metric_name, cutter.semantics)
        self.tried: dict[int, Float[Tensor, " example"]] = {0: self.empty, len(self.space): self.full}

    def result(self, model: Model, task: Task, random_circuits: int, seed: int) -> _One:
        """2. to 4."""
        low, high = 0, len(self.space)
        for _ in track(range(ROUNDS), f"circuits of {model.name}"):
            self._try(_between(low, high))
            low, high = self._bracket()
            if high - low <= 1:
                break
        kept = self._masks(self.scores.mean(), [high])[0]
        heads_and_mlps = torch.tensor([name.startswith("layers.") for name in self.space.writers])
        return _One(
            name=model.name,
            weights=model.fingerprint,
            task=task.name,
            method=self.scores.method,
            parameters=sum(parameter.numel() for parameter in model.hf.parameters()),
            edges=len(self.space),
            sizes=int(kept.sum()),
            nodes=int((kept.any(1) & heads_and_mlps).sum()),
            kept=float(share_kept(self.tried[high].mean(), self.empty, self.full)),
            random=self._random(random_circuits, seed),
            examples=len(self.full),
            again=self._again(seed),
        )

    def _masks(self, scores: Tensor, counts: list[int]) -> Bool[Tensor, "size writer reader"]:
        return prune(self.space, torch.stack([chosen(self.space, scores, k, select=self.select) for k in counts]))

    def _try(self, counts: list[int]) -> None:
        new = [k for k in counts if k not in self.tried]
        if new:
            self.tried |= dict(zip(new, self.cutter(self._masks(self.scores.mean(), new)), strict=True))

    def _bracket(self) -> tuple[int, int]:
        """The smallest size that is enough, and the largest below it."""
        enough = self._enough(torch.stack([self.tried[k] for k in sorted(self.tried)]).mean(1), self.empty, self.full)
        counts = sorted(self.tried)
        first = int(enough.int().argmax())
        return counts[first - 1], counts[first]

    def _enough(self, metric: Tensor, empty: Tensor, full: Tensor) -> Bool[Tensor, " size"]:
        return share_kept(metric, empty, full) >= self.share

    def _again(self, seed: int) -> Int[Tensor, " draw"]:
        """3. The smallest size that is enough when the examples are drawn again."""
        counts = sorted(self.tried)
        metrics = torch.stack([self.tried[k] for k in counts])
        sizes = self._masks(self.scores.mean(), counts).sum((1, 2))
        rng, found = np.random.default_rng(seed), []
        for _ in range(RESAMPLES):
            rows = torch.from_numpy(rng.integers(0, len(self.full), len(self.full)))
            enough = self._enough(metrics[:, rows].mean(1), self.empty[rows], self.full[rows])
            found.append(int(sizes[int(enough.int().argmax())]) if bool(enough.any()) else len(self.space))
        return torch.tensor(found)

    def _random(self, circuits: int, seed: int) -> int:
        """4. The smallest of the sizes of the first round at which random circuits are enough on average."""
        generator = torch.Generator().manual_seed(seed)
        counts = _between(0, len(self.space))
        drawn = [torch.rand(self.space.real.shape, generator=generator) for _ in range(circuits)]
        masks = torch.stack([self._masks(one, counts) for one in drawn])
        metrics = self.cutter(masks.flatten(0, 1)).mean(1).reshape(circuits, len(counts)).mean(0)
        enough = self._enough(metrics, self.empty, self.full)
        first = int(enough.int().argmax())
        return int(masks[:, first].sum((1, 2)).float().mean()) if bool(enough.any()) else len(self.space)


def _between(low: int, high: int) -> list[int]:
    """Sizes between two, spaced by a constant factor."""
    return sorted(set(np.geomspace(max(low, 1), high, POINTS + 1).round().astype(int).tolist()) - {low, high})


def _slope(parameters: Tensor, sizes: Tensor) -> tuple[float, float]:
    """5. The slope of the line through the logarithms, and its standard error."""
    x, y = parameters.double().log(), sizes.double().clamp(min=1).log()
    x, y = x - x.mean(), y - y.mean()
    if float(x.abs().max()) < 1e-9:
        raise BadInput(explain("The models have the same number of parameters, so nothing grows"))
    slope = (x * y).sum() / (x * x).sum()
    error = ((y - slope * x) ** 2).sum() / max(1, len(x) - 2) / (x * x).sum()
    return float(slope), float(error.sqrt())
