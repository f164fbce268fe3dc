"""The figures of head detectors: a map of layers and heads for each kind, and what is lost without the heads."""

import numpy as np

from digsite._core.figures import draws
from digsite.heads import HeadCheck, HeadScores
from digsite.heads.detectors import WEIGHTS
from digsite.viz.axes import Axis
from digsite.viz.estimate import Estimate
from digsite.viz.figure import Figure
from digsite.viz.heatmap import heatmap
from digsite.viz.methods import control
from digsite.viz.null_histogram import null_histogram

UNITS = {"score": "", "of uniform": "share"}
TITLES = {
    "previous token": "Attention to the position before",
    "duplicate token": "Attention to an earlier copy of the token",
    "induction": "Attention to what followed the token before",
    "first token": "Attention to the first position",
    "copy suppression": "Logits of attended tokens pushed down",
    "copying": "Copying score of each head",
    "successor": "Items whose successor each head raises most",
    "entropy": "Entropy of attention, as a share of even attention",
}


@draws(HeadScores)
def head_scores_figure(result: HeadScores) -> Figure:
    """The kind that stands out most, head by head; `head_map` draws the others."""

    def margin(at: int) -> float:
        one = result.measured[at]
        if one.threshold is None:
            return -1.0
        return float(one.found.any()) + float(one.mean.max()) / one.threshold / 1e3

    best = result.measured[max(range(len(result.measured)), key=margin)]
    return head_map(result, best.kind, best.text)


def head_map(result: HeadScores, kind: str, text: str | None = None) -> Figure:
    """One kind of head: layers upward, heads rightward, the heads that are found outlined.

    Args:
        result: The scores.
        kind: Such as "induction".
        text: On which text; the first it was looked at on if None.

    Raises:
        BadInput: It was not measured there.
    """
    one = result.of(kind, text)
    layers, heads = one.mean.shape
    low, high = one.interval
    count = one.values.shape[-1]
    null = None
    if one.threshold is not None:
        null = control(one.null.flatten(), "95 % of the null of all heads")
    elif len(one.random):
        null = control(one.random.flatten(), "95 % of heads of shuffled weights")
    beside = f"; shuffled weights at most {float(one.random.max()):.2f}" if len(one.random) else ""
    bar = "" if one.threshold is None else f" Found, outlined: {one.threshold:g} or more, and above every null{beside}."
    return heatmap(
        one.mean.numpy(),
        title=f"{TITLES.get(kind, f'Attention {kind}')}, {'by weights' if one.text == WEIGHTS else f'on {one.text}'}",
        rows=Axis("layer", tuple(str(layer) for layer in result.layers)),
        columns=Axis("head", tuple(str(head) for head in range(heads))),
        unit=UNITS.get(one.unit, one.unit),
        low=low.numpy() if count > 1 else None,
        high=high.numpy() if count > 1 else None,
        n=count if count > 1 else None,
        names=[[f"{result.layers[layer]}.{head}" for head in range(heads)] for layer in range(layers)],
        outlined=one.found.numpy(),
        outline_name="found",
        null=null,
        caption=f"{result.verdict}.{bar}",
        code=result.provenance.made_by,
    )


@draws(HeadCheck)
def head_check_figure(result: HeadCheck) -> Figure:
    """What copying from context costs without the heads, against as many others."""
    row = result.to_frame().row(0, named=True)
    names = ", ".join(f"{layer}.{head}" for layer, head in result.heads[:4])
    more = f" and {len(result.heads) - 4} more" if len(result.heads) > 4 else ""
    return null_histogram(
        np.asarray(result.null),
        Estimate(f"without {names}{more}", row["rise"], row["low"], row["high"]),
        title="Rise of the loss on what the row itself foretells",
        unit="nats",
        null_name=f"{len(result.null)} draws of others",
        n=len(result.losses),
        caption=f"{result.verdict}.",
        code=result.provenance.made_by,
    )
