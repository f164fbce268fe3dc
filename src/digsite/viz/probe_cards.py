"""The figures of probe cards, transfer matrices and stream monitors, and the page of a card."""

from pathlib import PurePath

import numpy as np
from torch import Tensor

from digsite._core.figures import draws
from digsite._core.numerics import bootstrap_interval
from digsite.directions.probes import CausalCheck, ProbeCard, StreamMonitor, TransferMatrix
from digsite.directions.probes.card import HELD_OUT, PROBE
from digsite.viz.axes import Axis
from digsite.viz.estimate import Control, Estimate
from digsite.viz.figure import Figure
from digsite.viz.heatmap import heatmap
from digsite.viz.histogram import Pile, histogram
from digsite.viz.lines import Line, lines
from digsite.viz.null_histogram import null_histogram
from digsite.viz.numbers import number
from digsite.viz.page import Report, Section
from digsite.viz.strips import Strip, strips
from digsite.viz.table import Chip, data_table


@draws(ProbeCard)
def probe_card_figure(card: ProbeCard) -> Figure:
    """AUROC on every set in amber, beside everything it has to beat in grey."""
    rows = [
        Strip(
            Estimate(_on(row["set"]) if row["by"] == PROBE else row["by"], row["auroc"], row["low"], row["high"]),
            np.zeros(0),
            (),
            is_control=row["by"] != PROBE,
        )
        for row in card.to_frame().to_dicts()
        if row["by"] == PROBE or row["set"] == card.sets[0]
    ]
    rows += [_drawn("shuffled labels", card.shuffled), _drawn("random directions", card.random[:, 0])]
    return strips(
        rows,
        title=f"{card.direction.name} at {card.direction.site}: AUROC on examples it was not fitted on",
        unit="AUROC",
        bounds=(0.0, 1.0),
        reference=("chance", 0.5),
        caption=f"{card.verdict}. Grey: what it has to beat, on the same held-out examples.",
        code=card.provenance.made_by,
    )


def scores_figure(card: ProbeCard) -> Figure:
    """Log odds of held-out examples with the label and without, and of neutral text, with the threshold."""
    held = card.on(card.sets[0])
    odds, neutral = card.log_odds(held.scores), card.log_odds(card.neutral)
    everything = np.concatenate([odds.numpy(), neutral.numpy()])
    low, high = np.quantile(everything, [0.002, 0.998]).tolist()
    low, high = min(low, float(odds.min())), max(high, float(odds.max()))
    piles = [Pile("with the label", odds[held.labels].numpy()), Pile("without", odds[~held.labels].numpy())]
    if len(neutral):  # as many as there are examples, or they would hide these
        quantiles = np.linspace(0, 1, min(len(neutral), len(odds)))
        piles.append(Pile("neutral text, in proportion", np.quantile(neutral.numpy(), quantiles), is_control=True))
    threshold = None if card.threshold is None else float(card.log_odds(held.scores.new_tensor(card.threshold)))
    marked = [] if threshold is None or threshold > high else [(threshold, f"{card.rate:.0%} of neutral text above")]
    return histogram(
        piles,
        title="Log odds that the probe gives",
        across="log odds (nats)",
        bounds=(low, high),
        ticks=[(step, number(step, 1)) for step in np.linspace(low, high, 5).tolist()],
        counted="examples",
        lines=marked,
        beside=True,
        caption=_scores_caption(card),
        code=card.provenance.made_by,
    )


def scarcity_figure(card: ProbeCard) -> Figure:
    """AUROC against how many examples the probe was fitted on, beside a bag of words."""

    def line(name: str, values: Tensor, *, control: bool = False) -> Line:
        many = values.numpy()
        ends = np.nanmean(many, 1), np.nanmin(many, 1), np.nanmax(many, 1)
        return Line(name, *ends, is_control=control)

    return lines(
        [line("probe", card.curve), line("bag of words", card.curve_of_words, control=True)],
        title="AUROC on held-out examples",
        along=Axis("examples it was fitted on", tuple(str(size) for size in card.sizes.tolist())),
        unit="AUROC",
        bounds=(0.0, 1.0),
        n=len(card.on(card.sets[0]).labels),
        caption=f"Means over {card.curve.shape[1]} draws; bands reach from the worst to the best draw.",
        code=card.provenance.made_by,
    )


