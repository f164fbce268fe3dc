"""The figures of circuits: the edges that a circuit keeps, and the edges that a method scores highest."""

import math

import numpy as np

from digsite._core.figures import draws
from digsite.circuits import EdgeScores, Faithfulness
from digsite.graphs import Circuit, EdgeSpace
from digsite.graphs.edges import LOGITS, owners
from digsite.viz.axes import Axis
from digsite.viz.figure import Figure
from digsite.viz.lines import Line, lines
from digsite.viz.wiring import Wire, wiring

MOST = 200
"""Edges in a figure; with more of them none can be told apart."""
SCORED = 60
"""Edges in the figure of scores, which have no natural end."""
READ = "Edges enter a head at the left as queries, in the middle as keys, at the right as values."


@draws(Circuit)
def circuit_figure(result: Circuit) -> Figure:
    """The circuit drawn: layers upward, heads across, the width of an edge is the size of its score.

    Raises:
        BadInput: The circuit has no edges.
    """
    frame = result.to_frame()
    rows = frame.head(MOST).to_dicts()
    left_out = len(frame) - len(rows)
    layers, heads = _shape(result.space)
    return wiring(
        [_wire(result.space, row, row["place"]) for row in rows],
        title=f"{result.name}: the circuit that {result.method} keeps",
        layers=layers,
        heads=heads,
        places=result.places or ("all",),
        note=f"the strongest {MOST} of {len(frame):,} edges; {left_out:,} are left out" if left_out else "",
        caption=f"{result.verdict}. {READ}",
        code=result.provenance.made_by,
    )


@draws(EdgeScores)
def scores_figure(result: EdgeScores) -> Figure:
    """The strongest edges: layers upward; positions, or heads, across; width is the size of the score."""
    frame = result.to_frame(SCORED)
    layers, heads = _shape(result.space)
    every = len(result.space) * len(result.places)
    return wiring(
        [_wire(result.space, row, row["place"]) for row in frame.to_dicts()],
        title=f"{result.task}: the strongest edges by {result.method}",
        layers=layers,
        heads=heads,
        places=result.places,
        unit=result.unit,
        n=len(result.scores),
        note=f"the strongest {len(frame)} of {every:,} edges" if len(frame) < every else "",
        caption=f"{result.verdict}. {READ}",
        code=result.provenance.made_by,
    )


def _wire(space: EdgeSpace, row: dict[str, object], place: str) -> Wire:
    writer, reader = str(row["writer"]), str(row["reader"])
    score, low, high = (
        math.nan if row.get(name) is None else float(str(row[name])) for name in ("score", "low", "high")
    )
    ends = (LOGITS,) if reader == LOGITS else owners(reader, space.groups)
    return Wire(writer=writer, reader=reader, ends=ends, place=place, score=score, low=low, high=high)


def _shape(space: EdgeSpace) -> tuple[int, int]:
    """Layers, and heads of a layer."""
    layers = sum(name.endswith("mlp.in") for name in space.readers)
    return layers, sum(".q_in[" in name for name in space.readers) // layers


@draws(Faithfulness)
def faithfulness_figure(result: Faithfulness) -> Figure:
    """How much of the behaviour the best edges keep at every size, beside random circuits."""
    frame = result.to_frame()
    kept = Line(
        "best edges",
        np.array(frame["kept"]),
        low=np.array(frame["low"]),
        high=np.array(frame["high"]),
    )
    controls = [Line("random circuits", np.array(frame["random"]), is_control=True)]
    if frame["untrained"].is_not_nan().any():
        controls.append(Line("found in shuffled weights", np.array(frame["untrained"]), is_control=True))
    return lines(
        [kept, *controls],
        title="Share of the behaviour that a circuit keeps, by the share of edges it was given",
        along=Axis("share of edges", tuple(f"{share:.1%}" for share in result.shares)),
        unit="share",
        n=len(result.full),
        caption=f"{result.verdict}.",
        code=result.provenance.made_by,
    )
