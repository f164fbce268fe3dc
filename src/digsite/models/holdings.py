"""What one way of doing a run holds in memory, kind by kind.

1. The run is rehearsed without data (see `rehearsal`), so what it records, its working memory and what autograd keeps
   are those of the very operations that the real run will do.
2. Weights are counted from the parameters.
3. Of a generation, the KV cache and what is recorded are those of one pass over prompt and new tokens together.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from digsite.models.edits import Edit
from digsite.models.memory import MemoryRow, count_text, size_text
from digsite.models.plan import Plan
from digsite.models.rehearsal import Rehearsal, rehearse, twin
from digsite.models.tokens import Tokens

_DRIVER = 500 * 10**6
"""What CUDA and its libraries take before the first tensor; some hundred megabytes, by card and version."""
_FOUR_BITS = 0.5 + 4 / 64
"""Bytes of a weight in 4 bits, with one float32 scale for each 64."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Case:
    """One way to do a run; changes make other cases of it.

    Attributes:
        tokens: The rows; only their shape matters.
        plan: What is read and edited.
        rows: How many of the rows are asked for at once.
        batch_size: How many of those go through the model in one pass.
        new: Tokens to generate.
        dtype: The model's.
        attention: "eager" or "sdpa".
        device: Type of the device that the model is on.
        four_bit: The blocks' linear layers have weights of 4 bits.
        room: With a number of bytes, only as many layers are on the device as fit there.
    """

    tokens: Tokens
    plan: Plan
    rows: int
    batch_size: int
    new: int
    dtype: torch.dtype
    attention: str
    device: str
    four_bit: bool = False
    room: int | None = None

    @property
    def away(self) -> bool:
        """Whether what is recorded goes to another device."""
        return self.plan.to is not None and torch.device(self.plan.to).type != self.device


