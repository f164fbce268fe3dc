"""What edge attribution will hold in memory, before a model is loaded.

1. The model is made from its config, without weights.
2. One batch of edge attribution is executed on it, by the very code that `eap` runs, on tensors that have a shape and
   no data; every byte is counted (`digsite.models.rehearsal`).
3. If that does not fit, a batch that does is looked for between none and all, as if memory grew evenly, and rehearsed.
"""

from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PretrainedConfig

from digsite.circuits.attribution import BATCH, Ends, at_clean, scored
from digsite.circuits.slopes import Inputs
from digsite.circuits.written import Outputs
from digsite.graphs import edge_space
from digsite.models import MemoryPlan, Model, Tokens
from digsite.models.holdings import dtype_name
from digsite.models.memory import MemoryChange, MemoryRow, count_text, parse_bytes
from digsite.models.rehearsal import Alive, Fused, solid_norms, twin
from digsite.models.savings import dtype_of, shape_only
from digsite.models.unloaded import unloaded
from digsite.tasks import Task
from digsite.tasks.answers import Answers

REHEARSALS = 12
"""How often a smaller batch is tried."""


def plan_eap(
    model: Model | str | Path | PretrainedConfig,
    pos: int,
    *,
    batch: int = BATCH,
    dtype: str | torch.dtype | None = None,
    attention: str | None = None,
    budget: int | str | None = None,
) -> MemoryPlan:
    """What `eap` (and `relp`) will hold in memory at its worst moment; nothing is run and no weights are needed.

    Args:
        model: A model, or a hub id, a folder or a transformers config, whose weights are not looked at.
        pos: Tokens of a prompt.
        batch: Pairs of prompts in one pass, as for `eap`.
        dtype: The dtype it would have; None for the one that it has or that its config names.
        attention: "eager" or "sdpa"; None for the one that it has, or "eager".
        budget: What there is, such as "80GB"; the plan then names a batch that fits.

    Raises:
        BadInput: Not a shape of tokens, or not an amount of memory.
        LoadError: There is no such config.
        Unsupported: The model is not a sum of heads and MLPs that read one stream.

    Units:
        Bytes.

    Caveats:
        As of `MemoryPlan`. `eap_ig` holds the scores of one batch twice more. Scores of batches that are done lie in
        the memory of the CPU, 4 bytes for each example and pair of a writer and a reader, and are not in the plan.
    """
    if isinstance(model, Model):
        made = twin(model, dtype_of(dtype) or model.dtype, attention or model.attention)
    else:
        made = unloaded(model, dtype=dtype, attention=attention or "eager")
    room = None if budget is None else parse_bytes(budget)
    plan = MemoryPlan(question=_question(made, batch, pos), rows=_rows(made, batch, pos), budget=room)
    return plan if room is None or plan.fits else _smaller(made, plan, batch, pos, room)


class _Shape(Task):
    """A task of which only the shape is known; its metric is the first logit of each row."""

    def metric(
        self,
        logits: Float[Tensor, "batch pos vocab"],
        name: str | None = None,
        *,
        reference: Float[Tensor, "batch columns vocab"] | None = None,
    ) -> Float[Tensor, " example"]:
        """The first logit."""
        return logits[:, -1, 0]


def _shape(tokens: Tokens) -> Task:
    n = len(tokens)
    answers = Answers(
        torch.zeros(n, 1, 1, dtype=torch.long),
        torch.ones(n, 1, 1, dtype=torch.bool),
        torch.arange(n)[:, None],
        (("",),) * n,
    )
    return _Shape(
        name="shape",
        question="",
        clean=tokens,
        corrupt=tokens,
        right=answers,
        wrong=answers,
        spans={},
        groups=("",) * n,
    )


def _rows(model: Model, batch: int, pos: int) -> tuple[MemoryRow, ...]:
    """The kinds of memory of one batch, from a rehearsal."""
    task = _shape(shape_only(batch, pos))
    with solid_norms(model.hf):
        space, outputs, inputs = edge_space(model), Outputs(model), Inputs(model)
    weights = (*model.hf.parameters(), *model.hf.buffers())
    alive = Alive(weights)
    with alive, Fused():
        ends = Ends(model, task, outputs, metric=None)
        runs = alive.now
        scores = scored(space, ends, inputs, at_clean)
    count = count_text(sum(x.numel() for x in model.hf.parameters()))
    size = sum(x.nbytes for x in weights)
    return (
        MemoryRow(what="weights", bytes=size, note=f"{count} parameters, {dtype_name(model.dtype)}"),
        MemoryRow(what="clean and corrupt run", bytes=runs, note="what the writers wrote in each"),
        MemoryRow(what="scores", bytes=scores.nbytes, note=f"of {len(space):,} edges, float32"),
        MemoryRow(what="working memory", bytes=alive.peak - runs - scores.nbytes, note="gradients, and on the way"),
    )


def _smaller(model: Model, plan: MemoryPlan, batch: int, pos: int, room: int) -> MemoryPlan:
    """The plan with a batch that fits, the largest or nearly so, if one does."""
    low, high, totals = 0, batch, {0: sum(row.bytes for row in plan.rows if row.what == "weights"), batch: plan.total}
    for _ in range(REHEARSALS):
        if high - low <= 1:
            break
        share = (room - totals[low]) / (totals[high] - totals[low])
        middle = min(max(low + 1, low + int(share * (high - low))), high - 1)
        totals[middle] = sum(row.bytes for row in _rows(model, middle, pos))
        low, high = (middle, high) if totals[middle] <= room else (low, middle)
    if not low:
        return plan
    saves = plan.total - totals[low]
    change = MemoryChange(call=f"eap(batch={low})", saves=saves, chosen=True, cost="more passes")
    return replace(plan, changes=(change,), then=totals[low])


def _question(model: Model, batch: int, pos: int) -> str:
    return f"{model.name}, edge attribution of {batch} pairs × {pos} tokens, {dtype_name(model.dtype)}"
