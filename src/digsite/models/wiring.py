"""Acts around the forwards of single modules, for the length of one run.

1. The acts of both sides of a module become one function that shadows `forward` in that module's own attributes. A
   PyTorch hook does the same at about ten times the cost: it is registered, and it sends every call of its module down
   a slower path. Where launching small operations is what a model waits for (small models, GPUs), that is what one
   would feel.
2. A module that already has forward hooks of its owner gets PyTorch's hooks, because those run after `forward`, and a
   site is what the model goes on with. So does the whole model, whose signature generation looks at.
3. A function acts for the visit it was made for; runs inside runs do not meet.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from digsite.models.visit import VISIT, Visit

Act = Callable[[Visit, Tensor], Tensor]


class Wire(NamedTuple):
    """What happens to the tensors that cross the boundary of one module."""

    module: nn.Module
    before: tuple[Act, ...]
    after: tuple[Act, ...]
    whole: bool
    """The whole model: its output is an object with logits."""


def wires(sides: Sequence[tuple[nn.Module, str, Sequence[Act]]], hf: nn.Module) -> list[Wire]:
    """The acts of each side of a module, joined by module."""
    joined: dict[nn.Module, tuple[list[Act], list[Act]]] = {}
    for module, side, acts in sides:
        joined.setdefault(module, ([], []))[side == "out"].extend(acts)
    return [Wire(module, tuple(before), tuple(after), module is hf) for module, (before, after) in joined.items()]


@contextlib.contextmanager
def wired(wires: Sequence[Wire], visit: Visit) -> Iterator[None]:
    """The modules with their acts, and as they were when the block ends."""
    shadowed: list[tuple[dict[str, Any], Any]] = []
    handles = []
    try:
        for module, before, after, whole in wires:
            if whole or module._forward_hooks:
                handles += _hooked(module, before, after, visit)
                continue
            own = module.__dict__.get("forward")  # sharded models carry a forward of their own
            shadowed.append((module.__dict__, own))
            module.__dict__["forward"] = _shadow(own or module.forward, before, after, visit)
        yield
    finally:
        for attributes, own in reversed(shadowed):
            if own is None:
                del attributes["forward"]
            else:
                attributes["forward"] = own
        for handle in handles:
            handle.remove()


def _shadow(forward: Callable, before: tuple[Act, ...], after: tuple[Act, ...], visit: Visit) -> Callable:
    def shadow(*args, **kwargs):
        if VISIT.get() is not visit:
            return forward(*args, **kwargs)
        if before:
            args, kwargs = _entering(visit, before, args, kwargs)
        output = forward(*args, **kwargs)
        return _leaving(visit, after, output) if after else output

    return shadow


def _hooked(module: nn.Module, before: tuple[Act, ...], after: tuple[Act, ...], visit: Visit) -> Iterator[Any]:
    def entering(module: nn.Module, args: tuple, kwargs: dict):
        return _entering(visit, before, args, kwargs) if VISIT.get() is visit else None

    def leaving(module: nn.Module, args: tuple, output: Any):
        return _leaving(visit, after, output) if VISIT.get() is visit else None

    if before:
        yield module.register_forward_pre_hook(entering, with_kwargs=True)
    if after:
        yield module.register_forward_hook(leaving)


def _entering(visit: Visit, acts: tuple[Act, ...], args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """The arguments of a module after the acts; the tensor that enters comes first, or by name."""
    if args:
        raw = x = args[0]
        for act in acts:
            x = act(visit, x)
        return (args if x is raw else (x, *args[1:])), kwargs
    name = "hidden_states" if "hidden_states" in kwargs else next(iter(kwargs))
    raw = x = kwargs[name]
    for act in acts:
        x = act(visit, x)
    return args, (kwargs if x is raw else {**kwargs, name: x})


def _leaving(visit: Visit, acts: tuple[Act, ...], output: Any) -> Any:
    """The output of a module after the acts; the tensor that leaves is it, or comes first in it, or is its logits."""
    if isinstance(output, Tensor):
        for act in acts:
            output = act(visit, output)
        return output
    first = isinstance(output, tuple)
    raw = x = output[0] if first else output.logits
    for act in acts:
        x = act(visit, x)
    if x is raw:
        return output
    if first:
        return (x, *output[1:])
    output.logits = x
    return output


def leaf(visit: Visit, raw: Tensor) -> Tensor:
    """An act that starts the autograd graph here when the parameters are frozen."""
    return raw if raw.requires_grad else raw.detach().requires_grad_()
