"""Forward passes that start late: everything an edit cannot reach is taken from a pass that was made once.

An edit in layer L at position p changes nothing in earlier layers, and (attention being causal) nothing at earlier
positions. So a sweep runs the unedited rows once, keeps every block's output and the KV cache, and each edited pass

1. skips the blocks below L: block L-1 hands on the kept stream, the ones before it do nothing;
2. runs the columns from p on, against the kept keys and values of the columns before;
3. repeats each row once for each edit, so that many edits of one (L, p) share a pass.

Positions are shared only where every layer has an ordinary, growing cache; else each pass runs all columns.
"""

import contextlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from digsite._core.cost import count_forward
from digsite.models.edits import Edit
from digsite.models.model import Model
from digsite.models.plan import Plan
from digsite.models.tokens import Tokens


class Resumable:
    """One set of rows, run once, from which edited passes start late.

    Args:
        model: The model.
        tokens: The rows.
        keep: How many of the last columns of the logits are wanted.
        also: Sites to record in the first pass.

    Attributes:
        logits: Of the unedited rows, the last `keep` columns.
        run: The recorded sites of the unedited rows.
    """

    def __init__(self, model: Model, tokens: Tokens, *, keep: int = 1, also: tuple[str, ...] = ()):
        self.model, self.tokens, self.keep = model, tokens, keep
        self._ends: list[Any] = [None] * model.n_layers
        handles = [
            block.module.register_forward_hook(_recorder(self._ends, block.index)) for block in model.anatomy.blocks
        ]
        try:
            self.run = model.run(tokens, read=also, logits=keep)
        finally:
            for handle in handles:
                handle.remove()
        self.logits = self.run.logits

    @cached_property
    def _cache(self) -> list[tuple[Tensor, Tensor]] | None:
        model = self.model
        if "use_cache" not in model.takes or model.anatomy.arch.tapped or not model.n_heads:
            return None
        cache = DynamicCache(config=model.hf.config)
        visit = model.visit(self.tokens, Plan(), [])
        kwargs = model.inputs(self.tokens, slice(None))
        count_forward(len(self.tokens))
        with model.instrumented(visit):
            model.hf(**kwargs, use_cache=True, **{model.cache_name: cache})
        if any(type(layer) is not DynamicLayer for layer in cache.layers):
            return None
        kept: list[Any] = cache.layers
        return [(layer.keys, layer.values) for layer in kept]

    def start(self, column: int) -> int:
        """The column at which a pass begins whose edits change nothing before `column`."""
        column = min(column, self.tokens.ids.shape[1] - self.keep)
        return column if column and self._cache is not None else 0

    @torch.no_grad()
    def edited(
        self, edits: Sequence[Edit], *, layer: int, column: int, repeats: int
    ) -> Float[Tensor, "batch columns vocab"]:
        """Logits (last `keep` columns) of rows repeated `repeats` times, each with edits of its own.

        Args:
            edits: Of whole sites; a function gets the value for rows [row × repeats + i] and the columns from
                `start(column)` on.
            layer: The first layer that they change.
            column: The first column that they can change.
            repeats: How often each row is repeated.
        """
        start = self.start(column)
        rows = torch.arange(len(self.tokens)).repeat_interleave(repeats)
        grid = Tokens(self.tokens.ids[rows], self.tokens.mask[rows])
        visit = self.model.visit(grid, Plan(), edits)
        kwargs = self.model.inputs(self.tokens, slice(start, None), rows)
        if start:
            cache = DynamicCache(config=self.model.hf.config)
            for index, (keys, values) in enumerate(self._cache or ()):
                cache.update(keys[rows, :, :start], values[rows, :, :start], index)
            kwargs |= {self.model.cache_name: cache, "use_cache": True}
        elif "use_cache" in self.model.takes:
            kwargs["use_cache"] = False
        if "logits_to_keep" in self.model.takes:
            kwargs["logits_to_keep"] = self.keep
        count_forward(len(rows))
        with self.model.instrumented(visit), self._skipping(layer, rows, start):
            logits = self.model.hf(**kwargs).logits
        visit.finish()
        return logits[:, -self.keep :]

    @contextlib.contextmanager
    def _skipping(self, layer: int, rows: Tensor, start: int) -> Iterator[None]:
        """The blocks below `layer` replaced by what they gave."""
        skipped = [block.module for block in self.model.anatomy.blocks[:layer]]
        own = [module.__dict__.get("forward") for module in skipped]
        for index, module in enumerate(skipped):
            last = index == layer - 1
            stream = _first(self._ends[index])[rows, start:] if last else None
            module.__dict__["forward"] = _handing_on(stream, isinstance(self._ends[index], tuple))
        try:
            yield
        finally:
            for module, forward in zip(skipped, own, strict=True):
                if forward is None:
                    del module.__dict__["forward"]
                else:
                    module.__dict__["forward"] = forward


def _recorder(ends: list[Any], index: int) -> Any:
    def hook(module: nn.Module, args: tuple, output: Any) -> None:
        ends[index] = output

    return hook


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _handing_on(stream: Tensor | None, as_tuple: bool) -> Any:  # noqa: FBT001
    def forward(*args: Any, **kwargs: Any) -> Any:
        x = stream if stream is not None else args[0] if args else kwargs["hidden_states"]
        return (x, None) if as_tuple else x

    return forward