@draws(CausalCheck)
def causal_figure(check: CausalCheck) -> Figure:
    """What ablating the direction takes from the metric, against equal changes in random directions."""
    rows = check.to_frame().to_dicts()
    took, predicted, *random = rows
    return null_histogram(
        np.array([row["lost"] for row in random]),
        Estimate("ablated", took["lost"], took["low"], took["high"]),
        title=f"What the {check.metric_name} loses without the direction" + (f" ({check.unit})" * bool(check.unit)),
        unit=check.unit,
        null_name=f"{len(random)} random directions",
        references={"first order": predicted["lost"]},
        n=took["n"],
        caption=f"{check.verdict}.",
        code=check.provenance.made_by,
    )


@draws(TransferMatrix)
def transfer_figure(result: TransferMatrix) -> Figure:
    """From which set to which a probe carries over."""
    count, lost = len(result.sets), set(result.lost)
    frame = result.to_frame()
    value, low, high = (2 * frame[name].to_numpy().reshape(count, count) - 1 for name in ("auroc", "low", "high"))
    null = (2 * result.random - 1).numpy()
    return heatmap(
        value,
        title="2 AUROC − 1 of probes: 1 is perfect, 0 is chance, below 0 it reads the other way round",
        rows=Axis("fitted on", result.sets, is_named=True),
        columns=Axis("judged on", result.sets, is_named=True),
        unit="",
        low=low,
        high=high,
        names=[[f"{train} → {test}" for test in result.sets] for train in result.sets],
        outlined=np.array([[(train, test) not in lost for test in result.sets] for train in result.sets]),
        outline_name="better than random",
        limit=1.0,
        numbers="all",
        null=Control(float(np.quantile(null, 0.025)), float(np.quantile(null, 0.975)), "95 % of random directions"),
        caption=f"{result.verdict}.",
        code=result.provenance.made_by,
    )


@draws(StreamMonitor)
def monitor_figure(result: StreamMonitor) -> Figure:
    """Held-out sequences against what the tail said of them; where no tail fits, the readings."""
    if result.choice is None:
        return readings_figure(result)
    check = result.check()
    names = ("predicted", "low", "high", "observed", "normal")
    known, low, high, seen, normal = (check[name].to_numpy() for name in names)
    return lines(
        [Line("tail", known, low, high), Line("observed", seen), Line("normal distribution", normal, is_control=True)],
        title="Share of held-out sequences in which the direction reads more than each level (raw units)",
        along=Axis("level", tuple(f"> {number(level, 1)}" for level in check["level"]), is_named=True),
        unit="fraction",
        bounds=(0.0, float(max(high.max(), seen.max()))),
        n=int(check["n"][0]),
        caption=f"{result.verdict}. The band is what 95 % of sets of as many sequences would give.",
        code=result.provenance.made_by,
    )


def readings_figure(result: StreamMonitor) -> Figure:
    """The readings of all tokens, and the thresholds that were tried."""
    seen = result.readings[result.readings.isfinite()].numpy()
    low, high = float(seen.min()), float(seen.max())
    taken = [] if result.choice is None else [(result.tail.level, "threshold of the tail")]
    return histogram(
        [Pile("tokens", seen)],
        title=f"Readings of {result.direction.name or result.direction.how} at {result.direction.site}",
        across="reading (raw units)",
        bounds=(low, high),
        ticks=[(step, number(step, 1)) for step in np.linspace(low, high, 5).tolist()],
        counted="tokens",
        lines=taken,
        caption=f"{result.verdict}.",
        code=result.provenance.made_by,
    )


