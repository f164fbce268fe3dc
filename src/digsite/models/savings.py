"""Whether a run fits into memory, and the smallest set of changes that makes it fit.

1. Each change is a function from one way of doing the run to another; they are ordered from the mildest on.
2. Sets of one change are tried, then of two, three …; the first set that fits is the answer.
3. Leaving layers in the CPU's memory is tried last, because every pass then waits for them.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, NamedTuple

import torch

from digsite._core.errors import BadInput, explain
from digsite.models.holdings import Case, Holdings, dtype_name, linears
from digsite.models.memory import MemoryChange, MemoryPlan, parse_bytes
from digsite.models.plan import Plan
from digsite.models.tokens import Tokens


class Step(NamedTuple):
    """A change: how it is asked for, what it costs, and the case that it makes."""

    call: str
    cost: str
    case: Case


Change = Callable[[Holdings, Case, int], Step | None]


def planned(
    model: Any,
    tokens: Tokens,
    plan: Plan,
    *,
    batch_size: int | None,
    new: int,
    dtype: str | torch.dtype | None,
    device: str,
    budget: int | str | None,
) -> MemoryPlan:
    """The memory of a run, and what makes it fit; see `Model.memory`."""
    case = Case(
        tokens=tokens,
        plan=plan if not new else replace(plan, logits=1),
        rows=len(tokens),
        batch_size=min(batch_size or len(tokens), len(tokens)),
        new=new,
        dtype=dtype_of(dtype) or model.dtype,
        attention=model.attention,
        device=device,
    )
    return _answered(model, case, None if budget is None else parse_bytes(budget))


def shape_only(rows: int, columns: int) -> Tokens:
    """Tokens of which only the shape is known."""
    if rows < 1 or columns < 1:
        raise BadInput(explain(f"({rows}, {columns}) is not a shape of tokens", possible="(rows, columns), 1 or more"))
    return Tokens(torch.zeros(rows, columns, dtype=torch.long), torch.ones(rows, columns, dtype=torch.bool))


def dtype_of(name: str | torch.dtype | None) -> torch.dtype | None:
    """A dtype by its name.

    Raises:
        BadInput: Weights cannot have it.
    """
    found = getattr(torch, name, None) if isinstance(name, str) else name
    if name is not None and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise BadInput(explain(f"{name!r} is not a dtype of weights", possible=["float32", "bfloat16", "float16"]))
    return found


def _answered(model: Any, case: Case, budget: int | None) -> MemoryPlan:
    holdings = Holdings(model)
    plan = MemoryPlan(question=_question(model, case), rows=tuple(holdings.rows(case)), budget=budget)
    if budget is None or plan.fits:
        return plan
    alone = {change: step for change in _CHANGES if (step := change(holdings, case, budget)) is not None}
    chosen, then = _smallest(holdings, case, tuple(alone), budget)
    changes = []
    for change, step in alone.items():
        saves = max(plan.total - holdings.total(step.case), 0)
        shown = chosen.get(change, step)
        changes.append(MemoryChange(call=shown.call, saves=saves, chosen=change in chosen, cost=shown.cost))
    return replace(plan, changes=tuple(changes), then=then)


def _smallest(
    holdings: Holdings, case: Case, changes: Sequence[Change], budget: int
) -> tuple[dict[Change, Step], int | None]:
    """The smallest set of changes that fits, the mildest of its size; and the bytes that are then needed."""
    for spilling in (False, True):
        unused = _four_bits if spilling else _layers_elsewhere  # weights of 4 bits stay on their device
        allowed = [change for change in changes if change is not unused]
        made = _taken(holdings, case, allowed, budget)
        if holdings.total(list(made.values())[-1].case if made else case) > budget:
            continue  # not even all of them together
        for size in range(1, len(allowed) + 1):
            fitting = []
            for some in combinations(allowed, size):
                made = _taken(holdings, case, some, budget)
                last = list(made.values())[-1].case if made else case
                if len(made) == size and (last.room is not None or holdings.weights(last) < budget):
                    total = holdings.total(last)
                    if total <= budget and not spilling:
                        return made, total
                    if total <= budget:
                        fitting.append((holdings.layers(last), made, total))
            if fitting:  # of sets of one size that leave layers elsewhere, the one that leaves fewest
                _, made, total = max(fitting, key=lambda one: one[0])
                return made, total
    return {}, None


def _taken(holdings: Holdings, case: Case, changes: Sequence[Change], budget: int) -> dict[Change, Step]:
    """Some changes, one after the other; without those that say nothing any more."""
    made: dict[Change, Step] = {}
    for change in changes:
        step = change(holdings, case, budget)
        if step is not None:
            made[change], case = step, step.case
    return made


# -- the changes, from the mildest on ------------------------------------------------------------------------------
def _last_logits(holdings: Holdings, case: Case, budget: int) -> Step | None:
    if case.plan.logits != "all" or case.new or any(site.name == "logits" for site in case.plan.reads):
        return None
    return Step("run(logits=1)", "logits of the last column only", replace(case, plan=replace(case.plan, logits=1)))


def _end_early(holdings: Holdings, case: Case, budget: int) -> Step | None:
    plan = case.plan
    if plan.logits is None or not plan.reads or plan.grad or case.new:
        return None
    return Step("run(logits=None)", "the pass ends with its last read", replace(case, plan=replace(plan, logits=None)))


def _some_positions(holdings: Holdings, case: Case, budget: int) -> Step | None:
    plan = case.plan
    if not plan.reads or plan.at is not None or plan.grad or case.new:
        return None
    return Step("run(at=-1)", "only the positions you need", replace(case, plan=replace(plan, at=-1)))


def _to_cpu(holdings: Holdings, case: Case, budget: int) -> Step | None:
    plan = case.plan
    if not plan.reads or plan.to is not None or plan.grad or case.new or case.device == "cpu":
        return None
    return Step('run(to="cpu")', "a copy for each site", replace(case, plan=replace(plan, to="cpu")))


def _fewer_rows(holdings: Holdings, case: Case, budget: int) -> Step | None:
    """As many rows as surely fit."""
    if case.batch_size == 1 or any(edit.op == "swap" for edit in case.plan.edits):
        return None
    cut = bool(case.plan.grad or case.new)  # such runs are not done in batches: fewer rows are asked for

    def of(rows: int) -> Case:
        return replace(case, batch_size=rows, rows=rows if cut else case.rows)

    # The worst moment of each row count is the largest of several sums that grow with the rows, so a straight line
    # from one row to all of them lies above it.
    one, every = holdings.total(of(1)), holdings.total(case)
    share = (budget - one) / max(every - one, 1)
    rows = 1 + int(min(max(share, 0), 1) * (case.batch_size - 1))
    rows = min(rows, case.batch_size - 1)
    if cut:
        return Step(f"{'generate' if case.new else 'run'}(tokens[:{rows}])", "then the next rows", of(rows))
    return Step(f"run(batch_size={rows})", "more passes", of(rows))


def _fused(holdings: Holdings, case: Case, budget: int) -> Step | None:
    used = {site.name for site in (*case.plan.reads, *(edit.site for edit in case.plan.edits))}
    if case.attention == "sdpa" or used & {"attn.scores", "attn.pattern"} or holdings.model.anatomy.arch.tapped:
        return None
    return Step('load(attention="sdpa")', "scores and pattern cannot be read", replace(case, attention="sdpa"))


def _half(holdings: Holdings, case: Case, budget: int) -> Step | None:
    if case.dtype != torch.float32:
        return None
    return Step('load(dtype="bfloat16")', "numbers of 8 bits of precision", replace(case, dtype=torch.bfloat16))


def _four_bits(holdings: Holdings, case: Case, budget: int) -> Step | None:
    blocks = holdings.model.anatomy.blocks
    if case.four_bit or case.device == "cpu" or not any(linears(block.module) for block in blocks):
        return None
    return Step("load(quantization=...)", "a coarser model: 4 bits, by bitsandbytes", replace(case, four_bit=True))


def _layers_elsewhere(holdings: Holdings, case: Case, budget: int) -> Step | None:
    if case.device == "cpu" or case.plan.grad or case.four_bit:
        return None
    split = replace(case, room=budget)
    layers = holdings.layers(split)
    cost = f"slow: {holdings.model.n_layers - layers} of {holdings.model.n_layers} layers are fetched in every pass"
    return Step('load(device="auto")', cost, split)


_CHANGES: tuple[Change, ...] = (
    _last_logits,
    _end_early,
    _some_positions,
    _to_cpu,
    _fewer_rows,
    _fused,
    _half,
    _four_bits,
    _layers_elsewhere,
)


def _question(model: Any, case: Case) -> str:
    what = "gradients" if case.plan.grad else f"{case.new} new tokens" if case.new else "a forward pass"
    size = f"{case.rows} rows × {case.tokens.ids.shape[1]} columns"
    return f"{model.name}, {what} of {size}, {dtype_name(case.dtype)}, {case.attention} attention"
