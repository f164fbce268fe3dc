"""Forward passes that start late: everything an edit cannot reach is taken from a pass that was made once.

An edit in layer L at position p changes nothing in earlier layers, and (attention being causal) nothing at earlier
positions. So a sweep runs the unedited rows once, keeps every block's output and the KV cache, and each edited pass

1. skips the blocks below L: block L-1 hands on the kept stream, the ones before it do nothing;
2. runs the columns from p on, against the kept keys and values of the columns before;
3. repeats each row once for each edit, so that many edits of one (L, p) share a pass;
4. leaves out the attention and MLPs that its caller knows to be idle: they hand on what they gave, too;
5. goes on with the last columns only, behind the last attention that runs, where idle ones are named.

Positions are shared only where every layer has an ordinary, growing cache; else each pass runs all columns.
"""

import contextlib
import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property, partial
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

Branch = tuple[int, str]
"""A layer, and "attn" or "mlp"."""


class Resumable:
    """One set of rows, run once, from which edited passes start late.

    Args:
        model: The model.
        tokens: The rows.
        keep: How many of the last columns of the logits are wanted.
        also: Sites to record in the first pass.
        branches: Whether attention and MLPs can be left out by themselves, for which what they gave is kept.

    Attributes:
        logits: Of the unedited rows, the last `keep` columns.
        run: The recorded sites of the unedited rows.
        branches: The attention ("attn") and MLPs ("mlp") of layers that can be left out.
    """

    def __init__(
        self, model: Model, tokens: Tokens, *, keep: int = 1, also: tuple[str, ...] = (), branches: bool = False
    ):
        self.model, self.tokens, self.keep = model, tokens, keep
        self._gave: dict[nn.Module, Any] = {}
        found = _branches(model) if branches else {}
        modules = [block.module for block in model.anatomy.blocks] + list(itertools.chain(*found.values()))
        handles = [module.register_forward_hook(self._record) for module in modules]
        try:
            self.run = model.run(tokens, read=also, logits=keep)
        finally:
            for handle in handles:
                handle.remove()
        self.logits = self.run.logits
        self.branches: dict[Branch, nn.Module] = {}
        for name, (module, last) in found.items():
            # Some return the stream with what they add to it (BLOOM): those must run.
            if last in self._gave and torch.equal(_first(self._gave[module]), _first(self._gave.pop(last))):
                self.branches[name] = module

    def _record(self, module: nn.Module, args: tuple, output: Any) -> None:
        self._gave[module] = output

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
        self, edits: Sequence[Edit], *, layer: int, column: int, repeats: int, idle: Collection[Branch] | None = None
    ) -> Float[Tensor, "batch columns vocab"]:
        """Logits (last `keep` columns) of rows repeated `repeats` times, each with edits of its own.

        Args:
            edits: Of whole sites; a function gets the value for rows [row × repeats + i] and the columns from
                `start(column)` on.
            layer: The first layer that they change.
            column: The first column that they can change.
            repeats: How often each row is repeated.
            idle: Some of `branches`: what they read is not changed, or nobody reads what they give. If it is not None,
                only the last `keep` columns go on behind layer `last_meeting`, and edits there get no others.
        """
        start = self.start(column)
        rows = torch.arange(len(self.tokens)).repeat_interleave(repeats)
        grid = Tokens(self.tokens.ids[rows], self.tokens.mask[rows])
        visit = self.model.visit(grid, Plan(), edits)
        kwargs = self.model.inputs(self.tokens, slice(start, None), rows)
        if start:
            cache = DynamicCache(config=self.model.hf.config)
            for index, (keys, values) in enumerate(self._cache or ()):
                # Where attention does not run, the cache only says how long it is.
                some = rows[:1] if index < layer or (index, "attn") in (idle or ()) else rows
                cache.update(keys[some, :, :start], values[some, :, :start], index)
            kwargs |= {self.model.cache_name: cache, "use_cache": True}
        elif "use_cache" in self.model.takes:
            kwargs["use_cache"] = False
        if "logits_to_keep" in self.model.takes:
            kwargs["logits_to_keep"] = self.keep
        count_forward(len(rows))
        with self.model.instrumented(visit), self._skipping(layer, idle, rows, start):
            logits = self.model.hf(**kwargs).logits
        visit.finish()
        return logits[:, -self.keep :]

    def last_meeting(self, layer: int, idle: Collection[Branch]) -> int:
        """The last layer of a pass in which positions meet: where attention is not idle, or else what the first layer
        that runs stands on."""
        layers = range(layer, self.model.n_layers)
        return max([later for later in layers if (later, "attn") not in idle], default=max(layer - 1, 0))

    @contextlib.contextmanager
    def _skipping(self, layer: int, idle: Collection[Branch] | None, rows: Tensor, start: int) -> Iterator[None]:
        """Blocks below `layer` and idle branches replaced by what they gave; of the others only the columns that are
        needed."""
        blocks = [block.module for block in self.model.anatomy.blocks]
        last = len(blocks) if idle is None else self.last_meeting(layer, idle)
        cut, fill = partial(_last, count=self.keep), partial(_filled, width=self.tokens.ids.shape[1] - start)
        forwards: dict[nn.Module, Callable] = {}
        for index, module in enumerate(blocks[:layer]):
            on = (rows, start if index < last else -self.keep) if index == layer - 1 else None
            forwards[module] = _handing_on(self._gave[module], on)
        for index, name in idle or ():
            module = self.branches[index, name]
            forwards[module] = _handing_on(self._gave[module], (rows, start if index <= last else -self.keep))
        mlp = self.branches.get((last, "mlp"))
        if layer <= last and mlp is not None and mlp not in forwards and not self.model.anatomy.arch.parallel:
            forwards[mlp] = _between(mlp.forward, cut, fill)
        if last < len(blocks) - 1:
            if layer <= last:
                forwards[blocks[last]] = _between(blocks[last].forward, None, cut)
            # Some models give the stream the shape of their input when it has left the last block.
            forwards[blocks[-1]] = _between(blocks[-1].forward, None, fill)
        own = {module: module.__dict__.get("forward") for module in forwards}
        for module, forward in forwards.items():
            module.__dict__["forward"] = forward
        try:
            yield
        finally:
            for module, forward in own.items():
                if forward is None:
                    del module.__dict__["forward"]
                else:
                    module.__dict__["forward"] = forward


