"""The contracts that make sites trustworthy, each a number measured on the model itself.

A contract compares what was read at one site with what other sites, the weights or the plain model say it must be. The
allowance is the rounding of the dtype, never a taste. What a layer has no parts for does not apply, with the reason.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from digsite._core.errors import Unsupported
from digsite.models.block import Block
from digsite.models.norms import Norm

MEANING: Mapping[str, str] = {
    "fires": "a site is never reached, or what crosses there is not what the site says",
    "reads": "reading changes the logits, so what is read is not what the model computes alone",
    "writes": "writing back what was read changes the logits, so an edit would do more than the edit",
    "causal": "an edit of a site leaves the logits alone, or changes those of earlier positions",
    "embedding": "embed and pos_embed are not what enters the stream",
    "stream": "resid_pre + attn.out + mlp.out is not resid_post: something else is added, or these are not what is",
    "middle": "resid_mid is not what the MLP reads",
    "norms": "the normalised stream is not (x - mean?) / scale * gain + bias",
    "projections": "W_Q, W_K and W_V do not make attn.q, attn.k and attn.v",
    "meeting": "attn.q and attn.k are not what meets at position 0: queries, keys or their heads are mixed up",
    "pattern": "attn.pattern is not the softmax of attn.scores over the past",
    "mixing": "attn.z is not attn.pattern @ attn.v: values or heads are mixed up",
    "heads": "attn.result does not add up to attn.out",
    "neurons": "mlp.gate, mlp.up and mlp.act, or W_in, W_gate and W_out, are not those of the neurons",
    "readout": "final norm and unembedding do not make the logits",
}
"""Every contract, and what it means when it is broken."""

_SINGLE = torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Contract:
    """One contract, measured in one place.

    Attributes:
        name: A key of `MEANING`.
        layer: Where; None for the whole model.
        difference: Of what was found from what must be; None where the contract does not apply.
        tolerance: How much rounding may account for.
        note: Why it does not apply, or what was seen.
    """

    name: str
    layer: int | None
    difference: float | None
    tolerance: float = 0.0
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether it holds (NaN does not), or does not apply."""
        return self.difference is None or self.difference <= self.tolerance


class Layer:
    """What was read in one layer."""

    def __init__(self, model: Any, block: Block, run: Any):
        self.model, self.block, self.run, self.index = model, block, run, block.index
        self.eps = rounding(self["resid_post"])

    def __contains__(self, name: str) -> bool:
        return self.model.anatomy.has((self.index, name))

    def __getitem__(self, name: str) -> Tensor:
        return self.run[f"layers.{self.index}.{name}"]

    def missing(self, *names: str) -> str:
        """Why one of these sites is not in this layer; empty where all are."""
        absent = [name for name in names if name not in self]
        return self.model.anatomy.refused.get((self.index, absent[0]), f"no {absent[0]}") if absent else ""

    def judged(self, name: str, made: Tensor, seen: Tensor, allowed: Tensor) -> Contract:
        """The contract at the element that uses up most of its allowance."""
        return judged(name, self.index, made, seen, allowed)

    def skipped(self, name: str, why: str) -> Contract:
        """The contract where it does not apply."""
        return Contract(name, self.index, None, note=why)


def rounding(x: Tensor) -> float:
    """The relative rounding of one operation on a tensor of this dtype and device."""
    tensor_cores = x.is_cuda and torch.get_float32_matmul_precision() != "highest"
    return max(float(torch.finfo(x.dtype).eps), 2.0**-10 if tensor_cores else _SINGLE)


def judged(name: str, layer: int | None, made: Tensor, seen: Tensor, allowed: Tensor) -> Contract:
    """The contract at the element that uses up most of its allowance (which broadcasts against the difference)."""
    gap = (made.float().cpu() - seen.float().cpu()).abs()
    allowed = allowed.float().cpu().expand_as(gap) + torch.finfo(torch.float32).tiny
    worst = int((gap / allowed).nan_to_num(math.inf).argmax())
    return Contract(name, layer, float(gap.flatten()[worst]), float(allowed.flatten()[worst]))