class Holdings:
    """The memory of cases of one model; each rehearsal is made once."""

    def __init__(self, model: Any):
        self.model = model
        self._twins: dict[tuple[torch.dtype, str], Any] = {}
        self._known: dict[tuple, Rehearsal] = {}

    def rows(self, case: Case) -> list[MemoryRow]:
        """The kinds of memory of a case, at its worst moment."""
        rest = list(self._generation(case) if case.new else self._run(case))
        if case.device == "cuda":
            rest.append(MemoryRow(what="CUDA itself", bytes=_DRIVER, note="driver and libraries, roughly"))
        return [self._weights(case, sum(row.bytes for row in rest)), *rest]

    def total(self, case: Case) -> int:
        """Bytes of a case."""
        return sum(row.bytes for row in self.rows(case))

    def weights(self, case: Case) -> int:
        """Bytes of all weights, wherever they are."""
        size = _bytes(self.model, case, (*self.model.hf.parameters(), *self.model.hf.buffers()))
        if case.four_bit:
            packed = [part.weight for block in self.model.anatomy.blocks for part in linears(block.module)]
            size -= _bytes(self.model, case, packed) - int(sum(weight.numel() for weight in packed) * _FOUR_BITS)
        return size

    def layers(self, case: Case) -> int:
        """How many layers stay on the device."""
        return self._resident(case, self.total(replace(case, room=None)) - self.weights(case))[0]

    def _resident(self, case: Case, rest: int) -> tuple[int, int]:
        """How many layers stay on the device beside `rest` bytes, and the bytes of all weights that are there."""
        blocks = [_bytes(self.model, case, block.module.parameters()) for block in self.model.anatomy.blocks]
        largest = max(blocks)
        base = self.weights(case) - sum(blocks) + largest  # one block's room for those that come and go
        fit = max(0, min(len(blocks) - 1, ((case.room or 0) - rest - base) // largest))
        return fit, base + fit * largest

    def _weights(self, case: Case, rest: int) -> MemoryRow:
        count = count_text(sum(parameter.numel() for parameter in self.model.hf.parameters()))
        size, note = self.weights(case), f"{count} parameters, {dtype_name(case.dtype)}"
        if case.four_bit:
            note += ", the blocks in 4 bits"
        if case.room is not None:
            layers, size = self._resident(case, rest)
            note += f", {layers} of {self.model.n_layers} layers"
        return MemoryRow(what="weights", bytes=size, note=note)

    def _run(self, case: Case) -> Iterator[MemoryRow]:
        part = self._rehearsed(case, case.batch_size, case.tokens.ids.shape[1])
        passes = case.rows / case.batch_size
        recorded = {name: int(size * passes) for name, size in (part.joined if passes > 1 else part.recorded).items()}
        logits, working = int(part.logits * (passes - part.late)), part.working
        if case.away:
            logits, working = 0, part.working + (0 if part.late else part.logits)
        if passes > 1:  # after the last pass the parts are joined, one site after the other, and the logits
            working += int(sum(part.recorded.values()) * passes) - sum(recorded.values())
            working = max(
                working, int(part.largest * passes), 0 if case.away else int(part.logits * (passes + part.late))
            )
        yield from _sites(case, recorded)
        if part.logits and not case.away:
            columns = "all columns" if case.plan.logits == "all" else f"last columns: {case.plan.logits}"
            later = f"; {size_text(part.logits)} come after the worst moment" if part.late else ""
            yield MemoryRow(what="logits", bytes=logits, note=columns + later)
        if case.plan.grad:
            yield MemoryRow(what="kept for gradients", bytes=part.kept, note="what autograd saves on the way")
        rows = f"{case.batch_size} row{'s' if case.batch_size > 1 else ''}"
        yield MemoryRow(what="working memory", bytes=working, note=f"at the worst moment, {rows} in a pass")

    def _generation(self, case: Case) -> Iterator[MemoryRow]:
        columns = case.tokens.ids.shape[1]
        first = self._rehearsed(case, case.rows, columns)
        whole = self._rehearsed(case, case.rows, columns + case.new - 1)
        yield from _sites(case, whole.joined)
        yield MemoryRow(what="KV cache", bytes=whole.cache, note=f"keys and values of {columns + case.new - 1} columns")
        # Each later pass writes a layer's cache anew, and at the end the parts of one site after the other are joined.
        later = max(whole.cache // self.model.n_layers, whole.largest)
        working = max(first.working + (0 if first.late else first.logits), later)
        yield MemoryRow(
            what="working memory", bytes=working, note="at the worst moment, mostly while the prompt is read"
        )

    def _rehearsed(self, case: Case, rows: int, columns: int) -> Rehearsal:
        plan = case.plan
        how = (case.dtype, case.attention, rows, columns, bool(case.new), case.away, plan.to, str(plan.at), plan.logits)
        if how not in self._known:
            model = self._twins.setdefault((case.dtype, case.attention), None)
            if model is None:
                model = self._twins[case.dtype, case.attention] = twin(self.model, case.dtype, case.attention)
            # On the twin every device is "meta": to record there is to copy, as on the run's own device.
            own = replace(plan, to=None if plan.to is None or case.away else "meta")
            total = len(case.tokens)
            edits = [one for edit in plan.edits if (one := _shaped(edit, case).for_rows(slice(0, rows), total))]
            tokens = _grid(case.tokens, rows, columns)
            self._known[how] = rehearse(model, tokens, own, edits, cache=bool(case.new), away=case.away)
        return self._known[how]


def _sites(case: Case, recorded: dict[str, int]) -> Iterator[MemoryRow]:
    for name, size in recorded.items():
        layers = sum(site.name == name for site in case.plan.reads)
        note = f"recorded in {layers} layers" if layers > 1 else "recorded"
        yield MemoryRow(what=f"site {name}", bytes=size, note=note if size else _free(case))


def _free(case: Case) -> str:
    return f"recorded on {case.plan.to}" if case.away else "shares its memory with another site"


def _shaped(edit: Edit, case: Case) -> Edit:
    """An edit that needs the same memory and no numbers."""
    if edit.function is not None or case.new:
        return replace(edit, op="scale", value=1.0, function=None, over=None, how=None, at=None, rows=None)
    return edit if edit.over is None else replace(edit, value=0.0, over=None, how=None)


def _grid(tokens: Tokens, rows: int, columns: int) -> Tokens:
    mask = torch.ones(rows, columns, dtype=torch.bool)
    mask[:, : tokens.ids.shape[1]] = tokens.mask[:rows]
    return Tokens(torch.zeros(rows, columns, dtype=torch.long), mask)


def _bytes(model: Any, case: Case, tensors: Iterable[Tensor]) -> int:
    def width(x: Tensor) -> int:
        as_loaded = case.dtype == model.dtype or not x.is_floating_point()
        return x.element_size() if as_loaded else case.dtype.itemsize

    return sum(x.numel() * width(x) for x in tensors)


def linears(module: nn.Module) -> list[Any]:
    """The linear layers inside a module."""
    return [part for part in module.modules() if isinstance(part, nn.Linear)]


def dtype_name(dtype: torch.dtype) -> str:
    """ "float32" for torch.float32."""
    return str(dtype).removeprefix("torch.")
