"""Which sets a probe that was fitted on one set can be read on: the transfer matrix.

1. Each set is split once into a part that is trained on and a part that is held out, whole groups, no prompt in both.
2. A probe is fitted on the training part of each set, and judged on the held-out part of every set; a prompt that it
   was fitted on is never judged.
3. Null: directions drawn at random, whose sign alone is chosen on the training part, judged on the same examples.
4. Beside it the cosine between the probes' directions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, explain
from digsite._core.progress import track
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.directions.direction import Direction
from digsite.directions.probes.fits import Fit
from digsite.directions.probes.fitting import direction_from, fit_of, random_aurocs, random_directions
from digsite.directions.probes.judged import Judged
from digsite.directions.probes.prompts import LabelledPrompts
from digsite.models import Model, made_by
from digsite.sites import Site


@dataclass(frozen=True, kw_only=True)
class TransferMatrix(Result):
    """How well a probe that was fitted on one set reads every other.

    Attributes:
        fit: How the probes were fitted.
        sets: Names of the sets.
        directions: The probe of each set.
        judged: Its scores on the held-out part of each set: the first probe on all sets, then the second …
        random: AUROC of random directions, signed on the training part of the first set, on the second.
        cosines: Between the directions of two sets.
    """

    SCHEMA: ClassVar[str] = "directions.transfer_matrix/1"

    fit: str
    sets: tuple[str, ...]
    directions: tuple[Direction, ...]
    judged: tuple[Judged, ...]
    random: Float[Tensor, "set other draw"]
    cosines: Float[Tensor, "set other"]

    def to_frame(self, *, resamples: int = 1000, seed: int = 0) -> pl.DataFrame:
        """One row for each training set and each set it was judged on: AUROC and accuracy with 95 % intervals."""
        rows = []
        for at, one in enumerate(self.judged):
            train, test = divmod(at, len(self.sets))
            found = one.auroc(resamples=resamples, seed=seed)
            right = one.accuracy(resamples=resamples, seed=seed)
            null = self.random[train, test]
            rows.append(
                {
                    "train": self.sets[train],
                    "test": self.sets[test],
                    "auroc": found.value,
                    "low": found.low,
                    "high": found.high,
                    "accuracy": right.value,
                    "accuracy_low": right.low,
                    "accuracy_high": right.high,
                    "random": float(null.mean()),
                    "random_95": float(null.quantile(0.95)),
                    "cosine": float(self.cosines[train, test]),
                    "n": len(one.labels),
                }
            )
        return pl.DataFrame(rows)

    @property
    def lost(self) -> list[tuple[str, str]]:
        """From which set to which a probe reads no better than one random direction in twenty."""
        rows = self.to_frame().to_dicts()
        return [(row["train"], row["test"]) for row in rows if row["low"] <= max(0.5, row["random_95"])]

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        rows = self.to_frame().to_dicts()
        own = [row for row in rows if row["train"] == row["test"]]
        away = [row for row in rows if row["train"] != row["test"]]
        worst = min(away, key=lambda row: row["auroc"])
        lost = [f"{train} → {test}" for train, test in self.lost if train != test]
        bad = [test for train, test in self.lost if train == test]
        said = (
            f"; no better than random directions: {', '.join(lost)}" if lost else "; every transfer beats random ones"
        )
        said += f"; not even held-out examples of their own set: {', '.join(bad)}" if bad else ""
        return (
            f"Probes ({self.fit}) at {self.directions[0].site} have an AUROC of "
            f"{min(row['auroc'] for row in own):.2f} or more on held-out examples of their own set, and of "
            f"{worst['auroc']:.2f} (95 % {worst['low']:.2f} to {worst['high']:.2f}) to "
            f"{max(row['auroc'] for row in away):.2f} on other sets, least from {worst['train']} to "
            f"{worst['test']}{said}"
        )


@method
def transfer_matrix(
    model: Model,
    sets: Sequence[LabelledPrompts],
    site: str | Site,
    *,
    fit: str | Fit = "mean-difference",
    draws: int = 100,
    held_out: float = 0.5,
    seed: int = 0,
) -> TransferMatrix:
    """Whether a probe reads what it is named for, or what came with it on the set it was fitted on.

    Args:
        model: The model.
        sets: Two or more sets of prompts with labels of one meaning, such as affirmed and negated sentences.
        site: One concrete site, of one head where it names one.
        fit: The name of a fit, or a function of activations and labels.
        draws: How many random directions are drawn.
        held_out: Fraction of each set that is held out.
        seed: Of the splits and of the null.

    Raises:
        BadInput: Less than two sets, two of one name, one label only, or nothing left that was not trained on.
        NotFinite: An activation is NaN or infinite.

    Units: AUROC and accuracy, fractions; an AUROC below 0.5 means that the direction reads the other way round.

    Source: Marks and Tegmark 2023, arXiv 2310.06824, section 5 (generalisation over data sets).

    Caveats: A high AUROC with an accuracy near one half means that the direction carries over and its boundary does
    not.
    """
    names = [one.name for one in sets]
    if len(sets) < 2 or len(set(names)) < len(names):
        asked = "A transfer matrix compares two sets or more, each with a name of its own"
        raise BadInput(explain(asked, found=", ".join(names) or "none"))
    how = fit_of(fit)[0]
    with measure() as cost, torch.no_grad():
        parts = [one.split(held_out, seed) for one in sets]  # 1
        x = [tuple(side.activations(model, site) for side in part) for part in parts]
        directions, judged, random = [], [], []
        vectors = random_directions(x[0][0].shape[1], draws, seed=seed)
        for (train, _), (inside, _) in zip(track(parts, "fitting probes"), x, strict=True):
            direction = direction_from(model, train, inside, site, fit, seed=seed)
            directions.append(direction)
            tests = []
            for (_, test), (_, outside) in zip(parts, x, strict=True):  # 2
                new = test.unseen_in(train)
                keep = outside if len(new) == len(test) else new.activations(model, site)
                tests.append((keep, new.labels))
                judged.append(
                    Judged(
                        of=test.name,
                        by=train.name,
                        scores=direction.read(keep),
                        labels=new.labels,
                        groups=new.grouped,
                    )
                )
            random.append(random_aurocs(vectors, inside, train.labels, tests).T)  # 3
        units = torch.stack([direction.unit_vector for direction in directions]).double()
    call = f"digsite.directions.probes.transfer_matrix(model, sets, {str(site)!r}, fit={how!r}, seed={seed})"
    tokens = "+".join(one.tokens.fingerprint for one in sets)
    return TransferMatrix(
        fit=how,
        sets=tuple(names),
        directions=tuple(directions),
        judged=tuple(judged),
        random=torch.stack(random),
        cosines=units @ units.T,  # 4
        provenance=made_by(call, model, tokens, seed=seed),
        cost=cost,
    )