def largest(x: Tensor) -> Tensor:
    """The largest magnitude along the last axis."""
    return x.float().abs().amax(-1, keepdim=True)


def layer_contracts(layer: Layer) -> Iterator[Contract]:
    """Every contract of one layer."""
    for contract in (stream, middle, norms, projections, meeting, pattern, mixing, heads, neurons):
        try:
            yield from contract(layer)
        except Unsupported:
            yield layer.skipped(contract.__name__, "its weights are quantised")


def stream(layer: Layer) -> Iterator[Contract]:
    """What the block adds to the stream, and nothing else."""
    why = layer.missing("attn.out", "mlp.out")
    if layer.model.anatomy.arch.post_norm:
        why = "its norms sit inside the stream"
    if why:
        yield layer.skipped("stream", why)
        return
    terms = [layer[name].float() for name in ("resid_pre", "attn.out", "mlp.out")]
    allowed = 4 * layer.eps * torch.stack([term.abs() for term in terms]).sum(0)
    yield layer.judged("stream", terms[0] + terms[1] + terms[2], layer["resid_post"], allowed)


def middle(layer: Layer) -> Iterator[Contract]:
    """The stream between attention and MLP is what the MLP reads."""
    why = layer.missing("resid_mid", "mlp.in")
    if why:
        yield layer.skipped("middle", why)
        return
    mid = layer["resid_mid"]
    allowed = 4 * layer.eps * (layer["resid_pre"].float().abs() + layer["attn.out"].float().abs())
    yield layer.judged("middle", mid, layer["mlp.in"], allowed)


def norms(layer: Layer) -> Iterator[Contract]:
    """Each norm in front of a branch follows its formula, with the scale that its site shows."""
    branches = (("attn.norm", "resid_pre", layer.block.norm1), ("mlp.norm", "mlp.in", layer.block.norm2))
    there = [(site, source, norm) for site, source, norm in branches if norm and site in layer and source in layer]
    for site, source, norm in there:
        yield norm_contract(layer.index, norm, layer[source], layer[f"{site}.scale"], layer[site])
    if not there:
        yield layer.skipped("norms", layer.missing("attn.norm.scale", "mlp.norm.scale") or "no norm of its own")


def norm_contract(layer: int | None, norm: Norm, x: Tensor, scale: Tensor, seen: Tensor) -> Contract:
    """A norm's output is its formula."""
    made = norm.linear(x.float(), scale.float()) + norm.bias
    return judged("norms", layer, made, seen, 8 * rounding(seen) * largest(made))


def projections(layer: Layer) -> Iterator[Contract]:
    """The weight views make queries, keys and values from what the projections read."""
    why = layer.missing("attn.q", "attn.k", "attn.v")
    if why:
        yield layer.skipped("projections", why)
        return
    weights, index = layer.model.weights, layer.index
    x = layer["attn.norm" if "attn.norm" in layer else "resid_pre"]
    for name in "qkv":
        w = getattr(weights, f"W_{name.upper()}")[index].float()
        biases = getattr(weights, f"b_{name.upper()}")
        made = torch.einsum("bsd,ndh->bsnh", x.to(w.device).float(), w)
        made = made + biases[index].float() if index in biases else made
        allowed = 8 * layer.eps * largest(made).cpu() + _accumulated(x, w.norm(dim=1))
        yield layer.judged("projections", made, layer[f"attn.{name}"], allowed)


