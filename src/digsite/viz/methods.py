"""The figures of single methods: logit lens, direct attribution, activation patching, ablation."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float
from torch import Tensor

from digsite._core.figures import draws
from digsite.lenses import AnswerByDepth
from digsite.patching import AblationResult, DirectAttribution, PatchingResult
from digsite.sites import Site
from digsite.viz.axes import Axis
from digsite.viz.bars import bars
from digsite.viz.estimate import Control, Estimate
from digsite.viz.figure import Figure
from digsite.viz.heatmap import heatmap
from digsite.viz.lines import Line, lines
from digsite.viz.null_histogram import null_histogram

SHORT = {"attn.out": "attention", "mlp.out": "MLP", "resid_pre": "stream in", "resid_post": "stream out"}


@draws(AnswerByDepth)
def answer_by_depth_figure(result: AnswerByDepth) -> Figure:
    """The probability of the answer over the layers, against that of the wrong answers."""
    frame = result.to_frame()

    def line(name: str, label: str, *, control: bool = False) -> Line:
        ends = [frame[column].to_numpy() for column in (name, f"{name}_low", f"{name}_high")]
        return Line(label, *ends, is_control=control)

    return lines(
        [line("right", "right answer"), line("wrong", "wrong answers", control=True)],
        title="Probability read from the stream at the answer position",
        along=Axis("layer", tuple(label.removeprefix("layer ") for label in result.layers)),
        unit="fraction",
        bounds=(0.0, 1.0),
        n=result.right.shape[1],
        caption=f"{result.lens.capitalize()} lens: where the right answer leaves the grey line, it can be read.",
        code=result.provenance.made_by,
    )


@draws(DirectAttribution)
def direct_attribution_figure(result: DirectAttribution) -> Figure:
    """What each component writes towards the answer, strongest first."""
    frame = result.to_frame()
    spread = result.null.mean(1)
    return bars(
        frame["effect"].to_numpy(),
        names=frame["component"].to_list(),
        title="Written towards the right answer and away from the wrong ones (logits)",
        unit="logits",
        low=frame["low"].to_numpy(),
        high=frame["high"].to_numpy(),
        n=len(result.metric),
        null=control(spread, "95 % of components, answers of another example"),
        caption=f"All rows add up to the logit difference, {float(result.metric.mean()):.2f} logits.",
        code=result.provenance.made_by,
    )


@draws(PatchingResult)
def patching_figure(result: PatchingResult) -> Figure:
    """Where the behaviour is carried: layers upward; heads and MLPs, or positions, rightward."""
    frame = result.to_frame()
    sites = [Site.parse(name) for name in result.sites]
    if len(set(result.places)) == 1:
        rows, columns = _axis_of_layers(sites), [_short(site) for site in sites]
        where = [f"layer {site.layer}" for site in sites]
    else:
        several = len({(site.name, site.head) for site in sites}) > 1
        where = [f"{site.layer} {_short(site)}" if several else f"layer {site.layer}" for site in sites]
        rows = Axis("site" if several else "layer", tuple(dict.fromkeys(where)))
        rows = rows if several else _axis_of_layers(sites)
        columns = list(result.places)
    across = _ordered(columns)
    up = list(dict.fromkeys(where))
    up = sorted(up, key=lambda name: int(name.split()[1])) if up[0].startswith("layer ") else up
    whole = [site + ("" if at == "all" else f" at {at}") for site, at in zip(result.sites, result.places, strict=True)]
    verb = (
        "restored by putting clean into corrupt" if result.direction == "denoise" else "destroyed by putting corrupt in"
    )
    at = placed(frame["effect", "low", "high"], list(zip(where, columns, strict=True)), whole, up, across)
    return heatmap(
        at.values,
        title=f"Share of the {result.metric_name.replace('_', ' ')} {verb}",
        rows=rows,
        columns=Axis("head" if across[0].isdigit() and len(set(result.places)) == 1 else "place", tuple(across)),
        unit="share",
        low=at.low,
        high=at.high,
        n=len(result.base),
        names=at.names,
        null=control(result.null.mean(1), "95 % of equal changes in random directions"),
        caption="0 % changes nothing, 100 % carries all of it.",
        code=result.provenance.made_by,
    )


@draws(AblationResult)
def keep_figure(result: AblationResult) -> Figure:
    """What the set keeps when everything else is replaced, against random sets."""
    return null_histogram(
        result.share(result.random_keep).numpy(),
        Estimate("this set", *result.kept),
        title="Keep only the set: share of the behaviour kept",
        unit="share",
        null_name=f"{len(result.random_keep)} random sets",
        bounds=(0.0, 1.0),
        n=len(result.keep),
        code=result.provenance.made_by,
    )


def knockout_figure(result: AblationResult) -> Figure:
    """What is left when the set is replaced, against random sets."""
    return null_histogram(
        result.share(result.random_knockout).numpy(),
        Estimate("this set", *result.left),
        title="Knock out only the set: share of the behaviour left",
        unit="share",
        null_name=f"{len(result.random_knockout)} random sets",
        bounds=(0.0, 1.0),
        n=len(result.knockout),
        code=result.provenance.made_by,
    )


class Placed(NamedTuple):
    """Numbers laid out for a map, the lowest row first.

    Attributes:
        values: The numbers.
        low: Lower ends of their intervals.
        high: Upper ends.
        names: What each cell is called.
    """

    values: Float[np.ndarray, "row column"]
    low: Float[np.ndarray, "row column"]
    high: Float[np.ndarray, "row column"]
    names: list[list[str]]


def placed(
    frame: pl.DataFrame, cells: Sequence[tuple[str, str]], names: Sequence[str], up: list[str], across: list[str]
) -> Placed:
    """Numbers with their intervals, each put into its cell of a map; cells that are not named have no value.

    Args:
        frame: A value, its lower and its upper end in each row.
        cells: The row and the column of the map that each belongs to.
        names: What each is called.
        up: All rows, from the foot.
        across: All columns.
    """
    grids = np.full((3, len(up), len(across)), np.nan)
    called = [["" for _ in across] for _ in up]
    for told, (row, column), name in zip(frame.iter_rows(), cells, names, strict=True):
        i, j = up.index(row), across.index(column)
        called[i][j], grids[:, i, j] = name, told
    return Placed(grids[0], grids[1], grids[2], called)


def _axis_of_layers(sites: list[Site]) -> Axis:
    return Axis("layer", tuple(str(layer) for layer in sorted({int(str(site.layer)) for site in sites})))


def _short(site: Site) -> str:
    if isinstance(site.head, int):
        return str(site.head) if site.name == "attn.z" else f"{site.name.removeprefix('attn.')} {site.head}"
    return SHORT.get(site.name, site.name)


def _ordered(columns: list[str]) -> list[str]:
    """Heads in their order, then what is not a head."""
    known = list(dict.fromkeys(columns))
    return sorted([c for c in known if c.isdigit()], key=int) + [c for c in known if not c.isdigit()]


def control(null: Tensor, name: str) -> Control:
    """Where 95 % of a control's values lie."""
    low, high = np.nanquantile(null.numpy(), [0.025, 0.975])
    return Control(float(low), float(high), name)
