"""Edge attribution: what each edge is worth to the metric, from gradients, without running the model once for each.

1. What every writer writes on the clean prompt and not on the corrupt one: two forward passes (`Written`).
2. The gradient of the metric at every reader (`Slopes`), at one point or at several between corrupt and clean.
3. score(writer → reader) = Σ over positions of (written on clean − written on corrupt) · gradient at the reader, and
   the mean of it over the points.

The methods differ in the points alone:
- `eap`: the clean prompt.
- `eap_ig("inputs")`: embeddings at corrupt + k/m (clean − corrupt) for k = 0 … m−1.
- `eap_ig("activations")`: each sublayer's output in turn at k/m of the way, k = 1 … m, everything before it clean.
- `eap_ig("clean-corrupt")`: the two ends.
- `relp`: the clean prompt, with the gradient's rules at norms, activations and products replaced (`rules`).
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, explain
from digsite._core.numerics import require_finite
from digsite._core.progress import track
from digsite._core.recording import method
from digsite.circuits import rules
from digsite.circuits.places import EVERYWHERE, Places, places
from digsite.circuits.scores import EdgeScores
from digsite.circuits.slopes import Inputs, Slopes, contract
from digsite.circuits.written import Outputs, sites
from digsite.graphs import EdgeSpace, edge_space
from digsite.models import Edit, Model, Tokens, made_by, replace
from digsite.patching.places import lined_up
from digsite.tasks import Task

BATCH = 32
"""Examples in one pass."""
PATHS = ("inputs", "activations", "clean-corrupt")

Points = Callable[["Ends"], Iterator[Slopes]]
"""From the two ends of some examples to the gradients that are averaged."""


class Ends:
    """Some examples with both their runs.

    Attributes:
        task: The examples.
        outputs: How the model's writers write.
        clean: What the writers wrote on the clean prompts.
        corrupt: And on the corrupt ones.
    """

    def __init__(self, model: Model, task: Task, outputs: Outputs, *, metric: str | None):
        self.model, self.task, self.outputs, self.metric = model, task, outputs, metric
        runs = [model.run(tokens, read=sites(model), logits=task.keep) for tokens in (task.clean, _corrupt(task))]
        self.clean, self.corrupt = (outputs.of(run) for run in runs)
        self.metrics = [task.metric(run.logits, metric).float() for run in runs]
        self.z = [[run[f"layers.{i}.attn.z"] for i in range(model.n_layers)] for run in runs]


@method
def eap(
    model: Model,
    task: Task,
    *,
    at: str | Sequence[str] | None = None,
    metric: str | None = None,
    batch: int = BATCH,
) -> EdgeScores:
    """What each edge is worth, to first order at the clean prompt (edge attribution patching).

    Args:
        model: The model.
        task: Clean and corrupt pairs of one length.
        at: None sums over positions; "each" keeps every position apart (prompts of one length); names of spans of the
            task keep those apart, and "elsewhere" the rest.
        metric: The task's own if None.
        batch: Examples in one pass.

    Raises:
        BadInput: No corrupt prompts, prompts that do not line up, or a metric that both prompts score the same.
        NotFinite: The metric or a gradient is NaN.
        Unsupported: The model is not a sum of heads and MLPs that read one stream.

    Units:
        Those of the metric. The score is the predicted drop of the metric if the edge is given its corrupt value.

    Source:
        Syed, Rager & Conmy 2023 (arXiv:2310.10348). Same numbers as EAP-IG's `EAP` for metric = −loss.

    Caveats:
        A gradient says nothing where attention is saturated: an edge that matters can score zero. Compare with
        `eap_ig`, and test what it finds with `evaluate_circuit`.
    """
    call = f"digsite.eap(model, task, at={at!r}, metric={metric!r})"
    return attribute(model, task, "EAP", at_clean, call=call, at=at, metric=metric, batch=batch)


@method
def eap_ig(
    model: Model,
    task: Task,
    *,
    path: str = "inputs",
    steps: int = 5,
    at: str | Sequence[str] | None = None,
    metric: str | None = None,
    batch: int = BATCH,
) -> EdgeScores:
    """What each edge is worth, with gradients averaged between the corrupt and the clean prompt.

    Args:
        model: The model.
        task: Clean and corrupt pairs of one length.
        path: "inputs", "activations" or "clean-corrupt"; see the head of this file.
        steps: Points on each path (not for "clean-corrupt").
        at: As for `eap`.
        metric: The task's own if None.
        batch: Examples in one pass.

    Raises:
        BadInput: No such path, fewer than one step, or as for `eap`.

    Units:
        Those of the metric.

    Source:
        Hanna, Pezzelle & Belinkov 2024 (arXiv:2403.17806) and the EAP-IG package: the same points. For "inputs" the sum
        of the scores of all edges out of the embedding tends to clean − corrupt as steps grow. For "activations" the
        package leaves out the gradients of layer 0's queries, keys and values where the embedding moves; here they
        count.
    """
    if path not in PATHS or steps < 1:
        raise BadInput(explain(f"path={path!r} with {steps} steps cannot be taken", possible=PATHS, near=path))
    points = {"inputs": _inputs, "activations": _activations, "clean-corrupt": _two_ends}[path]
    name = f"EAP-IG {path}" + ("" if path == "clean-corrupt" else f", {steps} steps")
    call = f"digsite.eap_ig(model, task, path={path!r}, steps={steps}, at={at!r}, metric={metric!r})"
    return attribute(model, task, name, partial(points, steps=steps), call=call, at=at, metric=metric, batch=batch)


@method
def relp(
    model: Model,
    task: Task,
    *,
    at: str | Sequence[str] | None = None,
    metric: str | None = None,
    batch: int = BATCH,
) -> EdgeScores:
    """What each edge is worth, with relevance-propagation rules in the place of the gradient's.

    Norms count as division by a constant, an activation f as multiplication by f(x)/x, and the two factors of a product
    (a gate, attention's pattern and values, queries and keys) share what flows back half and half.

    Args:
        model: The model.
        task: Clean and corrupt pairs of one length.
        at: As for `eap`.
        metric: The task's own if None.
        batch: Examples in one pass.

    Units:
        Those of the metric.

    Source:
        Jafari et al. 2025, "RelP" (arXiv:2508.21258); the rule for attention's products is AttnLRP's (Achtibat et al.
        2024, arXiv:2402.05602), which unlike a frozen pattern gives queries and keys a score.
    """
    ruled = partial(at_clean, edits=rules.edits(model))
    call = f"digsite.relp(model, task, at={at!r}, metric={metric!r})"
    return attribute(model, task, "RelP", ruled, call=call, at=at, metric=metric, batch=batch, frozen=True)


def attribute(
    model: Model,
    task: Task,
    method: str,
    points: Callable[..., Iterator[Slopes]],
    *,
    call: str,
    at: str | Sequence[str] | None = None,
    metric: str | None = None,
    batch: int = BATCH,
    frozen: bool = False,
) -> EdgeScores:
    """Scores of every edge from gradients at the points that a method takes.

    Args:
        model: The model.
        task: Clean and corrupt pairs of one length.
        method: Its name.
        points: From the ends of some examples, and `Inputs`, to the gradients that are averaged.
        call: The call that makes the scores again.
        at: As for `eap`.
        metric: The task's own if None.
        batch: Examples in one pass.
        frozen: Norms divide by a constant.
    """
    lined_up(task)
    space, outputs, inputs = edge_space(model), Outputs(model), Inputs(model, frozen=frozen)
    names = places(task, at).names
    scores, metrics = [], []
    with measure() as cost:
        for start in track(range(0, len(task), batch), method):
            part = task.take(slice(start, start + batch))
            there = places(part, at)
            ends = Ends(model, part, outputs, metric=metric)
            by_row = require_finite(f"Scores of {method}", scored(space, ends, inputs, points, there)).cpu()
            by_example = by_row.new_zeros(len(part), *by_row.shape[1:])
            scores.append(by_example.index_add_(0, part.example_rows, by_row))
            metrics.append(ends.metrics)
    clean, corrupt = (torch.cat(each).cpu() for each in zip(*metrics, strict=True))
    check_differs(task, clean, corrupt, metric)
    return EdgeScores(
        method=method,
        task=task.name,
        metric_name=metric or task.metric_name,
        unit=task.unit if metric is None else "",
        clean=clean,
        corrupt=corrupt,
        places=names,
        writers=space.writers,
        readers=space.readers,
        before=space.before,
        scores=torch.cat(scores),
        provenance=made_by(call, model, task.fingerprint),
        cost=cost,
    )


def scored(
    space: EdgeSpace,
    ends: Ends,
    inputs: Inputs,
    points: Callable[..., Iterator[Slopes]],
    places: Places = EVERYWHERE,
) -> Float[Tensor, "batch place writer reader"]:
    """Scores of every edge of some rows: the mean over the points.

    Args:
        space: The edges.
        ends: The rows, with both their runs.
        inputs: How readers read.
        points: From the ends and `inputs` to the gradients that are averaged.
        places: Over which scores are summed apart.
    """
    difference = ends.clean - ends.corrupt
    total, count = torch.zeros(()), 0
    for slopes in points(ends, inputs):
        total = total + contract(space, ends.outputs, inputs, difference, slopes, places)
        count += 1
    return total / count


# -- the points ------------------------------------------------------------------------------------------------------
def at_clean(ends: Ends, inputs: Inputs, *, edits: Sequence[Edit] = ()) -> Iterator[Slopes]:
    """The gradient at the clean prompt."""
    yield inputs.slopes(ends.task, ends.task.clean, edits=edits, metric=ends.metric)


def _two_ends(ends: Ends, inputs: Inputs, *, steps: int) -> Iterator[Slopes]:
    for tokens in (ends.task.clean, _corrupt(ends.task)):
        yield inputs.slopes(ends.task, tokens, metric=ends.metric)


def _inputs(ends: Ends, inputs: Inputs, *, steps: int) -> Iterator[Slopes]:
    clean, corrupt = ends.clean.embed[0], ends.corrupt.embed[0]
    for step in range(steps):
        yield _between(ends, inputs, "embed", clean, corrupt, step / steps)


def _activations(ends: Ends, inputs: Inputs, *, steps: int) -> Iterator[Slopes]:
    layers = range(ends.model.n_layers)
    between = [("embed", ends.clean.embed[0], ends.corrupt.embed[0])]
    for i in layers:
        between.append((f"layers.{i}.attn.z", ends.z[0][i], ends.z[1][i]))
        between.append((f"layers.{i}.mlp.out", ends.clean.mlp[i], ends.corrupt.mlp[i]))
    for site, clean, corrupt in between:
        for step in range(1, steps + 1):
            yield _between(ends, inputs, site, clean, corrupt, step / steps)


def _between(ends: Ends, inputs: Inputs, site: str, clean: Tensor, corrupt: Tensor, share: float) -> Slopes:
    """The gradients with one site part of the way from corrupt to clean."""
    # The point itself is where the autograd path begins: what is before it may need no gradient.
    point = (corrupt + share * (clean - corrupt)).requires_grad_()
    return inputs.slopes(ends.task, ends.task.clean, edits=[replace(site, point)], metric=ends.metric)


# -- the examples ----------------------------------------------------------------------------------------------------
def _corrupt(task: Task) -> Tokens:
    return task.require_corrupt()


def check_differs(task: Task, clean: Tensor, corrupt: Tensor, metric: str | None) -> None:
    """Refuses a task whose metric tells nothing between clean and corrupt prompts.

    Raises:
        BadInput: It is the same on all pairs.
    """
    if float((clean - corrupt).abs().max()) == 0.0:
        raise BadInput(
            explain(
                f"{metric or task.metric_name} is the same on clean and corrupt prompts: no edge has a share of it",
                found=f"{float(clean.mean()):.4g} on all {len(clean)} pairs",
                do="use another corruption or another metric",
            )
        )
