"""The figures of dictionaries: how good one is beside what it has to beat, and how several compare."""

import numpy as np
from torch import Tensor

from digsite._core.errors import BadInput, explain
from digsite._core.figures import draws
from digsite._core.numerics import bootstrap_interval, ratio_interval
from digsite.dictionaries.diffing import ModelDiff
from digsite.dictionaries.evaluation import DICTIONARY, RANDOM, DictionaryEvaluation
from digsite.dictionaries.firing import SINGLE
from digsite.dictionaries.frontier import Frontier
from digsite.dictionaries.geometry import DictionaryMatch, Geometry
from digsite.dictionaries.heads import HeadShares
from digsite.dictionaries.jacobians import JacobianFaithfulness
from digsite.dictionaries.probing import SparseProbing
from digsite.viz.axes import Axis
from digsite.viz.estimate import Estimate
from digsite.viz.figure import Figure
from digsite.viz.histogram import Pile, histogram
from digsite.viz.lines import Line, lines
from digsite.viz.numbers import number
from digsite.viz.scatter import Dot, scatter
from digsite.viz.strips import Strip, strips

TOO_FAR = 1.25
"""What leaves more than this unexplained would squeeze the others into a corner; it is named instead."""
SELDOM = -5
"""Densities below ten to this power are drawn there."""


@draws(DictionaryEvaluation)
def evaluation_figure(result: DictionaryEvaluation) -> Figure:
    """What is left unexplained, sequence by sequence, beside everything the dictionary has to beat."""
    fvu = result.fvu().tolist()
    above, below = result.residual.sum(1), result.total.sum(1)
    low, high = ratio_interval(above, below)
    shown = [at for at in range(len(fvu)) if fvu[at] <= TOO_FAR or at == 0]
    far = [f"{result.judged[at]} ({number(fvu[at])})" for at in range(len(fvu)) if at not in shown]
    left_out = f" Too far off to be drawn: {', '.join(far)}." if far else ""
    return strips(
        [
            Strip(
                Estimate(result.judged[at], fvu[at], float(low[at]), float(high[at])),
                (above[at] / below[at]).numpy(),
                _sequences(result),
                is_control=result.judged[at] != DICTIONARY,
            )
            for at in shown
        ],
        title="Fraction of variance unexplained (FVU), each point a sequence",
        unit="fraction",
        caption=f"{result.verdict}.{left_out}",
        code=result.provenance.made_by,
    )


def loss_figure(result: DictionaryEvaluation, place: str | None = None) -> Figure:
    """The model's loss with the dictionary and its baselines spliced in, between the model by itself and ablation.

    Args:
        result: What was judged.
        place: One of `result.places`; None for the first, which is all columns at once.

    Raises:
        BadInput: A place that was not judged.
    """
    place = place or result.places[0]
    if place not in result.places:
        raise BadInput(explain(f"Nothing was spliced in at {place}", possible=result.places, near=place))
    at = result.places.index(place)
    rows = [(name, loss[at]) for name, loss in zip(result.judged, result.loss, strict=True) if name != RANDOM]
    rows += [("mean ablation", result.mean[0, at]), ("zero ablation", result.zero[0, at])]
    return strips(
        [
            Strip(_estimate(name, values), values.numpy(), _sequences(result), is_control=name != DICTIONARY)
            for name, values in rows
            if values.isfinite().all()
        ],
        title=f"Loss of the model with {place} replaced (nats per token), each point a sequence",
        unit="nats",
        reference=("model by itself", float(result.clean[0, at].mean())),
        caption=f"{result.verdict}.",
        code=result.provenance.made_by,
    )


def density_figure(result: DictionaryEvaluation) -> Figure:
    """How often latents fire: a healthy dictionary has one hill, dead and dense latents lie at its ends."""
    density, fires = result.density.double(), result.density > 0
    single = result.share >= SINGLE
    place = density.clamp_min(10.0**SELDOM).log10()
    ticks = [(float(power), f"{100 * 10.0**power:g} %") for power in range(SELDOM, 1)]
    never = int((~fires).sum())
    return histogram(
        [
            Pile("on several tokens", place[fires & ~single].numpy()),
            Pile("on one token", place[fires & single].numpy(), is_control=True),
        ],
        title="In how many of the rows latents fire",
        across="share of the rows (logarithmic)",
        bounds=(float(SELDOM), 0.0),
        ticks=ticks,
        counted="latents",
        lines=[(-1.0, "dense")],
        caption=f"{never:,} of {len(density):,} latents never fire in {int(result.rows.sum()):,} rows and are not "
        "drawn; a latent is on one token if that has 90 % of its firing mass and it fires at least ten times.",
        code=result.provenance.made_by,
    )


@draws(Frontier)
def frontier_figure(result: Frontier) -> Figure:
    """FVU against L0: dictionaries in colour, baselines in grey; further left and further down is better."""
    rows = result.to_frame().to_dicts()
    several = len({row["of"] for row in rows if row["kind"] == "baseline"}) > 1
    dots = []
    for row in rows:
        control = row["kind"] == "baseline"
        name = f"{row['name']} ({row['of']})" if control and several else row["name"]
        dots.append(Dot(name, row["l0"], row["fvu"], row["fvu_low"], row["fvu_high"], is_control=control))
    far = [f"{dot.name} ({number(dot.y)})" for dot in dots if dot.y > TOO_FAR]
    left_out = f" Too far off to be drawn: {', '.join(far)}." if far else ""
    return scatter(
        [dot for dot in dots if dot.y <= TOO_FAR] or dots,
        title="Few latents or little error: FVU against L0",
        across="latents a token (L0)",
        upward="variance unexplained (FVU)",
        unit="fraction",
        n=rows[0]["n"],
        caption=f"{result.verdict}.{left_out}",
        code=result.provenance.made_by,
    )


