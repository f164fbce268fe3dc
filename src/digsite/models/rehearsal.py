"""A rehearsal of a run: the same code on tensors that have a shape and no data, with every byte counted.

1. `weightless` builds the architecture from its config on PyTorch's meta device: no weights are made and none are read.
2. The run's own code is executed on it: Hugging Face's forward, the acts at sites, the edits, autograd.
3. `Alive` meets every operation, adds the bytes of each new storage, takes them away when it is freed, and keeps the
   highest sum. Tensors that share a storage are counted once.

So no formula has to know an architecture. What PyTorch's kernels use inside themselves is not seen.
"""

import contextlib
import copy
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from digsite.models._adapters import architecture
from digsite.models.anatomy import dissect
from digsite.models.edits import Edit
from digsite.models.plan import Plan
from digsite.models.tokens import Tokens
from digsite.models.visit import StopForward, Visit

_ATEN = torch.ops.aten


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """Bytes of one pass, weights aside.

    Attributes:
        recorded: Of what it recorded, by site name (a storage counts for the first site that holds it).
        joined: The same when parts of several passes are joined, and every site gets a storage of its own.
        largest: Of the largest single one of these.
        logits: Of the logits that it returned.
        late: The logits were made after the worst moment.
        kept: Of what autograd keeps for the backward pass.
        cache: Of the KV cache.
        peak: The most at one moment, all of the above included.
    """

    recorded: dict[str, int]
    joined: dict[str, int]
    largest: int
    logits: int
    late: bool
    kept: int
    cache: int
    peak: int

    @property
    def working(self) -> int:
        """What is there at the worst moment on top of what stays."""
        return self.peak - sum(self.recorded.values()) - (0 if self.late else self.logits) - self.kept - self.cache


class Alive(TorchDispatchMode):
    """Counts the bytes of tensors that are alive while it is on.

    Attributes:
        now: Bytes alive.
        peak: The most so far.
    """

    def __init__(self, known: Iterable[Tensor] = ()):
        super().__init__()
        self.now, self.peak = 0, 0
        self._made, self._made_at_peak = 0, 0
        self._births = {tensor.untyped_storage()._cdata: 0 for tensor in known}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is _ATEN._local_scalar_dense.default:
            # Models ask their masks and positions whether a shortcut is allowed; ordinary inputs allow it.
            return True if args[0].dtype is torch.bool else 1
        if func is _ATEN._grouped_mm.default:  # without data it would take bfloat16 only
            made = args[0].new_empty(args[0].shape[0], args[1].shape[-1])
        else:
            made = func(*args, **(kwargs or {}))
        for tensor in (made,) if isinstance(made, Tensor) else tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: Any) -> None:
        name, size = storage._cdata, storage.nbytes()
        if name in self._births:
            return
        self._made += 1
        self._births[name] = self._made
        self.now += size
        if self.now > self.peak:
            self.peak, self._made_at_peak = self.now, self._made
        weakref.finalize(storage, self._gone, name, size)

    def _gone(self, name: int, size: int) -> None:
        del self._births[name]
        self.now -= size

    def late(self, tensor: Tensor) -> bool:
        """Whether a tensor was made after the worst moment."""
        return self._births.get(tensor.untyped_storage()._cdata, 0) > self._made_at_peak