def tail_shape_figure(result: StreamMonitor) -> Figure:
    """The shape of the tail above each threshold: where the tail holds it does not change."""
    frame = result.to_frame()
    shape, low, high = (frame[name].to_numpy() for name in ("shape", "shape_low", "shape_high"))
    taken = "none fits" if result.choice is None else f"that at {100 * result.tail.quantile:g} % was taken"
    return lines(
        [Line("shape", shape, low, high), Line("exponential tail", np.zeros(len(shape)), is_control=True)],
        title="Shape of the tail above each quantile of the readings (above 0 heavy, below 0 it ends)",
        along=Axis("quantile", tuple(f"{100 * q:g} %" for q in frame["quantile"]), is_named=True),
        unit="",
        caption=f"Of these thresholds {taken}.",
        code=result.provenance.made_by,
    )


_OF_SCORES = ("recall", "recall_low", "recall_high", "brier", "calibration_error")
"""Columns that only the probe has, which are a table of their own: all together are wider than a page."""


def probe_card_report(card: ProbeCard) -> Report:
    """The page of a probe card."""
    made, cost, failed = card.provenance, card.cost, card.failures()
    model = (made.model or "").rstrip("/")
    held, frame = card.on(card.sets[0]), card.to_frame()
    chips = tuple(Chip(text, "bad") for text in failed) or (Chip("stands up to every control", "good"),)
    sections = [
        Section(
            title="Can it be read, and on what else?",
            chips=chips,
            body=(card.figure(), data_table(frame.drop(_OF_SCORES))),
        ),
        Section(
            title="Are its scores probabilities, and where does it fire?",
            body=(scores_figure(card), data_table(frame.filter(by=PROBE).select("set", *_OF_SCORES, "n"))),
        ),
        Section(title="How many examples does it take?", body=(scarcity_figure(card),)),
    ]
    if card.causal is None:
        sections.append(Section(title="Does the model use it?", chips=(Chip("not tested", "open"),)))
    else:
        chip = Chip("used", "good") if card.causal.is_used else Chip("no more than a random direction", "bad")
        sections.append(Section(title="Does the model use it?", chips=(chip,), body=(card.causal.figure(),)))
    return Report(
        title=f"Can {card.direction.name} be read at {card.direction.site}, and does the model use it?",
        kind="Probe card",
        verdict=f"{card.verdict}.",
        meta=(
            f"`{PurePath(model).name if model.startswith('/') else model}`",
            f"{card.direction.how}",
            f"{card.trained} examples fitted on, {len(held.labels)} held out",
            f"{len(card.sets) - 1} other {'set' if len(card.sets) == 2 else 'sets'}",
            f"{len(card.neutral):,} pieces of neutral text",
            made.created[:10],
        ),
        sections=tuple(sections),
        cost=(
            f"{cost.forwards:,} forward passes of {cost.rows:,} rows",
            f"{cost.backwards:,} backward",
            f"{cost.seconds:.0f} s ({cost.cpu_seconds:.0f} s of processor time)",
            f"peak memory {cost.peak_mb:,.0f} MB",
        ),
        command=made.made_by,
        provenance={key: str(value) for key, value in made.to_dict().items() if value is not None and key != "made_by"},
    )


def _on(name: str) -> str:
    return "on held-out examples" if name == HELD_OUT else f"on {name}"


def _drawn(name: str, values: Tensor) -> Strip:
    low, high = bootstrap_interval(values.double())
    many = values.numpy()
    cases = [f"draw {at}" for at in range(len(many))]
    return Strip(Estimate(name, float(values.mean()), float(low), float(high)), many, cases, is_control=True)


def _scores_caption(card: ProbeCard) -> str:
    row = card.to_frame().to_dicts()[0]
    said = f"Calibration error {row['calibration_error']:.2f}, Brier score {row['brier']:.2f} on held-out examples."
    if row["recall"] is not None:
        said += (
            f" {row['recall']:.0%} of the examples with the label score higher than all but {card.rate:.0%} of "
            f"{len(card.neutral):,} pieces of neutral text (95 % {row['recall_low']:.0%} to {row['recall_high']:.0%})."
        )
    return said
