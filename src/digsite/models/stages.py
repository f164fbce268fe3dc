"""What happens at each module boundary of a block, as small functions.

A stage belongs to one side ("in" or "out") of one module and takes the raw tensor that crosses there. A *port* shows
the tensor itself (or a view of it) at a site. A *lowered* site is computed beside the stream; what an edit changed is
added to the port it is lowered to: `raw + f(new) - f(old)`, so that writing back what was read adds exactly zero, and
the gradient with respect to what was read is the gradient of the site. A *note* keeps a tensor for a later stage.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from digsite.models._adapters.layouts import Heads, Layout
from digsite.models.norms import Norm
from digsite.models.visit import Key, Visit

Act = Callable[[Visit, Tensor], Tensor]


@dataclass(frozen=True)
class Stage:
    """One thing to do at one side of one module."""

    key: Key
    module: nn.Module
    side: str
    act: Act
    needs: tuple[Key, ...] = ()
    """Notes that must have been taken earlier in the pass."""


def gridded(visit: Visit, raw: Tensor) -> Tensor:
    """A tensor as [row, position, ...]: some modules flatten the two, and learned positions may come once for all."""
    if raw.ndim == 2:
        return raw.unflatten(0, (visit.batch, -1))
    return raw.expand(visit.batch, *raw.shape[1:]) if raw.shape[0] == 1 != visit.batch else raw


def ungridded(x: Tensor, raw: Tensor) -> Tensor:
    """Such a tensor as its module handed it out."""
    return x.flatten(0, 1) if raw.ndim == 2 else x


def note(key: Key) -> Act:
    """Keeps the tensor, after its edits, for a stage further on."""

    def act(visit: Visit, raw: Tensor) -> Tensor:
        visit.scratch[key] = gridded(visit, raw)
        return raw

    return act


def port(key: Key, heads: int | None = None) -> Act:
    """A tensor that crosses a boundary; with `heads`, its last axis as [head, d_head]."""

    def act(visit: Visit, raw: Tensor) -> Tensor:
        seen = gridded(visit, raw)
        if heads is not None:
            seen = seen.unflatten(-1, (heads, -1))
        elif visit.grad:
            seen = seen.view_as(seen)  # what goes in here may also go elsewhere, and that is not this site's gradient
        kept = visit(key, seen)
        snapshot = visit.snapshots and key in visit.snapshots and key in visit.reads
        if kept is seen and not visit.grad and not snapshot:
            return raw
        out = ungridded(kept if heads is None else kept.flatten(-2), raw)
        return out.clone() if snapshot else out  # the model overwrites its own copy, not what was recorded

    return act


def part(key: Key, layout: Layout, heads: Heads, which: int) -> Act:
    """One of q, k, v in a fused projection."""

    def act(visit: Visit, raw: Tensor) -> Tensor:
        if visit.split[0] is not raw:
            visit.split = raw, layout.split(raw, heads)
        parts = visit.split[1]
        kept = visit(key, parts[which])
        if kept is parts[which] and not visit.grad:
            return raw
        return layout.merge(tuple(kept if i == which else p for i, p in enumerate(parts)), heads)

    return act


def half(key: Key, which: int) -> Act:
    """One half of a fused gate and up projection."""

    def act(visit: Visit, raw: Tensor) -> Tensor:
        parts = raw.chunk(2, -1)
        kept = visit(key, parts[which])
        if kept is parts[which] and not visit.grad:
            return raw
        return torch.cat([kept if i == which else p for i, p in enumerate(parts)], -1)

    return act


def lowered(key: Key, value: Callable[[Visit, Tensor], Tensor], back: Callable[[Visit, Tensor, Tensor], Tensor]) -> Act:
    """A site beside the stream: `value(visit, raw)` is it, `back(visit, raw, site)` what it contributes to the port."""

    def act(visit: Visit, raw: Tensor) -> Tensor:
        here = gridded(visit, raw)
        old = value(visit, here)
        seen = old.view_as(old)
        new = visit(key, seen)
        if new is seen and not visit.grad:
            return raw
        return ungridded(here + (back(visit, here, new) - back(visit, here, old)), raw).to(raw.dtype)

    return act


def middle(key: Key, stream: Key, multiplier: float) -> Act:
    """resid_mid: the stream after attention. Editing it edits what the skip connection carries on."""
    return lowered(
        key,
        lambda visit, raw: visit.scratch[stream] + raw * multiplier,
        lambda visit, raw, site: site / multiplier,
    )


def scaled(key: Key, multiplier: float) -> Act:
    """A module's output times a constant, which is what the block adds to the stream."""
    return lowered(key, lambda visit, raw: raw * multiplier, lambda visit, raw, site: site / multiplier)


def results(key: Key, z: Key, w_o: Callable[[], Tensor]) -> Act:
    """Each head's own share of the output projection: z[h] @ W_O[h]."""
    return lowered(
        key,
        lambda visit, raw: torch.einsum("bsnh,nhd->bsnd", visit.scratch[z], w_o().to(raw.dtype)),
        lambda visit, raw, site: site.sum(2),
    )


def norm_scale(key: Key, norm: Norm, source: Key) -> Act:
    """What a norm divides by. Editing it is how a norm is frozen to another run's scale."""
    return lowered(
        key,
        lambda visit, raw: norm.scale(visit.scratch[source]),
        lambda visit, raw, site: (raw - norm.bias) * (norm.scale(visit.scratch[source]) / site - 1),
    )


def branch_input(key: Key, stream: Key, norm: nn.Module | None) -> Act:
    """The stream as one branch reads it, in blocks where two branches share a norm; an edit reaches this one alone."""
    read = norm.forward if norm is not None else (lambda x: x)
    return lowered(key, lambda visit, raw: visit.scratch[stream], lambda visit, raw, site: read(site))


def head_inputs(
    key: Key,
    stream: Key,
    norm: nn.Module | None,
    weight: Callable[[], Tensor],
    shape: Callable[[Tensor], Tensor],
    unshape: Callable[[Tensor, Tensor], Tensor],
) -> Act:
    """The stream as single heads read it: q_in, k_in, v_in.

    The value is the stream itself, once for every head, at no memory. An edit of head h changes that head's
    projection by norm(new) @ W[h] - norm(old) @ W[h].

    Args:
        key: The site.
        stream: The note of the block's input.
        norm: The norm in front of the projections.
        weight: W [head, d_model, d_head] at the time of the run (adapters included).
        shape: The projection's raw output as [row, position, head, d_head].
        unshape: Puts such a tensor back into the raw output.
    """
    read = norm.forward if norm is not None else (lambda x: x)

    def act(visit: Visit, raw: Tensor) -> Tensor:
        x, w = visit.scratch[stream], weight()
        heads = visit.heads(key)
        if heads is None:
            old = x.unsqueeze(2).expand(-1, -1, len(w), -1)
            seen = old.view_as(old)
            new = visit(key, seen)
            if new is seen and not visit.grad:
                return raw
            change = torch.einsum("bsnd,ndh->bsnh", read(new), w) - torch.einsum("bsnd,ndh->bsnh", read(old), w)
            return unshape(shape(raw) + change, raw)
        out, touched = shape(raw), False
        for head in heads:
            seen = x.view_as(x)
            new = visit.one_head(key, head, seen)
            if new is seen and not visit.grad:
                continue
            out, touched = out if touched else out.clone(), True
            out[:, :, head] += read(new) @ w[head] - read(x) @ w[head]
        visit.head_done(key)
        return unshape(out, raw) if touched else raw

    return act
