"""Components: heads and MLPs by name, and what is put in their place when they are taken away.

A set of components is a tuple of addresses: "layers.3.attn.z[2]" for a head, "layers.3.mlp.out" for an MLP. Every
question about sets (knock out, keep, random sets) is one computation, `evaluate_sets`:

1. Measure the replacement of every component once (corrupt prompts, mean, zero or resampled).
2. Repeat every row once for each set; a mask says which components of that row are replaced.
3. Run all of them in a few batched passes and score each row with the task's metric.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from digsite._core.errors import BadInput, explain
from digsite._core.progress import track
from digsite.models import Model, Tokens
from digsite.models.edits import ablate, apply
from digsite.sites import Site
from digsite.tasks import Task

HOW = ("corrupt", "mean", "zero", "resample")
Replacements = dict[str, tuple[Tensor, Any]]
"""Site -> (what replaces it, the columns of `components(model)` that it holds)."""
ROWS = 512
"""Rows in one batched pass."""


def components(model: Model, *, heads: bool = True, mlps: bool = True) -> tuple[str, ...]:
    """Every head and MLP of a model, by name, in the order of the forward pass."""
    names: list[str] = []
    for block in model.anatomy.blocks:
        if heads and model.anatomy.has((block.index, "attn.z")):
            names += [f"layers.{block.index}.attn.z[{head}]" for head in range(model.n_heads)]
        if mlps and model.anatomy.has((block.index, "mlp.out")):
            names.append(f"layers.{block.index}.mlp.out")
    return tuple(names)


def checked(model: Model, names: Sequence[str]) -> tuple[str, ...]:
    """Component names, each known to the model and written once.

    Raises:
        BadInput: A name is not a head's or an MLP's output, or stands twice.
        NoSuchSite: The model has no such component.
    """
    known = {str(Site.parse(name)) for name in components(model)}
    made = [str(site) for name in names for site in model.anatomy.expand(name)]
    wrong = [name for name in made if name not in known]
    if wrong or len(set(made)) < len(made):
        raise BadInput(
            explain(
                f"{wrong[0]} is not a component" if wrong else "A component stands twice in the set",
                possible="heads such as layers.3.attn.z[2], MLPs such as layers.3.mlp.out",
            )
        )
    return tuple(made)


@torch.no_grad()
def evaluate_sets(
    model: Model,
    task: Task,
    replaced: Bool[Tensor, "set component"],
    *,
    how: str = "corrupt",
    over: Any = None,
    metric: str | None = None,
    batch_rows: int = ROWS,
    seed: int = 0,
    values: Replacements | None = None,
    description: str = "component sets",
) -> Float[Tensor, "set example"]:
    """The metric of every example when some components are replaced, for many sets of components at once.

    Args:
        model: The model.
        task: Its clean rows are run.
        replaced: For each set, which of `components(model)` are replaced.
        how: "corrupt" puts in what the component computed on the row's corrupt prompt; "mean" its mean over the real
            tokens of `over`; "zero"; "resample" what it computed on another row of `over`.
        over: Tokens or corpus for "mean" and "resample"; the corrupt rows if None.
        metric: The task's own if None.
        batch_rows: Rows in one pass.
        seed: For "resample".
        values: What `replacements` measured, when many calls share it.
        description: For the progress bar.

    Units:
        Those of the metric.
    """
    names = components(model)
    if replaced.shape[1] != len(names):
        raise BadInput(explain("A set covers all components", found=f"{replaced.shape[1]} flags for {len(names)}"))
    if values is None:
        values = replacements(model, task, how=how, over=over, seed=seed)
    n = len(task.clean)
    per_pass = max(1, batch_rows // n)
    scores = []
    for start in track(range(0, len(replaced), per_pass), description):
        some = replaced[start : start + per_pass]
        rows = torch.arange(n).repeat_interleave(len(some))
        masks = some.repeat(n, 1)  # row r holds set r % len(some) of example r // len(some)
        edits = [
            apply(site, partial(_mixed, value=value, mask=masks[:, index], rows=rows))
            for site, (value, index) in values.items()
            if bool(some[:, index].any())
        ]
        grid = Tokens(task.clean.ids[rows], task.clean.mask[rows], tokenizer=task.clean.tokenizer)
        logits = model.run(grid, edits=edits, logits=task.keep).logits
        by_set = logits.unflatten(0, (n, len(some))).transpose(0, 1)
        scores += [task.metric(one, metric) for one in by_set]
    return torch.stack(scores).float()


def replacements(model: Model, task: Task, *, how: str = "corrupt", over: Any = None, seed: int = 0) -> Replacements:
    """What takes the place of every component of a model on the rows of a task (see `evaluate_sets`)."""
    if how not in HOW:
        raise BadInput(explain(f"how={how!r} is not a replacement", possible=HOW, near=how))
    names = components(model)
    sites: dict[str, Any] = {}
    for i, name in enumerate(names):
        site = name.partition("[")[0]
        sites[site] = i if site == name else [*sites.get(site, []), i]
    if how == "zero":
        return {site: (torch.zeros(()), index) for site, index in sites.items()}
    if how == "corrupt":
        run = model.run(task.require_corrupt(), read=list(sites), logits=None)
        return {site: (run[site], index) for site, index in sites.items()}
    source = over if over is not None else task.require_corrupt()
    found = {}
    for site, index in sites.items():
        edit = model.resolved(ablate(site, how=how, over=source, seed=seed), task.clean)
        found[site] = (edit.value, index)
    return found


def _mixed(x: Tensor, *, value: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
    """The replacement where the mask of a row (and head) says so, else what the model computed."""
    value = value.to(x)
    if value.ndim == x.ndim and len(value) > 1:
        value = value[rows]
    mask = mask.to(x.device)
    shape = (len(x), 1, x.shape[2], 1) if mask.ndim == 2 else (len(x), 1, 1)
    return torch.where(mask.view(shape), value, x)
