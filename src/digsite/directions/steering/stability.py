"""Whether a direction stays the same over checkpoints, seeds or fine-tuning, and whether what it does stays.

1. In each model the direction is found anew, by the same recipe.
2. Its cosine with the first model's, beside what random pairs of vectors of this width have.
3. Read-out: AUROC of the first model's vector, and of the model's own, on the model's activations.
4. Effect: what either does to the task when it is added at the model's own mean activation length.

A cosine near the null with a read-out that stays means: the same thing is there, elsewhere.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import polars as pl
import torch
from jaxtyping import Float
from scipy.stats import beta
from torch import Tensor

import digsite.models as models
from digsite._core.cost import measure
from digsite._core.errors import BadInput, ShapeMismatch, explain
from digsite._core.numerics import bootstrap_interval
from digsite._core.progress import track
from digsite._core.ranking import auroc, auroc_interval
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.directions.direction import Direction
from digsite.directions.labelled import Labelled
from digsite.models import Model, made_by
from digsite.sites import Site
from digsite.tasks import Task

LENGTH = 0.5
"""How far activations are moved, in units of their mean length."""


@dataclass(frozen=True, kw_only=True)
class Stability(Result):
    """A direction followed over models.

    Attributes:
        site: Where.
        name: What the direction is.
        models: Their names, in order; the first is what the others are compared with.
        cosines: With the first model's direction.
        null_cosine: 95 % of random pairs of vectors of this width lie between minus this and this.
        first: AUROC of the first model's vector in each model, with the ends of its 95 % interval.
        own: That of each model's own.
        first_effect: What adding the first model's vector does to the task in each model, in the unit of its metric.
        own_effect: What the model's own does.
        null_effect: What a random vector does.
        unit: Of the effects.
    """

    SCHEMA: ClassVar[str] = "directions.stability/1"

    site: Site
    name: str
    models: tuple[str, ...]
    cosines: Float[Tensor, " point"]
    null_cosine: float
    first: Float[Tensor, "point 3"]
    own: Float[Tensor, "point 3"]
    first_effect: Float[Tensor, "point example"]
    own_effect: Float[Tensor, "point example"]
    null_effect: Float[Tensor, "point draw"]
    unit: str

    def to_frame(self) -> pl.DataFrame:
        """One row a model."""
        rows = []
        for at, name in enumerate(self.models):
            row: dict[str, object] = {"model": name, "cosine": float(self.cosines[at]), "null_cosine": self.null_cosine}
            for kind, values in (("first", self.first[at]), ("own", self.own[at])):
                row |= dict(zip((f"{kind}_auroc", f"{kind}_low", f"{kind}_high"), values.tolist(), strict=True))
            for kind, effect in (("first", self.first_effect[at]), ("own", self.own_effect[at])):
                low, high = bootstrap_interval(effect)
                row |= {f"{kind}_effect": float(effect.mean()), f"{kind}_effect_low": float(low)}
                row |= {f"{kind}_effect_high": float(high)}
            rows.append(row | {"null_effect_max": float(self.null_effect[at].max()), "n": self.own_effect.shape[1]})
        return pl.DataFrame(rows)

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        rows = self.to_frame().to_dicts()
        lost = [row["model"] for row in rows[1:] if abs(row["cosine"]) <= self.null_cosine]
        gone = [row["model"] for row in rows if row["own_low"] <= 0.5]
        last = rows[-1]
        said = f"; no closer than random vectors in {', '.join(lost)}" if lost else ""
        said += f"; not readable at all in {', '.join(gone)}" if gone else ""
        return (
            f"{self.name} at {self.site}, from {rows[0]['model']} to {last['model']}: cosine {last['cosine']:.2f} "
            f"(random pairs within {self.null_cosine:.2f}), read-out with the first one's vector "
            f"{last['first_auroc']:.2f} and with its own {last['own_auroc']:.2f}, effect "
            f"{last['first_effect']:+.2f} and {last['own_effect']:+.2f} {self.unit} "
            f"(random at most {last['null_effect_max']:+.2f}){said}"
        )


@method
def stability(
    several: Mapping[str, Model],
    find: Callable[[Model], Direction],
    *,
    examples: Callable[[Model], Labelled],
    task: Callable[[Model], Task],
    draws: int = 10,
    seed: int = 0,
) -> Stability:
    """Follow a direction over training checkpoints, seeds, or a model and its fine-tuned copy.

    Args:
        several: Two models or more of one architecture, by name, in order.
        find: Finds the direction in a model, by the same recipe and examples in all.
        examples: Activations with labels at the direction's site that `find` has not seen.
        task: What the direction should move: its metric is measured on the clean prompts.
        draws: Random vectors.
        seed: Of them.

    Raises:
        BadInput: Fewer than two models, or a recipe that finds directions at different sites.
        ShapeMismatch: Models of different width.

    Units: cosines; AUROC; effects in the unit of the task's metric.

    Source: the null of the cosine is exact: cos² of random vectors of d numbers follows Beta(1/2, (d-1)/2).

    Caveats:
        Between seeds no basis is shared, so a cosine near the null is what is to be expected; between checkpoints and
        in fine-tuning it is a finding.
    """
    if len(several) < 2:
        raise BadInput(explain("A direction is followed over two models or more", found=f"{len(several)}"))
    with measure() as cost, torch.no_grad():
        # 1. The same recipe in each.
        found = {name: find(model) for name, model in track(several.items(), "finding the direction")}
        start = next(iter(found.values()))
        for name, one in found.items():
            if one.site != start.site:
                asked = "A direction is followed at one site"
                raise BadInput(explain(asked, found=f"{start.site}, and {one.site} in {name}"))
            if one.vector.shape != start.vector.shape:
                asked = f"The direction in {name} has another width"
                raise ShapeMismatch(explain(asked, found=f"{len(start.vector)} and {len(one.vector)} numbers"))
        site, width = start.site, len(start.vector)
        chance = torch.randn(draws, width, generator=torch.Generator().manual_seed(seed))
        first, own, effects, unit = [], [], [], ""
        for name, model in track(several.items(), "judging the direction"):
            # 3. Read-out.
            seen = examples(model)
            x, labels = seen.rows[str(site)].float(), seen.labels.numpy()
            for into, direction in ((first, start), (own, found[name])):
                scores = direction.read(x).numpy()
                into.append([float(auroc(scores, labels)), *auroc_interval(scores, labels)])
            # 4. Effect.
            asked_of, length = task(model), LENGTH * float(x.norm(dim=1).mean())
            effects.append(_effects(model, asked_of, site, [start.vector, found[name].vector, *chance], length))
            unit = asked_of.unit
    # 2. Cosines, and their null.
    cosines = torch.stack([start.unit_vector @ one.unit_vector for one in found.values()])
    both = torch.stack(effects)
    fingerprints = " ".join(model.fingerprint for model in several.values())
    call = f"digsite.directions.steering.stability(models, find, examples=…, task=…, seed={seed})"
    return Stability(
        site=site,
        name=start.name or start.how or "the direction",
        models=tuple(several),
        cosines=cosines,
        null_cosine=float(beta.ppf(0.95, 0.5, (width - 1) / 2)) ** 0.5,
        first=torch.tensor(first),
        own=torch.tensor(own),
        first_effect=both[:, 0],
        own_effect=both[:, 1],
        null_effect=both[:, 2:].mean(-1),
        unit=unit,
        provenance=made_by(call, next(iter(several.values())), fingerprints, seed=seed),
        cost=cost,
    )


def _effects(
    model: Model, task: Task, site: Site, vectors: list[Tensor], length: float
) -> Float[Tensor, "draw example"]:
    plain = task.metric(model.run(task.clean, logits=task.keep).logits)
    edits = [models.add(site, length * vector / vector.norm()) for vector in vectors]
    runs = [model.run(task.clean, edits=[edit], logits=task.keep).logits for edit in edits]
    return torch.stack([task.metric(logits) - plain for logits in runs]).float().cpu()