class Fused(TorchFunctionMode):
    """Fused attention as real devices run it: without data PyTorch would form the scores."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            return _ATEN._scaled_dot_product_flash_attention(*args[:3])[0]
        return func(*args, **(kwargs or {}))


def weightless(build: Callable[..., Any], config: Any, dtype: torch.dtype, attention: str) -> Any:
    """A model without weights.

    Args:
        build: Makes the model from a config (`AutoModelForCausalLM.from_config`, or a class's own).
        config: Its config; not changed.
        dtype: The dtype that its parameters would have.
        attention: "eager" or "sdpa".
    """
    config = copy.deepcopy(config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        hf = build(config, dtype=dtype, attn_implementation=attention)
    hf.requires_grad_(requires_grad=False)
    return hf.eval()


@contextlib.contextmanager
def solid_norms(hf: Any):
    """Norms with numbers for a while, because a norm's formula is found by asking it."""
    norms = [module for module in hf.modules() if _vectors_only(module)]
    for module in norms:
        module.to_empty(device="cpu")
        for parameter in module.parameters():
            nn.init.ones_(parameter)
    try:
        yield
    finally:
        for module in norms:
            module.to("meta")


def _vectors_only(module: nn.Module) -> bool:
    own = list(module.parameters(recurse=False))
    return bool(own) and not list(module.children()) and all(parameter.ndim == 1 for parameter in own)


def twin(model: Any, dtype: torch.dtype, attention: str) -> Any:
    """A `Model` like this one, without weights; itself where it has none."""
    if model.device.type == "meta" and (model.dtype, model.attention) == (dtype, attention):
        return model
    hf = weightless(type(model.hf)._from_config, model.hf.config, dtype, attention)
    arch, in_table = architecture(hf)
    with solid_norms(hf):
        anatomy = dissect(hf, arch, in_table=in_table, fused=attention == "sdpa")
    made = type(model)(hf, None, anatomy, name=model.name, revision=None, attention=attention)
    made.snapshots = model.snapshots
    return made


def rehearse(model: Any, tokens: Tokens, plan: Plan, edits: Sequence[Edit], *, cache: bool, away: bool) -> Rehearsal:
    """Runs a plan on a model without weights.

    Args:
        model: Made by `twin`.
        tokens: Their ids do not matter.
        plan: The plan; `to` must be None.
        edits: Its edits for these rows.
        cache: Fill a KV cache.
        away: What is recorded goes to another device.
    """
    visit = model.visit(tokens, plan, edits)
    if away:
        visit.keep, visit.plain = (lambda key, x: x.new_empty(0)), False
    alive = Alive((*model.hf.parameters(), *model.hf.buffers()))
    output = logits = None
    with alive, Fused(), model.instrumented(visit, adapters=plan.adapters):
        with contextlib.suppress(StopForward):
            output = model.hf(**_arguments(model, tokens, plan, visit, cache))
            logits = output.logits
        visit.scratch.clear()
        visit.split = (None, ())
        overwritten = visit.overwritten()
        stored = _cache_bytes(getattr(output, model.cache_name, None)) if cache else 0
        output = None
        rest = alive.now
        if plan.grad:
            _backward(visit, logits)
    if overwritten and not away:
        model.snapshots |= frozenset(overwritten)  # as verify would have found with data
        return rehearse(model, tokens, plan, edits, cache=cache, away=away)
    recorded, joined, held = _recorded(visit)
    size = _new_bytes(logits, held) if logits is not None and plan.logits is not None else 0
    return Rehearsal(
        recorded=recorded,
        joined=joined,
        largest=max((x.nbytes for x in (*visit.got.values(), *visit.got_heads.values())), default=0),
        logits=size,
        late=bool(size) and alive.late(logits),  # pyright: ignore[reportArgumentType]
        kept=rest - sum(recorded.values()) - size if plan.grad else 0,
        cache=stored,
        peak=alive.peak,
    )


def _arguments(model: Any, tokens: Tokens, plan: Plan, visit: Visit, cache: bool) -> dict[str, Any]:  # noqa: FBT001
    made = model.inputs(tokens)
    if "use_cache" in model.takes:
        made["use_cache"] = cache
    if isinstance(plan.logits, int) and "logits_to_keep" in model.takes and not visit.wants((None, "logits")):
        made["logits_to_keep"] = plan.logits
    return made


def _backward(visit: Visit, logits: Tensor | None) -> None:
    """The gradient of one logit of each row (or of the last read) with respect to everything that was read."""
    sources = [x for x in (*visit.got.values(), *visit.got_heads.values()) if x.requires_grad]
    if sources:
        metric = sources[-1].sum() if logits is None else logits[:, -1, 0].sum()
        torch.autograd.grad(metric, sources, allow_unused=True)


def _cache_bytes(cache: Any) -> int:
    """What the layers of a KV cache hold (a window that is a view of more is copied at the next token)."""
    return sum(x.nbytes for layer in getattr(cache, "layers", ()) for x in tree_leaves(vars(layer)) if isinstance(x, Tensor))


def _recorded(visit: Visit) -> tuple[dict[str, int], dict[str, int], set[int]]:
    held: set[int] = set()
    sizes: dict[str, int] = {}
    joined: dict[str, int] = {}
    for (_, name), x in (*visit.got.items(), *((key, x) for (key, _), x in visit.got_heads.items())):
        sizes[name] = sizes.get(name, 0) + _new_bytes(x, held)
        joined[name] = joined.get(name, 0) + x.nbytes
    return sizes, joined, held


def _new_bytes(x: Tensor, held: set[int]) -> int:
    storage = x.untyped_storage()
    if storage._cdata in held:
        return 0
    held.add(storage._cdata)
    return storage.nbytes()
