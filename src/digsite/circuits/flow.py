"""Information-flow routes: how much of what a reader reads came from each writer, without a gradient.

1. One forward pass over the clean prompts: what every writer wrote (`Written`), and the stream y at every reader.
2. The proximity of writer s to y at one position is max(0, ‖y‖₁ − ‖y − u_s‖₁): by how much y is longer for it.
3. Over the writers that a reader can read these become shares that sum to 1.
4. The score of an edge is the mean share over a row's real tokens.

The queries, keys and values of a layer read one stream, so their edges score alike: the method looks at what arrives,
not at what is made of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.numerics import require_finite
from digsite._core.progress import track
from digsite._core.recording import method
from digsite.circuits.attribution import BATCH
from digsite.circuits.scores import EdgeScores
from digsite.circuits.slopes import BYTES
from digsite.circuits.written import Outputs, sites
from digsite.graphs import EdgeSpace, edge_space
from digsite.graphs.edges import LOGITS
from digsite.models import Model, Run, made_by
from digsite.tasks import Task


@dataclass(frozen=True, kw_only=True)
class FlowScores(EdgeScores):
    """How much of what each reader reads came from each writer.

    `scores` are shares of a reader's input between 0 and 1, not drops of a metric: they are never negative, and
    `predicted` and `nodes` have no meaning in the metric's unit. `corrupt` is NaN, for no corrupt prompt is run.
    """

    SCHEMA: ClassVar[str] = "circuits.flow/1"

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        last = self.scores.sum(1)[..., -1].mean(0)
        best = int(last.argmax())
        even = 1 / self.before[-1]
        return (
            f"{self.writers[best]} is the largest part of what the logits read: {float(last[best]):.1%}, "
            f"where even parts would be {even:.1%} (n = {len(self.scores)})"
        )


@method
def information_flow(model: Model, task: Task, *, batch: int = BATCH) -> FlowScores:
    """How much of what each reader reads came from each writer.

    Args:
        model: The model.
        task: Its clean prompts are run; corrupt ones are not needed.
        batch: Examples in one pass.

    Returns:
        Scores of every edge, from which circuits are grown with `circuit(size, select="greedy")`.

    Raises:
        NotFinite: A share is NaN.
        Unsupported: The model is not a sum of heads and MLPs that read one stream.

    Units:
        Share of the reader's input, 0 to 1, not the metric's: scores into one reader sum to 1.

    Source:
        Ferrando & Voita 2024, "Information Flow Routes" (arXiv:2403.00824), on the graph of heads and MLPs and with the
        mean over positions that the EAP-IG package takes.

    Caveats:
        It says nothing about the task: an edge that carries much of what does not matter scores high. Two writers that
        cancel each other both score 0.
    """
    space, outputs = edge_space(model), Outputs(model)
    streams = [(site, len(list(readers))) for site, readers in groupby(space.readers, lambda r: _stream(r, model))]
    scores, clean = [], []
    with measure() as cost:
        for start in track(range(0, len(task), batch), "information flow"):
            part = task.take(slice(start, start + batch))
            run = model.run(part.clean, read=[*sites(model), *dict(streams)], logits=part.keep)
            by_row = torch.cat(list(_shares(space, outputs, run, streams))).cpu()
            rows = torch.bincount(part.example_rows, minlength=len(part))
            total = by_row.new_zeros(len(part), *by_row.shape[1:]).index_add_(0, part.example_rows, by_row)
            scores.append(require_finite("Shares of flow", total / rows[:, None, None]))
            clean.append(part.metric(run.logits).float().cpu())
    metric = torch.cat(clean)
    return FlowScores(
        method="information flow",
        task=task.name,
        metric_name=task.metric_name,
        unit="share of the reader's input",
        clean=metric,
        corrupt=torch.full_like(metric, torch.nan),
        places=("all",),
        writers=space.writers,
        readers=space.readers,
        before=space.before,
        scores=torch.cat(scores).unsqueeze(1),
        provenance=made_by("digsite.circuits.information_flow(model, task)", model, task.fingerprint),
        cost=cost,
    )


def _stream(reader: str, model: Model) -> str:
    """The site of the stream that a reader reads."""
    if reader == LOGITS:
        return f"layers.{model.n_layers - 1}.resid_post"
    return reader if reader.endswith("mlp.in") else reader.partition("attn")[0] + "resid_pre"


def _shares(
    space: EdgeSpace, outputs: Outputs, run: Run, streams: list[tuple[str, int]]
) -> Iterator[Float[Tensor, "batch writer reader"]]:
    """The shares of a few rows at a time."""
    everything, mask = outputs.of(run), run.tokens.mask
    n, width, d_model = run[streams[-1][0]].shape
    step = max(1, BYTES // (4 * len(space.writers) * width * d_model))
    for start in range(0, n, step):
        rows = slice(start, start + step)
        written, real = outputs.expand(everything.rows(rows)).float(), mask[rows].to(everything.embed[0])
        found = written.new_zeros(len(real), len(space.writers), len(space.readers))
        reader = 0
        for site, count in streams:
            before, y = space.before[reader], run[site][rows].float().unsqueeze(1)
            # 2. What is left of y without a writer; 3. shares over writers; 4. the mean over real tokens.
            proximity = (y.abs().sum(-1) - (y - written[:, :before]).abs().sum(-1)).clamp(min=0)
            share = proximity / proximity.sum(1, keepdim=True).clamp(min=torch.finfo(proximity.dtype).tiny)
            mean = (share * real.unsqueeze(1)).sum(-1) / real.sum(-1, keepdim=True)
            found[:, :before, reader : reader + count] = mean.unsqueeze(-1)
            reader += count
        yield found