@draws(SparseProbing)
def probing_figure(result: SparseProbing) -> Figure:
    """AUROC against how many latents are read, beside raw neurons, a dense probe and shuffled labels."""
    rows = {row["probe"]: row for row in result.to_frame().to_dicts()}
    ks = [name.split()[0] for name in rows if name.endswith(("latent", "latents"))]
    dense = rows["dense probe"]

    def line(kind: str, key: str = "auroc") -> np.ndarray:
        found = [rows[f"{k} {kind}" + "s" * (k != "1")][key] for k in ks]
        return np.array([np.nan if value is None else value for value in found], dtype=float)

    series = [
        Line("latents", line("latent"), line("latent", "low"), line("latent", "high")),
        Line("neurons", line("neuron"), is_control=True),
        Line("dense probe", np.full(len(ks), dense["auroc"]), is_control=True),
    ]
    if np.isfinite(line("latent", "null_max")).all():
        series.append(Line("shuffled labels, largest", line("latent", "null_max"), is_control=True))
    return lines(
        series,
        title=f"{result.label}: AUROC of probes",
        along=Axis("probe", tuple(f"{k} latent" + "s" * (k != "1") for k in ks)),
        unit="AUROC",
        bounds=(0.0, 1.0),
        n=dense["n"],
        caption=f"{result.verdict}.",
        code=result.provenance.made_by,
    )


@draws(JacobianFaithfulness)
def jacobian_figure(result: JacobianFaithfulness) -> Figure:
    """Cosine with the model's Jacobian, sequence by sequence, beside its two controls."""
    rows = []
    for at, route in enumerate(result.routes):
        where = f"{route.split(' → ')[1]}: " if len(result.routes) > 1 else ""
        for name, values in (
            ("dictionary", result.cosine),
            ("another token", result.other),
            ("dense linear map", result.dense),
        ):
            there = values[at][values[at].isfinite()]
            if len(there):
                cases = [f"sequence {number}" for number in range(len(there))]
                estimate = _estimate(f"{where}{name}", there)
                rows.append(Strip(estimate, there.numpy(), cases, is_control=name != "dictionary"))
    return strips(
        rows,
        title="Cosine with the model's own Jacobian, each point a sequence",
        unit="",
        bounds=(0.0, 1.0),
        caption=f"{result.verdict}.",
        code=result.provenance.made_by,
    )


@draws(ModelDiff)
def model_diff_figure(result: ModelDiff) -> Figure:
    """Relative decoder norms: what latent scaling confirms in colour, what only looks exclusive in grey."""
    a, b = result.models
    live = result.density > 0
    new = result.new(a) | result.new(b)
    seeming = (result.exclusive(a) | result.exclusive(b)) & ~new
    values = result.norm.double()
    return histogram(
        [
            Pile("new", values[new & live].numpy()),
            Pile("shared", values[result.shared & live].numpy()),
            Pile("exclusive by norm only", values[seeming & live].numpy(), is_control=True),
        ],
        title=f"Which model latents write to: {a} or {b}",
        across=f"relative decoder norm (0 only {a}, 1 only {b})",
        bounds=(0.0, 1.0),
        ticks=[(0.0, f"{a} alone"), (0.5, "both alike"), (1.0, f"{b} alone")],
        counted="latents",
        caption=f"{result.verdict}.",
        code=result.provenance.made_by,
    )


@draws(Geometry)
def geometry_figure(result: Geometry) -> Figure:
    """How near a latent's nearest other is, against random directions."""
    return _against(
        result.nearest,
        result.null,
        title="Cosine of a latent's decoder with its nearest other",
        caption=f"{result.verdict}.",
        code=result.provenance.made_by,
    )


@draws(DictionaryMatch)
def match_figure(result: DictionaryMatch) -> Figure:
    """How near the nearest latent of the other dictionary is, against random directions."""
    return _against(
        result.nearest,
        result.null,
        title="Cosine of a latent with the nearest of the other dictionary",
        caption=f"{result.verdict}.",
        code=result.provenance.made_by,
    )


@draws(HeadShares)
def head_shares_figure(result: HeadShares) -> Figure:
    """How much of what a latent writes goes through its strongest head, against random directions."""
    return _against(
        result.writes.nan_to_num().amax(1),
        result.null,
        title="Share of the strongest head in what a latent writes",
        caption=f"{result.verdict}.",
        code=result.provenance.made_by,
    )


def _against(values: Tensor, null: Tensor, *, title: str, caption: str, code: str) -> Figure:
    """Latents and random directions on one scale."""
    both = [x[x.isfinite()].double() for x in (values, null)]
    low = min(0.0, *(float(x.min()) for x in both))
    ticks = [(step, number(step, 2)) for step in np.linspace(low, 1.0, 5).tolist()]
    return histogram(
        [Pile("latents", both[0].numpy()), Pile("random directions", both[1].numpy(), is_control=True)],
        title=title,
        across="cosine" if "Cosine" in title else "share",
        bounds=(low, 1.0),
        ticks=ticks,
        counted="latents",
        beside=True,
        caption=caption,
        code=code,
    )


def _estimate(name: str, values: Tensor) -> Estimate:
    low, high = bootstrap_interval(values.double())
    return Estimate(name, float(values.mean()), float(low), float(high))


def _sequences(result: DictionaryEvaluation) -> list[str]:
    return [f"sequence {at}" for at in range(len(result.rows))]