def meeting(layer: Layer) -> Iterator[Contract]:
    """At position 0, where rotary embedding is the identity, queries and keys meet as they were projected.

    Equal up to a positive scale, or to the attention's own query and key norms. This is what finds a fused layout that
    takes queries for keys: weights and activations are split by one layout, so that nothing else would.
    """
    why = layer.missing("attn.q", "attn.k", "attn.q_rot", "attn.k_rot")
    if why:
        yield layer.skipped("meeting", why)
        return
    candidates = {name: list(_met(layer, name)) for name in "qkv"}
    allowed = 16 * layer.eps
    for name in "qk":
        seen = layer[f"attn.{name}_rot"][:, 0].float()
        gaps = {other: min(_apart(seen, x) for x in found) for other, found in candidates.items()}
        nearest = min(gaps, key=lambda other: gaps[other])
        if gaps[name] <= allowed:
            yield Contract("meeting", layer.index, gaps[name], allowed)
        elif gaps[nearest] <= allowed:
            note = f"attn.{nearest} is what meets as attn.{name}_rot"
            yield Contract("meeting", layer.index, gaps[name], allowed, note)
        elif gaps[name] == math.inf:
            shapes = f"[head, d_head] {tuple(layer[f'attn.{name}'].shape[2:])} and {tuple(seen.shape[1:])}"
            yield Contract("meeting", layer.index, math.inf, allowed, f"attn.{name} and attn.{name}_rot are {shapes}")
        else:
            yield layer.skipped("meeting", f"between attn.{name} and attn.{name}_rot is more than a norm and a scale")


def _met(layer: Layer, name: str) -> Iterator[Tensor]:
    """A projection at position 0 as it could meet: as it is, or through a norm of the attention module."""
    raw = layer[f"attn.{name}"][:, :1]
    yield raw[:, 0].float()
    for child, norm in layer.block.attn.named_children() if layer.block.attn is not None else ():
        if "norm" not in child.lower():
            continue
        for shaped, back in (
            (raw, lambda y: y),
            (raw.flatten(-2), lambda y: y.unflatten(-1, raw.shape[-2:])),
            (raw.transpose(1, 2), lambda y: y.transpose(1, 2)),
        ):
            made = _normed(norm, shaped)
            if made is not None:
                yield back(made)[:, 0].float()


def _normed(norm: nn.Module, x: Tensor) -> Tensor | None:
    try:
        made = norm.forward(x)
    except (RuntimeError, TypeError, IndexError):
        return None
    return made if isinstance(made, Tensor) and made.shape == x.shape else None


