"""The figures of methods on the way to a circuit: scores of nodes, flow, trained masks, path patching, scrubbing."""

import numpy as np
import polars as pl

from digsite._core.figures import draws
from digsite._core.numerics import bootstrap_interval
from digsite.circuits import FlowScores, NodeScores, PathPatching, ScrubbingResult, TrainedMask
from digsite.graphs.edges import LOGITS
from digsite.sites import Site
from digsite.viz.axes import Axis
from digsite.viz.bars import bars
from digsite.viz.estimate import Control, Estimate
from digsite.viz.figure import Figure
from digsite.viz.heatmap import heatmap
from digsite.viz.lines import Line, lines
from digsite.viz.methods import control, placed
from digsite.viz.null_histogram import null_histogram
from digsite.viz.numbers import number
from digsite.viz.strips import Strip, strips

MOST = 14
"""Bars that can be told apart; more senders than that are a map."""
PLACES = 16
"""Points of a curve that are drawn, each the mean of as many steps."""
SHORT = {"attn.result": "head", "mlp.out": "MLP"}


@draws(NodeScores)
def node_scores_figure(result: NodeScores) -> Figure:
    """Where the nodes are that matter: layers upward; heads, the MLP, queries, keys and values rightward."""
    typical = float(result.scores.mean(0).abs().median())
    what = "Predicted drop" if result.signed else "Size of the predicted drop"
    return _map(
        result.to_frame().select("node", "score", "low", "high"),
        title=f"{what} of the {_words(result.metric_name)} when a node is corrupt ({result.method}, {result.unit})",
        unit=result.unit,
        n=len(result.scores),
        null=Control(-typical if result.signed else 0.0, typical, "half of all nodes"),
        caption=f"{result.verdict}.",
        code=result.provenance.made_by,
    )


@draws(FlowScores)
def flow_figure(result: FlowScores) -> Figure:
    """What the logits read, writer by writer, against even parts; the routes behind it are `circuit(...).figure()`."""
    count = result.before[-1]
    parts = result.scores.sum(1)[:, :count, result.readers.index(LOGITS)]
    low, high = bootstrap_interval(parts)
    return bars(
        parts.mean(0).numpy(),
        names=result.writers[:count],
        title="What the logits read: the share that each writer wrote",
        unit="share",
        low=low.numpy(),
        high=high.numpy(),
        n=len(parts),
        null=Control(0.0, 1 / count, "up to an even part"),
        caption=f"{result.verdict}. All rows add up to 100 %.",
        code=result.provenance.made_by,
    )


@draws(TrainedMask)
def mask_figure(result: TrainedMask) -> Figure:
    """What the trained circuit keeps on held-out examples, against random circuits of its size."""
    kept = result.share(result.kept)
    low, high = bootstrap_interval(kept)
    return null_histogram(
        result.share(result.random).numpy(),
        Estimate(f"{len(result.circuit)} trained edges", float(kept.mean()), float(low), float(high)),
        title=f"Keep only the circuit: share of the {_words(result.metric_name)} kept",
        unit="share",
        null_name=f"{len(result.random)} random circuits",
        bounds=(0.0, 1.0),
        n=len(kept),
        caption=f"{result.verdict}.",
        code=result.provenance.made_by,
    )


def mask_training_figure(result: TrainedMask) -> Figure:
    """How training went: the objective, and how many gates were to be open, each by its largest value."""
    chunks = np.array_split(np.arange(len(result.loss)), min(PLACES, len(result.loss)))
    curves = {"objective": result.loss.numpy(), f"open {result.over}": result.wanted.numpy()}
    means = {name: np.array([curve[chunk].mean() for chunk in chunks]) for name, curve in curves.items()}
    tops = {name: float(np.abs(mean).max()) or 1.0 for name, mean in means.items()}
    return lines(
        [
            Line(f"{name}, by {number(tops[name])}", mean / tops[name], is_control=name != "objective")
            for name, mean in means.items()
        ],
        title=f"Training masks over {result.over}: each curve by its largest value",
        along=Axis("step", tuple(str(chunk[-1] + 1) for chunk in chunks)),
        unit="",
        bounds=(0.0, 1.0),
        n=result.trained_on,
        caption=f"At the last step {number(float(result.wanted[-1]))} {result.over} were to be open.",
        code=result.provenance.made_by,
    )


