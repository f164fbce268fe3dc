"""A plan becomes a run: one pass, or several over a few rows each whose results are joined.

1. Edits that are measured on a corpus are measured.
2. The model runs with the instrument of the plan around it, and stops where the plan says.
3. A site that did not fire is an error.
"""

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from digsite._core.cost import count_forward
from digsite._core.errors import BadInput, explain
from digsite.models.edits import Edit
from digsite.models.plan import Plan
from digsite.models.run import Run
from digsite.models.tokens import Tokens
from digsite.models.visit import StopForward, Visit


def execute(model: Any, tokens: Tokens, plan: Plan, *, batch_size: int | None) -> Run:
    """Runs a plan.

    Args:
        model: A `Model`.
        tokens: The rows.
        plan: What is read and edited.
        batch_size: Rows in a pass; None for all.

    Raises:
        SiteDidNotFire: A site of the plan was not reached.
        BadInput: An edit selects nothing, or gradients are wanted of several passes.
    """
    edits = [model.resolved(edit, tokens) for edit in plan.edits]
    for edit in edits:
        # A slice without an end goes on into what may come later; it may well be empty in a short row.
        closed = edit.at is not None and not (isinstance(edit.at, slice) and edit.at.stop is None)
        if closed and not tokens.places(edit.at).rows.numel():
            raise BadInput(explain(f"The edit at {edit.site} selects no position of any row", found=f"at={edit.at}"))
    if batch_size is None or batch_size >= len(tokens):
        visit, logits = _pass(model, tokens, plan, edits)
        return Run(tokens, plan, visit.got, visit.got_heads, model.anatomy, logits)
    if plan.grad:
        raise BadInput(explain("Gradients need the whole batch in one pass", do="leave out batch_size"))
    return _in_batches(model, tokens, plan, edits, batch_size)


def _in_batches(model: Any, tokens: Tokens, plan: Plan, edits: Sequence[Edit], batch_size: int) -> Run:
    parts, logits = [], []
    for start in range(0, len(tokens), batch_size):
        rows = slice(start, min(start + batch_size, len(tokens)))
        part = Tokens(tokens.ids[rows], tokens.mask[rows], bos=tokens.bos, tokenizer=tokens.tokenizer)
        those = [one for edit in edits if (one := edit.for_rows(rows, len(tokens))) is not None]
        visit, some = _pass(model, part, plan, those)
        parts.append((visit.got, visit.got_heads))  # the visit itself holds on to more of the stream
        logits.append(some)
    # One site after the other, so that parts and whole are in memory together for one site only.
    values = {key: torch.cat([got.pop(key) for got, _ in parts]) for key in list(parts[0][0])}
    heads = {key: torch.cat([got.pop(key) for _, got in parts]) for key in list(parts[0][1])}
    return Run(tokens, plan, values, heads, model.anatomy, None if logits[0] is None else torch.cat(logits))


def _pass(model: Any, tokens: Tokens, plan: Plan, edits: Sequence[Edit]) -> tuple[Visit, Tensor | None]:
    visit = model.visit(tokens, plan, edits)
    kwargs = model.inputs(tokens)
    if "use_cache" in model.takes:
        kwargs["use_cache"] = False
    keep = plan.logits if isinstance(plan.logits, int) else 0
    if keep and "logits_to_keep" in model.takes and not visit.wants((None, "logits")):
        kwargs["logits_to_keep"] = keep
    count_forward(len(tokens))
    logits = None
    with model.instrumented(visit, adapters=plan.adapters), contextlib.suppress(StopForward):
        logits = model.hf(**kwargs).logits
    visit.finish()
    if logits is not None and keep:
        logits = logits[:, -keep:]
    if logits is not None and plan.to is not None:
        logits = logits.to(plan.to)
    return visit, None if plan.logits is None else logits