def _apart(seen: Tensor, made: Tensor) -> float:
    """How far vectors are from being equal up to a positive scale each, relative to their length."""
    if seen.shape[-1] != made.shape[-1] or seen.shape[1] % made.shape[1]:
        return math.inf
    made = made.to(seen.device).repeat_interleave(seen.shape[1] // made.shape[1], dim=1)
    scale = (seen * made).sum(-1, keepdim=True) / made.pow(2).sum(-1, keepdim=True).clamp(min=1e-30)
    gap = (seen - scale.clamp(min=0) * made).norm(dim=-1) / seen.norm(dim=-1).clamp(min=1e-30)
    return float(gap.max())


def pattern(layer: Layer) -> Iterator[Contract]:
    """Attention weights are the softmax of the scores (up to what a sink takes), and none goes to the future."""
    why = layer.missing("attn.scores", "attn.pattern")
    if why:
        yield layer.skipped("pattern", why)
        return
    weights = layer["attn.pattern"].float()
    sums, allowed = weights.sum(-1, keepdim=True), torch.tensor(8 * layer.eps)
    future = torch.ones(weights.shape[-2:], device=weights.device).triu(1) * weights
    yield layer.judged("pattern", future, torch.zeros_like(weights), allowed)
    yield layer.judged("pattern", sums.clamp(min=1), torch.ones_like(sums), allowed)
    yield layer.judged("pattern", layer["attn.scores"].float().softmax(-1), weights / sums, allowed)


def mixing(layer: Layer) -> Iterator[Contract]:
    """Each head's output is its values, mixed by its pattern."""
    why = layer.missing("attn.pattern", "attn.v", "attn.z")
    if why:
        yield layer.skipped("mixing", why)
        return
    weights, v, z = (layer[f"attn.{name}"].float() for name in ("pattern", "v", "z"))
    v = v.repeat_interleave(weights.shape[1] // v.shape[2], dim=2)
    made, size = (torch.einsum("bnqk,bknh->bqnh", weights, values) for values in (v, v.abs()))
    yield layer.judged("mixing", made, z, 8 * layer.eps * largest(size))


def heads(layer: Layer) -> Iterator[Contract]:
    """What the heads write adds up to what attention writes (through its post-norm, where there is one)."""
    why = layer.missing("attn.result", "attn.out")
    if why:
        yield layer.skipped("heads", why)
        return
    parts, anatomy = layer.block.parts, layer.model.anatomy
    result, biases = layer["attn.result"], layer.model.weights.b_O
    made = result.float().sum(2)
    size = (largest(result.float().abs().sum(2)) / largest(made)).nan_to_num(1.0)  # heads may write nothing
    made = made + biases[layer.index].float() if layer.index in biases else made
    if parts["attn_out"] is not parts["o"]:
        made = parts["attn_out"].forward(made.to(result.dtype)).float()
    made = made * anatomy.multiplier
    yield layer.judged("heads", made, layer["attn.out"], 8 * layer.eps * largest(made) * size.clamp(min=1))


def neurons(layer: Layer) -> Iterator[Contract]:
    """The neurons are those that the weights and the nonlinearity make, and write what the MLP writes."""
    why = layer.missing("mlp.up", "mlp.act", "mlp.out")
    if why:
        yield layer.skipped("neurons", why)
        return
    weights, index, parts = layer.model.weights, layer.index, layer.block.parts
    x = layer["mlp.norm" if "mlp.norm" in layer else "mlp.in"]
    for site, each, biases in (("mlp.up", weights.W_in, weights.b_in), ("mlp.gate", weights.W_gate, None)):
        if site in layer:
            made, allowed = _times(layer, x, each[index], biases)
            yield layer.judged("neurons", made, layer[site].reshape(made.shape), allowed)
    yield _nonlinearity(layer)
    made, allowed = _times(layer, layer["mlp.act"], weights.W_out[index], weights.b_out)
    out = layer["mlp.out"]
    if parts["mlp_out"] is not parts.get("mlp") and parts["mlp_out"] is not parts.get("down"):
        allowed = allowed / largest(made)
        made = parts["mlp_out"].forward(made.to(out.dtype)).float()
        allowed = allowed * largest(made)
    # A constant may follow W_out (Granite, Falcon-H1); no site rests on it, so it is measured, not demanded.
    factor = float((made * out.float()).sum() / made.pow(2).sum().clamp(min=1e-30))
    yield layer.judged("neurons", made * factor, out, allowed * abs(factor))


def _times(layer: Layer, x: Tensor, w: Tensor, biases: Any) -> tuple[Tensor, Tensor]:
    """x @ w + b in single precision, and what rounding may account for."""
    w = w.float()
    made = x.to(w.device).float() @ w
    if biases is not None and layer.index in biases:
        made = made + biases[layer.index].float()
    return made, 8 * layer.eps * largest(made).cpu() + _accumulated(x, w.norm(dim=0))


def _accumulated(x: Tensor, lengths: Tensor) -> Tensor:
    """What the order of summation may account for in products of x with columns of these lengths."""
    return 4 * _SINGLE * x.float().norm(dim=-1).max().cpu() * lengths.max().cpu()


def _nonlinearity(layer: Layer) -> Contract:
    """mlp.act is f(mlp.gate) * mlp.up, or f(mlp.up) without a gate."""
    owner = layer.block.parts.get("mlp", layer.block.module)
    names = ("act_fn", "activation_fn", "act", "gelu_impl")
    f: Any = next((found for name in names if callable(found := getattr(owner, name, None))), None)
    if f is None:
        return layer.skipped("neurons", "its nonlinearity is not a part of its MLP")
    act, up = layer["mlp.act"], layer["mlp.up"]
    made = [f(layer["mlp.gate"]) * up, f(up) * layer["mlp.gate"]] if "mlp.gate" in layer else [f(up)]
    found = [layer.judged("neurons", x, act, 8 * layer.eps * largest(x)) for x in made]
    if any(one.passed for one in found):  # if only the second, gate and up are interchanged
        return found[0]
    return layer.skipped("neurons", "its nonlinearity has more to it than act(gate) * up")
