"""The probe card: what speaks for a probe and what speaks against it, on one page.

1. Prompts with labels are split by group; a prompt that a probe was fitted on is never judged. The probe is fitted on
   one part and judged on the other, and on every further set (negated, paraphrased, of another topic).
2. Probabilities: scores that each quarter of the training part gets from a probe fitted on the rest give the slope and
   the offset that turn a score into log odds.
3. False positives: the threshold is the quantile of the scores of neutral text, averaged over as many tokens as those
   of the examples are; with N pieces of text it is the ⌈(1 - rate)(N + 1)⌉-th smallest.
4. Baselines on the same examples: the tokens of the prompt as a bag of words, the embedding of the token that is read,
   and that of the token before it.
5. Controls: the same probe fitted on shuffled labels; random directions, whose sign alone is chosen on the training
   part.
6. How many examples it takes: the same from ever smaller parts of the training examples, beside the bag of words.
7. Whether the model uses it: see `causal`. Prompts that the probe was fitted on are left out here too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, explain
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.directions.direction import Direction
from digsite.directions.probes.causal import CausalCheck, Metric, causal_check
from digsite.directions.probes.controls import (
    FEWEST,
    calibrated,
    neutral_scores,
    scarcity,
    shuffled_aurocs,
    threshold_for,
)
from digsite.directions.probes.fits import Fit
from digsite.directions.probes.fitting import (
    BAG,
    bag_of_words,
    direction_from,
    fit_of,
    random_aurocs,
    random_directions,
    scorer,
)
from digsite.directions.probes.judged import (
    Judged,
    brier,
    calibration_error,
    calibration_null,
)
from digsite.directions.probes.prompts import LabelledPrompts, seen
from digsite.models import Model, made_by
from digsite.models.measure import TokenSource
from digsite.sites import Site
from digsite.tasks import Task

PROBE, EMBEDDING, BEFORE = "probe", "token embedding", "previous token"
HELD_OUT = "held out"


@dataclass(frozen=True, kw_only=True)
class ProbeCard(Result):
    """What speaks for a probe and what speaks against it.

    Attributes:
        direction: The probe.
        trained: How many examples it was fitted on.
        sets: "held out", and the names of the further sets.
        judged: The scores of the probe on each set, then of each baseline.
        slope: Of the log odds: slope × score + offset.
        offset: Of the log odds.
        neutral: Scores of pieces of neutral text; none where there was no text.
        span: Tokens in a piece.
        rate: The rate of false positives for which the threshold is set.
        shuffled: AUROC on held-out examples of probes fitted on shuffled labels, judged by shuffled labels.
        random: AUROC of random directions on each set.
        sizes: Of the parts of the training examples.
        curve: AUROC on held-out examples of probes fitted on such parts.
        curve_of_words: The same for bags of words.
        causal: What ablating the direction does; None where no behaviour was given.
    """

    SCHEMA: ClassVar[str] = "directions.probe_card/1"

    direction: Direction
    trained: int
    sets: tuple[str, ...]
    judged: tuple[Judged, ...]
    slope: float
    offset: float
    neutral: Float[Tensor, " piece"]
    span: int
    rate: float
    shuffled: Float[Tensor, " draw"]
    random: Float[Tensor, "drawn set"]
    sizes: Int[Tensor, " size"]
    curve: Float[Tensor, "size _"]
    curve_of_words: Float[Tensor, "size _"]
    causal: CausalCheck | None = None

    @property
    def threshold(self) -> float | None:
        """The score that neutral text exceeds at the chosen rate; None where there was no text."""
        return threshold_for(self.neutral, self.rate) if len(self.neutral) else None

    def on(self, name: str, by: str = PROBE) -> Judged:
        """The scores of a set, by the probe or by a baseline.

        Raises:
            BadInput: There is no such set or baseline.
        """
        for one in self.judged:
            if (one.of, one.by) == (name, by):
                return one
        possible = [f"{one.by} on {one.of}" for one in self.judged]
        raise BadInput(explain(f"The card has no {by} on {name}", possible=possible))

    def log_odds(self, scores: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
        """Scores of the probe as log odds."""
        return self.slope * scores + self.offset

    def to_frame(self, *, resamples: int = 1000, seed: int = 0) -> pl.DataFrame:
        """One row for the probe and each baseline on each set, with 95 % intervals over groups of examples."""
        rows = []
        for one in self.judged:
            found = one.auroc(resamples=resamples, seed=seed)
            right = one.accuracy(resamples=resamples, seed=seed)
            row: dict[str, str | float | int | None] = {"set": one.of, "by": one.by}
            row |= {"auroc": found.value, "low": found.low, "high": found.high}
            row |= {"accuracy": right.value, "accuracy_low": right.low, "accuracy_high": right.high}
            recall, odds = None, None
            if one.by == PROBE:
                odds = self.log_odds(one.scores)
                recall = None if self.threshold is None else one.recall(self.threshold, resamples=resamples, seed=seed)
            row |= {
                "recall": None if recall is None else recall.value,
                "recall_low": None if recall is None else recall.low,
                "recall_high": None if recall is None else recall.high,
                "brier": None if odds is None else brier(odds, one.labels),
                "calibration_error": None if odds is None else calibration_error(odds, one.labels),
                "random_95": float(self.random[:, self.sets.index(one.of)].quantile(0.95)),
                "n": len(one.labels),
            }
            rows.append(row)
        return pl.DataFrame(rows)

    def failures(self, *, resamples: int = 1000, seed: int = 0) -> list[str]:
        """What the probe did not stand up to, each as a phrase."""
        rows = {(row["by"], row["set"]): row for row in self.to_frame(resamples=resamples, seed=seed).to_dicts()}
        own = rows[PROBE, HELD_OUT]
        failed = []
        if own["low"] <= float(self.shuffled.max()):
            failed.append(f"shuffled labels reach {float(self.shuffled.max()):.2f}")
        if own["low"] <= own["random_95"]:
            failed.append(f"one random direction in twenty reaches {own['random_95']:.2f}")
        beside = {by: rows[by, HELD_OUT]["auroc"] for by in (BAG, EMBEDDING, BEFORE)}
        failed += [f"the {by} reads it as well ({value:.2f})" for by, value in beside.items() if value >= own["low"]]
        for name in self.sets[1:]:
            row = rows[PROBE, name]
            if row["low"] <= max(0.5, row["random_95"]):
                failed.append(f"it does not carry over to {name} ({row['auroc']:.2f})")
        odds = self.log_odds(self.on(HELD_OUT).scores)
        if own["calibration_error"] > float(calibration_null(odds, draws=200, seed=seed).quantile(0.95)):
            failed.append(f"its probabilities are off by {own['calibration_error']:.2f}")
        if self.causal is not None and not self.causal.is_used:
            failed.append("ablating it does no more than an equal change in a random direction")
        return failed

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        rows = {(row["by"], row["set"]): row for row in self.to_frame().to_dicts()}
        own = rows[PROBE, HELD_OUT]
        said = [
            f"{self.direction.name} at {self.direction.site} ({self.direction.how}): AUROC {own['auroc']:.2f} (95 % "
            f"{own['low']:.2f} to {own['high']:.2f}) on {own['n']} held-out examples"
        ]
        if own["recall"] is None:
            said.append("no neutral text was given, so nothing is known of its false positives")
        else:
            said.append(f"recall {own['recall']:.2f} at {self.rate:.0%} false positives on neutral text")
        away = [rows[PROBE, name]["auroc"] for name in self.sets[1:]]
        if len(away) == 1:
            said.append(f"{away[0]:.2f} on {self.sets[1]}")
        elif away:
            said.append(f"{min(away):.2f} to {max(away):.2f} on {len(away)} other sets")
        if self.causal is not None:
            took, *rest = self.causal.to_frame().to_dicts()
            whole = f"{float(self.causal.base.mean()):.2f} {self.causal.unit}".rstrip()
            most = max(row["lost"] for row in rest[1:])
            said.append(f"ablating it takes {took['lost']:.2f} of {whole}, random directions at most {most:.2f}")
        failed = self.failures()
        said.append(f"but {', '.join(failed)}" if failed else "it stands up to every control")
        return "; ".join(said)


@method
def probe_card(
    model: Model,
    labelled: LabelledPrompts,
    site: str | Site,
    *,
    fit: str | Fit = "mean-difference",
    others: Sequence[LabelledPrompts] = (),
    neutral: TokenSource | None = None,
    neutral_at: int | slice | None = None,
    rate: float = 0.01,
    behaviour: Task | Metric | None = None,
    draws: int = 20,
    held_out: float = 0.5,
    seed: int = 0,
) -> ProbeCard:
    """What a probe is worth: on held-out examples, on others, beside baselines and controls, and in what the model
    does.

    Args:
        model: The model.
        labelled: Prompts with labels; part of them is held out.
        site: One concrete site, of one head where it names one.
        fit: The name of a fit, or a function of activations and labels.
        others: Sets of another kind (negated, paraphrased, of another topic, in another language).
        neutral: Text that has nothing to do with the label, for the rate of false positives.
        neutral_at: Where in each row of it the probe reads, such as -1 for prompts like the examples; None for every
            piece of as many tokens as those of an example.
        rate: The rate of false positives at which recall is given.
        behaviour: A task in whose clean prompts the direction is taken away, at the last token where the examples are
            read at places of their own; or a metric of the logits of the held-out prompts (padded on the left), larger
            where the label is yes, and then it is taken away where each is read.
        draws: How often labels are shuffled, and how many random directions the causal check has.
        held_out: Fraction of the examples that is held out.
        seed: Of the split, the shuffles and the random directions.

    Raises:
        BadInput: One label only, less than eight training examples, two sets of one name, nothing that was not trained
            on, no neutral text or too little for the rate.
        NotFinite: An activation or a metric is NaN or infinite.

    Units: AUROC, accuracy and recall, fractions; the causal check in the unit of the metric.

    Source: recall at a rate of false positives on unrelated text, Goldowsky-Dill et al. 2025, arXiv 2502.03407;
    shuffled labels, Hewitt and Liang 2019, arXiv 1909.03368 (control tasks); transfer and causal check, Marks and
    Tegmark 2023, arXiv 2310.06824; calibration, Platt 1999 and Guo et al. 2017, arXiv 1706.04599.

    Caveats:
        Tokens of one text are not independent, so the rate of false positives is surer with many short texts than with
        a long one. The AUROC does not depend on the boundary, the accuracy does: a low one beside a high AUROC means
        that the boundary did not carry over.
    """
    name, method = fit_of(fit)
    train, test = labelled.split(held_out, seed)  # 1
    tests = [test, *(other.unseen_in(train) for other in others)]
    names = (HELD_OUT, *(other.name for other in others))
    _check(train, names, rate, draws)
    with measure() as cost:
        with torch.no_grad():
            reads = {PROBE: (site, 0), EMBEDDING: ("embed", 0), BEFORE: ("embed", 1)}
            x = {by: [part.activations(model, s, before=b) for part in (train, *tests)] for by, (s, b) in reads.items()}
            direction = direction_from(model, train, x[PROBE][0], site, fit, seed=seed)
            scores = {PROBE: [direction.read(other) for other in x[PROBE][1:]]}
            bag = bag_of_words(train.seen(), train.labels)  # 4
            scores[BAG] = [bag(part.seen()) for part in tests]
            for by in (EMBEDDING, BEFORE):
                read = scorer(method, x[by][0], train.labels)
                scores[by] = [read(other) for other in x[by][1:]]
            slope, offset = calibrated(method, x[PROBE][0], train, seed)  # 2
            pieces = neutral_scores(model, direction, neutral, train.span, neutral_at)  # 3
            if neutral is not None:
                threshold_for(pieces, rate)
            sides = (x[PROBE][0], train), (x[PROBE][1], test)
            shuffled = shuffled_aurocs(method, *sides, draws, seed)  # 5
            known = [(other, part.labels) for other, part in zip(x[PROBE][1:], tests, strict=True)]
            vectors = random_directions(x[PROBE][0].shape[1], max(100, draws), seed=seed)
            random = random_aurocs(vectors, x[PROBE][0], train.labels, known)
            sizes, curve, words = scarcity(method, *sides, seed)  # 6
        causal = None if behaviour is None else _causal(model, direction, behaviour, train, test, draws, seed)  # 7
    judged = tuple(
        Judged(of=one, by=by, scores=found.double(), labels=part.labels, groups=part.grouped)
        for by, several in scores.items()
        for one, found, part in zip(names, several, tests, strict=True)
    )
    call = f"digsite.directions.probes.probe_card(model, labelled, {str(site)!r}, fit={name!r}, seed={seed})"
    return ProbeCard(
        direction=direction,
        trained=len(train),
        sets=names,
        judged=judged,
        slope=slope,
        offset=offset,
        neutral=pieces,
        span=train.span,
        rate=rate,
        shuffled=shuffled,
        random=random,
        sizes=sizes,
        curve=curve,
        curve_of_words=words,
        causal=causal,
        provenance=made_by(call, model, labelled.tokens.fingerprint, seed=seed),
        cost=cost,
    )


def _check(train: LabelledPrompts, names: Sequence[str], rate: float, draws: int) -> None:
    if len(train) < FEWEST:
        asked = f"A probe card needs {FEWEST} training examples or more"
        raise BadInput(explain(asked, found=f"{len(train)} of {train.name}"))
    if len(set(names)) < len(names):
        raise BadInput(explain("Every set of a card has a name of its own", found=", ".join(names)))
    if draws < 1:
        raise BadInput(explain(f"draws={draws} gives no control", possible="1 or more"))
    if not 0 < rate < 1:
        raise BadInput(explain(f"rate={rate} is no rate of false positives", possible="0 < rate < 1"))


def _causal(
    model: Model,
    direction: Direction,
    behaviour: Task | Metric,
    train: LabelledPrompts,
    test: LabelledPrompts,
    draws: int,
    seed: int,
) -> CausalCheck:
    """7. The causal check on prompts that the probe was not fitted on."""
    if not isinstance(behaviour, Task):
        return causal_check(model, direction, (test, behaviour), draws=draws, seed=seed)
    at = -1 if isinstance(train.at, Tensor) and train.at.ndim else train.at
    known = set(train.seen())
    new = [row for row, ids in enumerate(seen(behaviour.clean, at)) if ids not in known]
    if not new:
        asked = f"The probe was fitted on every prompt of the task {behaviour.name}"
        raise BadInput(explain(asked, do="give another draw of it: another seed, or more examples"))
    return causal_check(model, direction, behaviour.take(new), at=at, draws=draws, seed=seed)
