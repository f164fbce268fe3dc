"""Reading and editing inside attention, without reimplementing it.

1. One function per base implementation is registered with transformers' attention interface ("digsite" runs the
   architecture's own `eager_attention_forward`; "digsite_sdpa" runs transformers' sdpa function).
2. It visits the queries and keys it was given (after qk-norm and rotary embedding).
3. It runs the original's code with a `softmax` and a `matmul` that report to the visit: the input of the first softmax
   is the scores, the first factor of the matrix product after it is the pattern.
4. Code that calls others of that kind runs under `Tap`, which sees every operation and slows each down. Attention that
   is not on the interface gets the tap around its module's forward; there the matrix product before the softmax shows
   queries and keys.

Outside a run the registered functions are never reached: a run switches the implementation on, and back when it ends.
"""

import contextlib
import dis
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import cache
from itertools import pairwise
from types import FunctionType, ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from digsite.models.visit import VISIT, Visit

EAGER, SDPA = "digsite", "digsite_sdpa"
INSIDE = ("attn.q_rot", "attn.k_rot", "attn.scores", "attn.pattern")

_CHOICE = "_attn_implementation_internal"
_SOFTMAX = {F.softmax, torch.softmax, torch.Tensor.softmax}
_MATMUL = {torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.bmm, torch.Tensor.bmm}
_BADDBMM = {torch.baddbmm, torch.Tensor.baddbmm}
_INSIDE: ContextVar["Inside | None"] = ContextVar("inside", default=None)


class Inside:
    """One call of attention as it goes on: the scores meet the softmax, then the pattern meets the values."""

    __slots__ = ("keys", "layer", "next", "visit")

    def __init__(self, visit: Visit, layer: int, keys: int | None):
        self.visit, self.layer, self.keys = visit, layer, keys
        self.next = "softmax"

    def scores(self, raw: Tensor) -> Tensor:
        """What the softmax must go on with."""
        self.next = "pattern"
        key = (self.layer, "attn.scores")
        if not self.visit.wants(key):
            return raw
        extra = raw.shape[-1] - self.keys if self.keys is not None else 0  # attention sinks, as one more column
        seen = raw[..., :-extra] if extra else raw
        kept = self.visit(key, seen)
        if kept is seen and not self.visit.grad:
            return raw
        return torch.cat((kept, raw[..., -extra:]), -1) if extra else kept

    def pattern(self, raw: Tensor) -> Tensor:
        """What the product with the values must go on with."""
        self.next = "nothing"
        key = (self.layer, "attn.pattern")
        if not self.visit.wants(key):
            return raw
        seen = raw.unflatten(0, (self.visit.batch, -1)) if raw.ndim == 3 else raw
        kept = self.visit(key, seen)
        return raw if kept is seen and not self.visit.grad else kept.reshape(raw.shape)


