"""What the shared core of a population keeps by itself, and what each prompt's remainder adds: measured.

For every prompt these circuits are cut out and run on that prompt alone, together in one pass:
1. the core,
2. the prompt's own circuit,
3. the core and the prompt's remainder,
4. the core and the remainder of another prompt: the null of what is the prompt's own,
5. random circuits as large as 3, grown from the logits so that nothing dangles from above: the null of all.

f of each is its mean metric on the way from no edge (0) to all (1).

Cost: 5 + r circuits for each prompt and 3 runs as it is, so prompts · (8 + r) rows, r random circuits.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, explain
from digsite._core.progress import track
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.circuits.evaluate import evaluate_circuit
from digsite.circuits.judging import require_change, share_interval, share_kept
from digsite.circuits.population import Population
from digsite.circuits.scores import random_circuit
from digsite.graphs import edge_space
from digsite.graphs.circuit import same_space
from digsite.models import Model, made_by
from digsite.tasks import Task

HOW = ("corrupt", "zero")
NAMES = ("core", "own circuit", "core + own remainder", "core + another's remainder", "random")


@dataclass(frozen=True, kw_only=True)
class CoreFaithfulness(Result):
    """How much of the behaviour the shared core keeps on each prompt, and how much with what is left over.

    Attributes:
        task: The task.
        metric_name: The metric.
        unit: Its unit.
        how: What takes the place of a cut edge.
        semantics: "tree" or "edge"; see `evaluate`.
        edges: How many the model has.
        full: The metric with all edges.
        empty: The metric with none.
        kept: With each of `NAMES`, the last being the mean of the random circuits.
        sizes: Edges of each.
        of_random: The mean metric with each random circuit.
    """

    SCHEMA: ClassVar[str] = "circuits.core/1"

    task: str
    metric_name: str
    unit: str
    how: str
    semantics: str
    edges: int
    full: Float[Tensor, " example"]
    empty: Float[Tensor, " example"]
    kept: Float[Tensor, "circuit example"]
    sizes: Int[Tensor, "circuit example"]
    of_random: Float[Tensor, " draw"]

    def to_frame(self) -> pl.DataFrame:
        """One row a kind of circuit: mean edges, the share of the behaviour it keeps with its 95 % interval, n."""
        low, high = share_interval(self.kept, self.empty, self.full)
        return pl.DataFrame(
            {
                "circuit": list(NAMES),
                "edges": self.sizes.float().mean(1).tolist(),
                "kept": share_kept(self.kept.mean(1), self.empty, self.full).tolist(),
                "low": low.tolist(),
                "high": high.tolist(),
                "n": len(self.full),
            }
        )

    def prompts(self) -> pl.DataFrame:
        """One row a prompt: the metric with no edge, with all, and with each kind of circuit."""
        each = dict(zip(NAMES, self.kept.tolist(), strict=True))
        return pl.DataFrame({"empty": self.empty.tolist(), "full": self.full.tolist()} | each)

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        core, own, both, other, chance = self.to_frame().rows(named=True)
        return (
            f"the shared core of {core['edges']:.0f} of {self.edges} edges keeps {_told(core)} of {self.task}, with "
            f"each prompt's remainder ({both['edges']:.0f} edges) {_told(both)}, with another prompt's "
            f"{_told(other)}; a prompt's own circuit ({own['edges']:.0f} edges) {_told(own)}, random circuits of "
            f"{chance['edges']:.0f} edges {chance['kept']:.0%} (n = {core['n']})"
        )


@method
def core_faithfulness(
    model: Model,
    task: Task,
    found: Population,
    *,
    how: str = "corrupt",
    semantics: str = "tree",
    metric: str | None = None,
    random_circuits: int = 3,
    seed: int = 0,
) -> CoreFaithfulness:
    """How much of the behaviour the shared core keeps, prompt by prompt, and what the remainders add.

    Args:
        model: The model.
        task: The prompts of the population.
        found: Their circuits.
        how: What takes the place of a cut edge: "corrupt" or "zero"; the others need more prompts than one.
        semantics: "tree" or "edge".
        metric: The task's own if None.
        random_circuits: For each prompt.
        seed: Of the random circuits, and of whose remainder is tried.

    Raises:
        BadInput: Other prompts than those of the population, another model, or a metric that cutting does not change.

    Units:
        Fraction of the metric with all edges, from that with none.

    Caveats:
        A prompt's circuit was chosen on that prompt, so what it keeps there is not held out; the core is, nearly: one
        prompt has little say in it. The remainder of another prompt says how much of a remainder's gain is size alone.
    """
    if len(task) != len(found.circuits) or random_circuits < 1:
        raise BadInput(
            explain(
                "Cores are judged on the prompts of their population, beside a random circuit or more",
                found=f"{len(task)} prompts, {random_circuits} random circuits",
                possible=f"{len(found.circuits)} prompts",
            )
        )
    if how not in HOW:
        raise BadInput(explain(f"{how!r} takes other prompts, and each prompt is cut alone", possible=HOW, near=how))
    core, space = found.core, found.space
    same_space(edge_space(model), [core])
    generator = torch.Generator().manual_seed(seed)
    shift = int(torch.randint(1, len(task), (), generator=generator))
    values, sizes = [], []
    with measure() as cost:
        for i in track(range(len(task)), "prompts"):
            own, other = found.circuits[i], found.circuits[(i + shift) % len(task)]
            tried = [core.kept, own, core.kept | own, core.kept | other]
            tried += [random_circuit(space, own, int(tried[2].sum()), generator) for _ in range(random_circuits)]
            masks = torch.stack([torch.zeros_like(own), space.real, *tried])
            one = task.take(i)
            values.append(evaluate_circuit(model, one, masks, how=how, semantics=semantics, metric=metric, seed=seed))
            sizes.append(masks[2:7].sum((1, 2)))
    metrics = torch.cat(values, 1)
    empty, full, of_random = metrics[0], metrics[1], metrics[6:]
    require_change(empty, full, metric or task.metric_name, f"{how}, {semantics}")
    return CoreFaithfulness(
        task=task.name,
        metric_name=metric or task.metric_name,
        unit=task.unit if metric is None else "",
        how=how,
        semantics=semantics,
        edges=len(space),
        full=full,
        empty=empty,
        kept=torch.cat([metrics[2:6], of_random.mean(0, keepdim=True)]),
        sizes=torch.stack(sizes, 1),
        of_random=of_random.mean(1),
        provenance=made_by(
            f"digsite.circuits.core_faithfulness(model, task, found, how={how!r}, semantics={semantics!r}) "
            f"with found = {found.provenance.made_by}",
            model,
            task.fingerprint,
            seed=seed,
        ),
        cost=cost,
    )


def _told(row: dict[str, Any]) -> str:
    return f"{row['kept']:.0%} (95 % {row['low']:.0%} to {row['high']:.0%})"