@draws(PathPatching)
def path_patching_figure(result: PathPatching) -> Figure:
    """Which senders matter to the receivers: bars, or a map where there are more heads and MLPs than bars can show."""
    frame = result.to_frame()
    null = control(result.share(result.null).mean(1), "95 % of equal changes in random directions")
    verb = "restored by each sender's clean" if result.direction == "denoise" else "destroyed by each sender's corrupt"
    to = result.receivers[0] if len(result.receivers) == 1 else f"{len(result.receivers)} receivers"
    way = "" if result.through == "direct" else ", also over MLPs"
    title = f"Share of the {_words(result.metric_name)} {verb} value on its way to {to}{way}"
    n, code = len(result.base), result.provenance.made_by
    if len(frame) > MOST and all(name.startswith("layers.") for name in result.senders):
        effects = frame.select("sender", "effect", "low", "high")
        return _map(effects, title=title, unit="share", n=n, null=null, caption=f"{result.verdict}.", code=code)
    shown = frame.head(MOST)
    left_out = f" Shown are the strongest {MOST} of {len(frame)} senders." if len(frame) > MOST else ""
    return bars(
        shown["effect"].to_numpy(),
        names=shown["sender"].to_list(),
        title=title,
        unit="share",
        low=shown["low"].to_numpy(),
        high=shown["high"].to_numpy(),
        n=n,
        null=null,
        caption=f"{result.verdict}.{left_out}",
        code=code,
    )


@draws(ScrubbingResult)
def scrubbing_figure(result: ScrubbingResult) -> Figure:
    """What each example recovers: the model as it is, under the hypothesis, with classes dealt out anew, scrambled."""
    runs = (result.model.unsqueeze(0), result.scrubbed, result.control, result.scrambled)
    cases = [f"example {at}" for at in range(len(result.model))]
    return strips(
        [
            Strip(
                Estimate(row["run"], row["recovered"], row["low"], row["high"]),
                result.recovered(values).numpy(),
                cases,
                is_control=row["run"] != "hypothesis",
            )
            for row, values in zip(result.to_frame().iter_rows(named=True), runs, strict=True)
        ],
        title=f"Share of the {_words(result.metric_name)} recovered",
        unit="share",
        caption=f"{result.verdict}.",
        code=result.provenance.made_by,
    )


def _map(frame: pl.DataFrame, *, title: str, unit: str, n: int, null: Control, caption: str, code: str) -> Figure:
    """Layers upward, and what a layer has rightward, from names, values and ends of intervals."""
    names = frame.to_series(0).to_list()
    sites = {name: Site.parse(name) for name in names}
    where = {name: (str(site.layer), _short(site)) for name, site in sites.items()}
    up = sorted({row for row, _ in where.values()}, key=int)
    across = sorted({column for _, column in where.values()}, key=_order)
    at = placed(frame[:, 1:], [where[name] for name in names], names, up, across)
    return heatmap(
        at.values,
        title=title,
        rows=Axis("layer", tuple(up)),
        columns=Axis("part", tuple(across)),
        unit=unit,
        low=at.low,
        high=at.high,
        n=n,
        names=at.names,
        null=null,
        caption=caption,
        code=code,
    )


def _short(site: Site) -> str:
    part = SHORT.get(site.name, site.name.removeprefix("attn."))
    return f"{part} {site.head}" if isinstance(site.head, int) else part


def _order(column: str) -> tuple[int, int]:
    part, _, head = column.partition(" ")
    return ("head", "MLP", "q", "k", "v").index(part), int(head or 0)


def _words(metric: str) -> str:
    return metric.replace("_", " ")