class Tap(TorchFunctionMode):
    """Meets, in order, the product of queries and keys (legacy modules), the softmax, and the product with v."""

    def __init__(self, inside: Inside, *, legacy: bool):
        super().__init__()
        self.inside, self.visit, self.layer = inside, inside.visit, inside.layer
        if legacy:
            inside.next = "product"

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, inside = kwargs or {}, self.inside
        if inside.next == "product" and (func in _MATMUL or func in _BADDBMM):
            done = self._product(func, args, kwargs)
            if done is not None:
                inside.next = "softmax"
                return func(*done[0], **done[1])
        elif inside.next == "softmax" and func in _SOFTMAX:
            return func(inside.scores(args[0]), *args[1:], **kwargs)
        elif inside.next == "pattern" and func in _MATMUL:
            return func(inside.pattern(args[0]), *args[1:], **kwargs)
        return func(*args, **kwargs)

    def _product(self, func: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """The arguments of the product of queries [.., dst, d_head] and keys [.., d_head, src], visited."""
        if func in _BADDBMM:
            names = ("batch1", "batch2")
            query, key = (kwargs.get(name, args[i + 1] if len(args) > i + 1 else None) for i, name in enumerate(names))
        else:
            query, key = args[0], args[1]
        if query is None or key is None or query.ndim < 3 or key.ndim < 3:
            return None  # a linear layer written as a product
        self.inside.keys = key.shape[-1]
        query = self._heads("attn.q_rot", query, transposed=False)
        key = self._heads("attn.k_rot", key, transposed=True)
        if func not in _BADDBMM:
            return (query, key, *args[2:]), kwargs
        if "batch1" in kwargs:
            return args, {**kwargs, "batch1": query, "batch2": key}
        return (args[0], query, key, *args[3:]), kwargs

    def _heads(self, site: str, raw: Tensor, *, transposed: bool) -> Tensor:
        key = (self.layer, site)
        if not self.visit.wants(key):
            return raw
        x = raw.transpose(-1, -2) if transposed else raw
        four = x.unflatten(0, (self.visit.batch, -1)) if x.ndim == 3 else x
        seen = four.transpose(1, 2)
        kept = self.visit(key, seen)
        if kept is seen and not self.visit.grad:
            return raw
        back = kept.transpose(1, 2).reshape(x.shape)
        return back.transpose(-1, -2) if transposed else back


class _Namespace:
    """A Python module with other things behind some of its names."""

    def __init__(self, real: Any, **other: Any):
        self.__dict__.update(other)
        self._real = real

    def __getattr__(self, name: str) -> Any:
        value = self.__dict__[name] = getattr(self._real, name)
        return value


def _reporting_softmax(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    inside = _INSIDE.get()
    if inside is not None and inside.next == "softmax":
        input = inside.scores(input)
    return F.softmax(input, *args, **kwargs)


def _reporting_matmul(input: Tensor, other: Tensor) -> Tensor:
    inside = _INSIDE.get()
    if inside is not None and inside.next == "pattern":
        input = inside.pattern(input)
    return torch.matmul(input, other)


@cache
def _reporting(eager: Callable) -> Callable | None:
    """The code of an attention function with a softmax and a product that report; None where it calls others."""
    if not isinstance(eager, FunctionType):
        return None
    called = {(where.argval, name.argval) for where, name in pairwise(dis.get_instructions(eager))}
    if not {("functional", "softmax"), ("F", "softmax")} & called or ("torch", "matmul") not in called:
        return None
    functional = _Namespace(F, softmax=_reporting_softmax)
    ours = {
        F: functional,
        nn: _Namespace(nn, functional=functional),
        torch: _Namespace(torch, matmul=_reporting_matmul),
    }
    scope = {name: ours.get(x, x) if isinstance(x, ModuleType) else x for name, x in eager.__globals__.items()}
    return FunctionType(eager.__code__, scope, eager.__name__, eager.__defaults__, eager.__closure__)


def _visited(visit: Visit, layer: int, site: str, x: Tensor) -> Tensor:
    key = (layer, site)
    if not visit.wants(key):
        return x
    seen = x.transpose(1, 2)
    kept = visit(key, seen)
    return x if kept is seen and not visit.grad else kept.transpose(1, 2)


def attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any):
    """The architecture's own eager attention, under a tap where a run asks for what is inside."""
    eager = sys.modules[type(module).__module__].eager_attention_forward
    visit = VISIT.get()
    layer = None if visit is None else visit.layer_of.get(module)
    if visit is None or layer is None:
        return eager(module, query, key, value, attention_mask, **kwargs)
    query, key = _visited(visit, layer, "attn.q_rot", query), _visited(visit, layer, "attn.k_rot", key)
    if not (visit.wants((layer, "attn.scores")) or visit.wants((layer, "attn.pattern"))):
        return eager(module, query, key, value, attention_mask, **kwargs)
    inside, reporting = Inside(visit, layer, key.shape[-2]), _reporting(eager)
    if reporting is None:
        with Tap(inside, legacy=False):
            return eager(module, query, key, value, attention_mask, **kwargs)
    token = _INSIDE.set(inside)
    try:
        return reporting(module, query, key, value, attention_mask, **kwargs)
    finally:
        _INSIDE.reset(token)


def attend_sdpa(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
):
    """Transformers' sdpa attention; queries and keys are sites, scores and pattern never exist."""
    visit = VISIT.get()
    layer = None if visit is None else visit.layer_of.get(module)
    if visit is not None and layer is not None:
        query, key = _visited(visit, layer, "attn.q_rot", query), _visited(visit, layer, "attn.k_rot", key)
    return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, **kwargs)


ALL_ATTENTION_FUNCTIONS.register(EAGER, attend)
ALL_ATTENTION_FUNCTIONS.register(SDPA, attend_sdpa)
# Without these two lines transformers silently builds no causal mask for a name it does not know.
ALL_MASK_ATTENTION_FUNCTIONS.register(EAGER, eager_mask)
ALL_MASK_ATTENTION_FUNCTIONS.register(SDPA, sdpa_mask)


def on_interface(module: nn.Module) -> bool:
    """Whether a module's attention goes through transformers' attention interface."""
    source = sys.modules[type(module).__module__]
    return hasattr(source, "eager_attention_forward") and hasattr(source, "ALL_ATTENTION_FUNCTIONS")


@contextlib.contextmanager
def switched(configs: list[Any], name: str) -> Iterator[None]:
    """The registered attention for the length of a run; the user's own choice is back afterwards."""
    attributes = [vars(config) for config in configs]  # a config's own setter is slow
    before = [own[_CHOICE] for own in attributes]
    for own in attributes:
        own[_CHOICE] = name
    try:
        yield
    finally:
        for own, implementation in zip(attributes, before, strict=True):
            own[_CHOICE] = implementation


@contextlib.contextmanager
def tapped(module: nn.Module, visit: Visit, layer: int) -> Iterator[None]:
    """A tap around the forward of attention that is not on the interface."""
    forward = module.forward

    def under_tap(*args, **kwargs):
        with Tap(Inside(visit, layer, None), legacy=True):
            return forward(*args, **kwargs)

    own = module.__dict__.get("forward")  # sharded models carry a forward of their own
    module.__dict__["forward"] = under_tap
    try:
        yield
    finally:
        if own is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = own
