"""One probe: fitted on some examples, judged on others, beside shuffled labels and random directions.

1. Split: whole groups are held out.
2. Fit on the training side, and score the held-out examples.
3. Null: the same with all labels shuffled, fitted and judged by the shuffled ones.
4. Control: random directions, each turned so that it reads the training side the right way round.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, explain
from digsite._core.numerics import require_finite, wilson_interval
from digsite._core.progress import track
from digsite._core.provenance import Provenance, record
from digsite._core.ranking import auroc, auroc_interval
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.directions.direction import Direction
from digsite.directions.labelled import Labelled, shuffled, split, yes_or_no
from digsite.directions.probes.fits import FITS, Fit, sides, taken
from digsite.directions.probes.pairs import PAIRED, in_pairs
from digsite.directions.probes.solving import SOLVERS, solve
from digsite.sites import Site

FEWEST = 5
"""Examples of each label, on each side of the split, below which a probe is not judged."""


@dataclass(frozen=True, kw_only=True)
class ProbeResult(Result):
    """How well a label can be read at a site, and the direction that reads it.

    Attributes:
        label: What the label says.
        site: Where.
        fit: How the probe was fitted.
        vector: What is written.
        reader: What reads; the vector itself where the two are one.
        bias: Added to a reading.
        trained: How many examples it was fitted on.
        labels: Of the held-out examples.
        scores: Of the held-out examples; above 0 they have the label.
        shuffled: AUROC of the same fit on shuffled labels.
        random: AUROC of random directions.
    """

    SCHEMA: ClassVar[str] = "directions.probe/1"

    label: str
    site: str
    fit: str
    vector: Float[Tensor, " width"]
    reader: Float[Tensor, " width"]
    bias: float
    trained: int
    labels: Bool[Tensor, " example"]
    scores: Float[Tensor, " example"]
    shuffled: Float[Tensor, " draw"]
    random: Float[Tensor, " draw"]

    @property
    def direction(self) -> Direction:
        """The probe as a direction: reads, and gives edits."""
        same = torch.equal(self.reader, self.vector)
        return Direction(
            site=Site.parse(self.site),
            vector=self.vector,
            reader=None if same else self.reader,
            bias=self.bias,
            name=self.label,
            how=f"{self.fit} probe",
            provenance=self.provenance,
        )

    @property
    def auroc(self) -> float:
        """On held-out examples."""
        return float(auroc(self.scores.numpy(), self.labels.numpy()))

    @property
    def accuracy(self) -> float:
        """Of held-out examples, with 0 as the boundary."""
        return float(((self.scores > 0) == self.labels).double().mean())

    def to_frame(self, *, resamples: int = 1000, seed: int = 0) -> pl.DataFrame:
        """The probe, then its two controls: AUROC (bootstrap) and accuracy (Wilson) with 95 % intervals."""
        n, right = len(self.labels), int(((self.scores > 0) == self.labels).sum())
        low, high = auroc_interval(self.scores.numpy(), self.labels.numpy(), resamples=resamples, seed=seed)
        own = {"what": f"{self.fit} probe", "auroc": self.auroc, "low": low, "high": high}
        exact = dict(zip(("accuracy_low", "accuracy_high"), wilson_interval(right, n), strict=True))
        rows: list[dict[str, Any]] = [own | {"accuracy": right / n} | exact | {"n": n}]
        for name, values in (("shuffled labels", self.shuffled), ("random directions", self.random)):
            if len(values):
                ends = [float(values.quantile(q)) for q in (0.025, 0.975)]
                row = {"what": name, "auroc": float(values.mean()), "low": ends[0], "high": ends[1]}
                rows.append(row | {"accuracy": None, "accuracy_low": None, "accuracy_high": None, "n": n})
        return pl.DataFrame(rows)

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        own, *controls = self.to_frame().to_dicts()
        said = [f"{row['what']} {row['auroc']:.2f} (95 % up to {row['high']:.2f})" for row in controls]
        failed = [row["what"] for row in controls if row["high"] >= own["low"]]
        lost = f"; it does no better than {' and '.join(failed)}" if failed else ""
        return (
            f"{self.label}: read at {self.site} by {self.fit} with an AUROC of {own['auroc']:.2f} (95 % "
            f"{own['low']:.2f} to {own['high']:.2f}), accuracy {own['accuracy']:.2f}; {', '.join(said)}{lost}; "
            f"n = {own['n']} held-out examples, fitted on {self.trained}"
        )


@method
def probe(
    labelled: Labelled,
    site: str | None = None,
    *,
    fit: str | Fit = "logistic",
    draws: int = 50,
    held_out: float = 0.5,
    seed: int = 0,
) -> ProbeResult:
    """How well a label can be read at a site, judged on examples that were held out.

    Args:
        labelled: Activations with labels; see `labelled_rows` and `task_rows`.
        site: The column; None where there is one only.
        fit: A name of `FITS`, or a function that takes activations and labels and gives a `Fitted`.
        draws: How often each control is drawn.
        held_out: The share of the groups that is held out.
        seed: Of the split and the controls.

    Raises:
        BadInput: No such column or fit, one class only, too few examples of a label, nothing that varies, labels that
            are not as many as rows; or examples that are no pairs, for a fit on pairs.
        NotFinite: An activation is NaN or infinite.

    Units: AUROC and accuracy, fractions.

    Source: Hewitt and Liang 2019, arXiv 1909.03368, for the control by labels that say nothing.

    Caveats:
        A probe shows what can be read, not what the model uses: ablate its direction and look.
        A label that goes with a word is read from the word: see the baselines of the probe card.
    """
    column, named = _column(labelled, site), fit if isinstance(fit, str) else getattr(fit, "__name__", "own")
    chosen = _fit(fit)
    with measure() as cost, torch.no_grad():
        # 1.
        labelled = in_pairs(labelled) if named in PAIRED else labelled
        x, labels = checked(labelled, column)
        train, test = split(labels, labelled.groups, held_out, seed)
        check_sides(labels, train, test)
        # 2. and 3.
        generator = np.random.default_rng([seed, 1])
        mixed = torch.cat([labels[None], shuffled(labels, labelled.groups, draws, generator, train, test)])
        if named in SOLVERS:
            found = solve(named, x[None, train], mixed[:, train])
            own, scores = taken(found, 0), found.scores(x[None, test])[0]
        else:
            fits = [chosen(x[train], some[train]) for some in track(mixed, "fitting probes")]
            own, scores = fits[0], torch.stack([one.scores(x[test]) for one in fits])
        null = auroc(scores[1:].numpy(), mixed[1:, test].numpy())
        # 4.
        random = np.array([_random(x, labels, train, test, generator) for _ in range(draws)])
    if not bool(own.vector.any()):
        asked = f"There is nothing to read at {column}: no coordinate differs between the labels"
        raise BadInput(explain(asked, do="choose another site or position"))
    return ProbeResult(
        label=labelled.name,
        site=column,
        fit=named,
        vector=own.vector,
        reader=own.vector if own.reader is None else own.reader,
        bias=own.bias,
        trained=len(train),
        labels=labels[test],
        scores=scores[0],
        shuffled=torch.from_numpy(null),
        random=torch.from_numpy(random),
        provenance=provenance_of(labelled, f"probe(labelled, {column!r}, fit={named!r}, seed={seed})", seed),
        cost=cost,
    )


def checked(labelled: Labelled, column: str) -> tuple[Float[Tensor, "example width"], Bool[Tensor, " example"]]:
    """Activations of a column in float64 and the labels, if they can be probed."""
    x, labels = labelled.rows[column], yes_or_no(labelled.labels)
    if len(x) != len(labels):
        raise BadInput(explain("Every example has a label", found=f"{len(labels)} labels, {len(x)} examples"))
    sides(x, labels)
    return x.double().cpu(), labels.cpu()


def check_sides(
    labels: Bool[Tensor, " example"],
    *parts: Int[Tensor, "_"],
    names: tuple[str, ...] = ("are fitted on", "judge"),
) -> None:
    """Whether each side of a split has enough examples of both labels.

    Raises:
        BadInput: One has not.
    """
    for name, part in zip(names, parts, strict=True):
        yes = int(labels[part].sum())
        if min(yes, len(part) - yes) < FEWEST:
            found = f"{yes} with the label and {len(part) - yes} without among those that {name}"
            asked = f"A probe needs {FEWEST} examples of each label on both sides of the split"
            raise BadInput(explain(asked, found=found, do="give more examples, or change held_out"))


def provenance_of(labelled: Labelled, call: str, seed: int) -> Provenance:
    """Of a result that was made from labelled activations: theirs, with the call that followed."""
    made = record(f"digsite.directions.probes.{call}", seed=seed)
    known = labelled.provenance
    if known is None:
        return made
    whole = made.made_by if made.made_by.startswith("digsite ") else f"labelled = {known.made_by}; {made.made_by}"
    names = ("model", "revision", "weights", "tokens", "dtype", "device")
    return record(whole, seed=seed, **{name: getattr(known, name) for name in names})


def _column(labelled: Labelled, site: str | None) -> str:
    if site is None and len(labelled.rows) > 1:
        raise BadInput(explain("There are several columns to probe", possible=list(labelled.rows), do="name a site"))
    column = next(iter(labelled.rows)) if site is None else str(site)
    require_finite(f"an activation at {column}", labelled.rows[column])
    return column


def _fit(fit: str | Fit) -> Fit:
    if not isinstance(fit, str):
        return fit
    known = {**FITS, **PAIRED}
    if fit not in known:
        raise BadInput(explain(f"There is no fit {fit!r}", possible=list(known), near=fit))
    return known[fit]


def _random(x: Tensor, labels: Tensor, train: Tensor, test: Tensor, generator: np.random.Generator) -> float:
    along = (x @ torch.from_numpy(generator.standard_normal(x.shape[1]))).numpy()
    known = labels.numpy()
    turned = 1 if auroc(along[train], known[train]) >= 0.5 else -1
    return float(auroc(turned * along[test], known[test]))
