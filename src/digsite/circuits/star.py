"""Node attribution, and AtP*: the same with two of its blind spots repaired.

1. What every node computes on the clean prompt and not on the corrupt one: two forward passes.
2. The gradient of the metric at every node on the clean prompt. Score = difference · gradient (`nap`).
3. QK fix: where attention is saturated the gradient of a softmax is 0 and says nothing of a query that would turn it.
   So the pattern is computed again with the corrupt queries (one pass for all heads: each layer's pattern is noted and
   the clean one put back, so that later layers stay clean), and its difference is multiplied with the gradient at the
   pattern. The same with the corrupt keys.
4. GradDrop: a direct and an indirect effect may cancel. So there is one backward pass for each layer, in which nothing
   flows back through what that layer adds to the stream, and the score is the mean size of the L scores, times
   L / (L - 1), for a node gets nothing in the pass that drops its own layer.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from digsite._core.cost import count_backward, measure
from digsite._core.numerics import require_finite
from digsite._core.progress import track
from digsite._core.recording import method
from digsite.circuits.attribution import BATCH, check_differs
from digsite.circuits.nodes import NodeScores
from digsite.graphs import edge_space
from digsite.models import Edit, Model, apply, made_by, replace
from digsite.patching.places import lined_up
from digsite.tasks import Task

HEADS = ("q", "k", "v", "z")


@method
def nap(model: Model, task: Task, *, metric: str | None = None, batch: int = BATCH) -> NodeScores:
    """What each node is worth, to first order at the clean prompt (node attribution patching).

    Args:
        model: The model.
        task: Clean and corrupt pairs of one length.
        metric: The task's own if None.
        batch: Examples in one pass.

    Raises:
        BadInput: No corrupt prompts, prompts that do not line up, or a metric that both prompts score the same.
        NotFinite: A score is NaN.
        Unsupported: The model is not a sum of heads and MLPs that read one stream.

    Units:
        Those of the metric: the predicted drop if the node has its corrupt value.

    Source:
        Nanda 2022, "Attribution Patching". For heads and MLPs these are the sums of `eap` over all readers; both the
        difference and the gradient of an MLP are taken at its output.

    Caveats:
        A query or key whose attention is saturated scores near zero whatever it does; `atp_star` repairs this.
    """
    call = f"digsite.circuits.nap(model, task, metric={metric!r})"
    return _node_scores(model, task, "NAP", call, qk_fix=False, grad_drop=False, metric=metric, batch=batch)


@method
def atp_star(
    model: Model,
    task: Task,
    *,
    qk_fix: bool = True,
    grad_drop: bool = True,
    metric: str | None = None,
    batch: int = BATCH,
) -> NodeScores:
    """What each node is worth to first order, without what saturated attention and cancelling paths hide (AtP*).

    Args:
        model: The model.
        task: Clean and corrupt pairs of one length.
        qk_fix: Compute patterns again with corrupt queries and keys; two more forward passes.
        grad_drop: Drop one layer at a time from the backward pass; a backward pass for each layer, and scores are
            sizes. In a model of one layer nothing can be dropped.
        metric: The task's own if None.
        batch: Examples in one pass.

    Raises:
        BadInput: No corrupt prompts, prompts that do not line up, or a metric that both prompts score the same.
        NoSuchSite: Attention whose pattern cannot be read.
        NotFinite: A score is NaN.
        Unsupported: The model is not a sum of heads and MLPs that read one stream.

    Units:
        Those of the metric.

    Source:
        Kramár, Lieberum, Shah & Nanda 2024, "AtP*" (arXiv:2403.00745). There a key is a node at one position and keys
        are patched one position at a time; here a node has no position, and all keys of a head are patched together.

    Caveats:
        The size of a score says how much a node might do along some path; after GradDrop it is no prediction of a drop.
    """
    name = "AtP" + {(True, True): "*", (True, False): " with QK fix", (False, True): " with GradDrop"}.get(
        (qk_fix, grad_drop), ""
    )
    call = f"digsite.circuits.atp_star(model, task, qk_fix={qk_fix}, grad_drop={grad_drop}, metric={metric!r})"
    return _node_scores(model, task, name, call, qk_fix=qk_fix, grad_drop=grad_drop, metric=metric, batch=batch)


def _node_scores(
    model: Model, task: Task, method: str, call: str, *, qk_fix: bool, grad_drop: bool, metric: str | None, batch: int
) -> NodeScores:
    lined_up(task)
    edge_space(model)  # refuses models without such nodes
    grad_drop = grad_drop and model.n_layers > 1
    scores, clean, corrupt = [], [], []
    with measure() as cost:
        for start in track(range(0, len(task), batch), method):
            part = task.take(slice(start, start + batch))
            ends = _Ends(model, part, qk_fix=qk_fix, metric=metric)
            passes = list(ends.dropped() if grad_drop else ends.whole())
            if grad_drop:
                passes = [torch.stack(passes).abs().sum(0) / (model.n_layers - 1)]
            rows = require_finite(f"Scores of {method}", passes[0]).cpu()
            scores.append(rows.new_zeros(len(part), rows.shape[1]).index_add_(0, part.example_rows, rows))
            for end, run in ((clean, ends.clean), (corrupt, ends.corrupt)):
                end.append(part.metric(run.logits, metric).detach().float().cpu())
    before, after = torch.cat(clean), torch.cat(corrupt)
    check_differs(task, before, after, metric)
    return NodeScores(
        method=method,
        task=task.name,
        metric_name=metric or task.metric_name,
        unit=task.unit if metric is None else "",
        clean=before,
        corrupt=after,
        signed=not grad_drop,
        nodes=_names(model),
        scores=torch.cat(scores),
        provenance=made_by(call, model, task.fingerprint),
        cost=cost,
    )


def _names(model: Model) -> tuple[str, ...]:
    names: list[str] = []
    counts = {"q": model.n_heads, "k": model.n_kv_heads, "v": model.n_kv_heads, "result": model.n_heads}
    for layer in range(model.n_layers):
        names += [f"layers.{layer}.attn.{part}[{head}]" for part, count in counts.items() for head in range(count)]
        names.append(f"layers.{layer}.mlp.out")
    return tuple(names)


class _Ends:
    """Some examples with their clean run on the autograd path, their corrupt run, and what differs."""

    def __init__(self, model: Model, task: Task, *, qk_fix: bool, metric: str | None):
        self.model, self.task, self.metric = model, task, metric
        layers = range(model.n_layers)
        self.sites = [f"layers.{i}.{name}" for i in layers for name in (*(f"attn.{p}" for p in HEADS), "mlp.out")]
        self.patterns = [f"layers.{i}.attn.pattern" for i in layers] if qk_fix else []
        self.drop: int | None = None
        # 1. Both ends.
        also = ["layers.*.attn.q_rot", "layers.*.attn.k_rot"] if qk_fix else []
        self.corrupt = model.run(task.require_corrupt(), read=[*self.sites, *also], logits=task.keep)
        self.clean = model.run(
            task.clean, read=[*self.sites, *self.patterns], edits=self._gates(), logits=task.keep, grad=True
        )
        self.difference = {site: self.clean[site].detach() - self.corrupt[site] for site in self.sites}
        if qk_fix:
            self.turned = {part: list(self._turned(part)) for part in ("q", "k")}

    def whole(self) -> Iterator[Float[Tensor, "batch node"]]:
        """Scores from one backward pass."""
        yield self._pass(last=True)

    def dropped(self) -> Iterator[Float[Tensor, "batch node"]]:
        """Scores from each backward pass that drops one layer."""
        for layer in range(self.model.n_layers):
            self.drop = layer
            yield self._pass(last=layer == self.model.n_layers - 1)

    def _pass(self, *, last: bool) -> Float[Tensor, "batch node"]:
        """2. The gradient at every node, times what differs there."""
        wanted = [self.clean[site] for site in (*self.sites, *self.patterns)]
        found = torch.autograd.grad(
            self.task.metric(self.clean.logits, self.metric).sum(),
            wanted,
            retain_graph=not last,
            materialize_grads=True,
            allow_unused=True,
        )
        count_backward(len(self.task.clean))
        slopes = dict(zip((*self.sites, *self.patterns), found, strict=True))
        scores = []
        for layer in range(self.model.n_layers):
            for part in HEADS:
                site = f"layers.{layer}.attn.{part}"
                if self.patterns and part in ("q", "k"):
                    scores.append(self._fixed(layer, part, slopes[f"layers.{layer}.attn.pattern"]))
                else:
                    scores.append((self.difference[site] * slopes[site]).float().sum((1, 3)))
            site = f"layers.{layer}.mlp.out"
            score = (self.difference[site] * slopes[site]).float().sum((1, 2)).unsqueeze(1)
            scores.append(score * (layer != self.drop))  # the gate lies before the site, so it did not drop this one
        return torch.cat(scores, 1)

    # -- 3. the QK fix -----------------------------------------------------------------------------------------------
    def _fixed(self, layer: int, part: str, slope: Float[Tensor, "batch head dst src"]) -> Float[Tensor, "batch _"]:
        scores = (self.turned[part][layer] * slope).float().sum((2, 3))
        if part == "q":
            return scores
        return scores.unflatten(1, (self.model.n_kv_heads, -1)).sum(2)  # query heads that share a key

    def _turned(self, part: str) -> Sequence[Float[Tensor, "batch head dst src"]]:
        """Clean patterns minus those with the corrupt queries (or keys) of their own layer."""
        turned: dict[int, Tensor] = {}

        def note(pattern: Tensor, *, layer: int) -> Tensor:
            own = self.clean[f"layers.{layer}.attn.pattern"].detach()
            turned[layer] = own - pattern
            return own

        edits: list[Edit] = []
        for layer in range(self.model.n_layers):
            site = f"layers.{layer}.attn."
            edits.append(replace(f"{site}{part}_rot", self.corrupt[f"{site}{part}_rot"]))
            edits.append(apply(f"{site}pattern", partial(note, layer=layer)))
        self.model.run(self.task.clean, edits=edits, logits=1)
        return [turned[layer] for layer in range(self.model.n_layers)]

    # -- 4. GradDrop -------------------------------------------------------------------------------------------------
    def _gates(self) -> list[Edit]:
        """What every layer adds to the stream, so that a backward pass can leave it out."""
        names = ("attn.out", "mlp.out")
        return [
            apply(f"layers.{i}.{name}", partial(self._gate, layer=i))
            for i in range(self.model.n_layers)
            for name in names
        ]

    def _gate(self, x: Tensor, *, layer: int) -> Tensor:
        gated = x.view_as(x)
        gated.register_hook(lambda slope: torch.zeros_like(slope) if self.drop == layer else slope)
        return gated