def _branches(model: Model) -> dict[Branch, tuple[nn.Module, nn.Module]]:
    """The attention and MLP of each layer, and what is last in them."""
    found = {}
    for block in model.anatomy.blocks:
        for name, module, last in (("attn", block.attn, "o"), ("mlp", block.parts.get("mlp"), "down")):
            if module is not None and last in block.parts:
                found[block.index, name] = module, block.parts[last]
    return found


def _handing_on(gave: Any, on: tuple[Tensor, int] | None) -> Callable:
    """A forward that gives some rows of what was given before, from a column on; or else what enters."""
    kept = None if on is None else _first(gave)[on[0], on[1] :]

    def forward(*args: Any, **kwargs: Any) -> Any:
        x = kept if kept is not None else args[0] if args else kwargs["hidden_states"]
        return (x, None) if isinstance(gave, tuple) else x

    return forward


def _between(own: Callable, before: Callable | None, after: Callable) -> Callable:
    """A forward with something done to the tensor that enters, and to the one that leaves."""

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        output = own(before(x) if before else x, *args, **kwargs)
        return (after(output[0]), *output[1:]) if isinstance(output, tuple) else after(output)

    return forward


def _last(x: Tensor, *, count: int) -> Tensor:
    return x[:, -count:]


def _filled(x: Tensor, *, width: int) -> Tensor:
    """0 in the columns that nothing computed."""
    return nn.functional.pad(x, (0, 0, width - x.shape[1], 0))


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output
