"""What a visit needs around the model: put up for the length of a pass, taken down whatever happens.

1. The acts that serve some sites are compiled into wires, once for each set of sites.
2. Attention is switched to the registered function, or tapped where it is not on transformers' interface.
3. Adapters are switched off where a run wants the model without them.
"""

import contextlib
from collections.abc import Iterator
from functools import lru_cache
from threading import RLock
from typing import Any

import torch
from torch import nn

from digsite.models import attention
from digsite.models.anatomy import Anatomy
from digsite.models.visit import VISIT, Key, Visit
from digsite.models.wiring import Wire, leaf, wired, wires


class Instrument:
    """One Hugging Face model, and everything that can be put around it.

    Args:
        hf: The model.
        anatomy: Where its parts are.
        attention: "eager" or "sdpa".
    """

    def __init__(self, hf: Any, anatomy: Anatomy, attention: str):
        self.hf, self.anatomy, self.attention = hf, anatomy, attention
        self._configs = _configs(hf)
        self._one_at_a_time = RLock()
        self._wires = lru_cache(maxsize=256)(self._compile)

    @contextlib.contextmanager
    def around(self, visit: Visit, *, adapters: bool = True) -> Iterator[None]:
        """The model with what one visit needs around it, and as it was when the block ends. Other threads wait."""
        with (
            self._one_at_a_time,
            wired(self._wires(visit.wanted, visit.grad), visit),
            self._attending(visit),
            contextlib.nullcontext() if adapters else _adapters_off(self.hf),
            torch.inference_mode(mode=False),  # its tensors keep no version, by which overwriting is noticed
            torch.set_grad_enabled(visit.grad),
        ):
            token = VISIT.set(visit)
            try:
                yield
            finally:
                VISIT.reset(token)

    def plain(self) -> contextlib.AbstractContextManager[None]:
        """The model by itself, with the attention that runs have."""
        return attention.switched(self._configs, self.attention)

    def _attending(self, visit: Visit) -> contextlib.AbstractContextManager:
        """Attention as a visit needs it: on the interface the registered function, elsewhere taps."""
        if not self.anatomy.arch.tapped:
            name = attention.EAGER if self.attention == "eager" else attention.SDPA
            return attention.switched(self._configs, name)
        with contextlib.ExitStack() as stack:
            for layer in {key[0] for key in visit.wanted if key in self.anatomy.inside}:
                block = self.anatomy.blocks[layer]  # pyright: ignore[reportArgumentType,reportCallIssue]
                assert block.attn is not None
                stack.enter_context(attention.tapped(block.attn, visit, block.index))
            stack.enter_context(self.plain())
            return stack.pop_all()

    def _compile(self, keys: frozenset[Key], grad: bool) -> list[Wire]:  # noqa: FBT001 - a cache key
        starts = (self.anatomy.embed, self.anatomy.pos_embed) if grad else ()
        leaves = [(module, "out", [leaf]) for module in starts if module is not None]
        return wires([*leaves, *self.anatomy.compiled(keys)], self.hf)


@contextlib.contextmanager
def _adapters_off(hf: nn.Module) -> Iterator[None]:
    layers = [module for module in hf.modules() if hasattr(module, "_disable_adapters")]
    before = [layer._disable_adapters for layer in layers]
    for layer in layers:
        vars(layer)["_disable_adapters"] = True
    try:
        yield
    finally:
        for layer, value in zip(layers, before, strict=True):
            vars(layer)["_disable_adapters"] = value


def _configs(hf: Any) -> list[Any]:
    """Every config object that decides on attention inside a model, each once."""
    found: dict[int, Any] = {}
    for module in hf.modules():
        config = getattr(module, "config", None)
        if hasattr(config, "_attn_implementation_internal"):
            found[id(config)] = config
    return list(found.values())
