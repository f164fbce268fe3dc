"""Penalties that make few latents fire. A latent counts by what it writes: its value × the length of its decoder.

Without that length a dictionary would make values small and decoders long. Where latents are linear maps (MOLT) the
length is the Frobenius norm of U V. Penalties are sums over latents and blocks, and means over rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from digsite.dictionaries.activations import JumpReLU
from digsite.dictionaries.config import Free
from digsite.dictionaries.dictionary import Block, Dictionary, Pass
from digsite.dictionaries.losses import Clock
from digsite.store import Latents


@dataclass(frozen=True, kw_only=True)
class L1:
    """How much is written in all: Σ_i f_i |d_i|.

    Attributes:
        over: "each" adds up the lengths in all columns, which favours latents of one column; "all" takes the columns as
            one vector.
        blocks: A factor for each block, such as one a layer of a CLT; 1 where empty.
        shared: A factor for latents that have one row for all columns.

    Source: transformer-circuits.pub/2024/april-update; over columns, 2024/crosscoders; the factor of shared latents
    (0.1 to 0.2), the update of February 2025; for MOLT, 2025/bulk-update.
    """

    over: Literal["each", "all"] = "each"
    blocks: tuple[float, ...] = ()
    shared: float = 1.0
    kinds: ClassVar[tuple[str, ...]] = ()
    needs_pre: ClassVar[bool] = False
    sparsity: ClassVar[bool] = True

    def __call__(self, dictionary: Dictionary, passed: Pass, clock: Clock) -> Float[Tensor, ""]:
        """The loss of one batch."""
        return _sum(dictionary, passed, self, lambda written: written)


@dataclass(frozen=True, kw_only=True)
class Tanh:
    """A penalty that saturates: Σ_i tanh(c f_i |d_i|); what writes much counts no more than what writes enough.

    Attributes:
        c: How early it saturates.
        over: "all" takes all columns as one vector; "each" has a penalty for every column that is written.
        blocks: A factor for each block; 1 where empty.
        shared: A factor for latents that have one row for all columns.

    Source: transformer-circuits.pub/2025/january-update; for a CLT 2025/attribution-graphs/methods.

    Caveats:
        In a CLT "all" makes it cheap to write to far layers at once, and so to skip what the model does in between.
        Judge a CLT by its faithfulness too, not by L0 and FVU alone.
    """

    c: float = 4.0
    over: Literal["each", "all"] = "all"
    blocks: tuple[float, ...] = ()
    shared: float = 1.0
    kinds: ClassVar[tuple[str, ...]] = ()
    needs_pre: ClassVar[bool] = False
    sparsity: ClassVar[bool] = True

    def __call__(self, dictionary: Dictionary, passed: Pass, clock: Clock) -> Float[Tensor, ""]:
        """The loss of one batch."""
        return _sum(dictionary, passed, self, lambda written: torch.tanh(self.c * written))


@dataclass(frozen=True, kw_only=True)
class GateL1:
    """How far gates are open: Σ_i relu(π_i) |d_i|, π the gate's pre-activation.

    Source: Rajamanoharan et al. 2024, arXiv 2404.16014, where decoders have length one.
    """

    kinds: ClassVar[tuple[str, ...]] = ("gated",)
    needs_pre: ClassVar[bool] = True
    sparsity: ClassVar[bool] = True

    def __call__(self, dictionary: Dictionary, passed: Pass, clock: Clock) -> Float[Tensor, ""]:
        """The loss of one batch."""
        pairs = zip(dictionary.blocks, passed.pre, strict=True)
        return torch.stack([(torch.relu(pre) @ block.norms()).mean() for block, pre in pairs if pre is not None]).sum()


@dataclass(frozen=True, kw_only=True)
class L0Step:
    """How many latents fire: Σ_i H(π_i - θ_i); only thresholds feel it, in a window around each.

    Source: Rajamanoharan et al. 2024, arXiv 2407.14435, eq. 12: dH/dθ = -(1/ε) K((π - θ)/ε), K a rectangle, of the
    pre-activation, on both sides of the threshold.
    """

    kinds: ClassVar[tuple[str, ...]] = ("jumprelu",)
    needs_pre: ClassVar[bool] = False
    sparsity: ClassVar[bool] = True

    def __call__(self, dictionary: Dictionary, passed: Pass, clock: Clock) -> Float[Tensor, ""]:
        """The loss of one batch."""
        return _fired(dictionary, passed)


@dataclass(frozen=True, kw_only=True)
class TargetL0:
    """How far the number of latents that fire is from what is wished: (L0 / wish - 1)²; L0 the mean over the batch.

    Attributes:
        l0: The wish, over all blocks.

    Source: the form used in the library dictionary_learning, with the gradient of `L0Step`.
    """

    l0: float
    kinds: ClassVar[tuple[str, ...]] = ("jumprelu",)
    needs_pre: ClassVar[bool] = False
    sparsity: ClassVar[bool] = False  # it has its own wish

    def __call__(self, dictionary: Dictionary, passed: Pass, clock: Clock) -> Float[Tensor, ""]:
        """The loss of one batch."""
        return (_fired(dictionary, passed) / self.l0 - 1).square()


@dataclass(frozen=True, kw_only=True)
class PreAct:
    """How far below their threshold latents are: Σ_i relu(θ_i - π_i) |d_i|; it brings dead latents back.

    Source: transformer-circuits.pub/2025/january-update.
    """

    kinds: ClassVar[tuple[str, ...]] = ("jumprelu",)
    needs_pre: ClassVar[bool] = True
    sparsity: ClassVar[bool] = False

    def __call__(self, dictionary: Dictionary, passed: Pass, clock: Clock) -> Float[Tensor, ""]:
        """The loss of one batch."""
        pairs = zip(dictionary.blocks, passed.pre, strict=True)
        below = [(block, torch.relu(block.own("threshold") - pre)) for block, pre in pairs if pre is not None]
        return torch.stack([(x @ block.norms()).mean() for block, x in below]).sum()


# -- sums over entries ---------------------------------------------------------------------------------------------
def _sum(
    dictionary: Dictionary, passed: Pass, loss: L1 | Tanh, penalty: Callable[[Tensor], Tensor]
) -> Float[Tensor, ""]:
    total = []
    factors = loss.blocks or (1.0,) * len(dictionary.blocks)
    for factor, block, latents in zip(factors, dictionary.blocks, passed.latents, strict=True):
        values, indices = latents.flat
        strength = values.abs() if block.config.activation.kind == "abstopk" else values
        weight = _weights(block, loss.shared)
        for norms in _lengths(block, loss.over):
            each = penalty(strength * norms[indices])
            total.append(factor * (each if weight is None else each * weight[indices]).sum() / len(latents))
    return torch.stack(total).sum()


def _lengths(block: Block, over: str) -> list[Float[Tensor, " latent"]]:
    return [block.norms()] if over == "all" else [block.W_dec(name).norm(dim=1) for name in block.config.writes]


def _weights(block: Block, shared: float) -> Float[Tensor, " latent"] | None:
    decoder = block.config.decoder
    if shared == 1 or not isinstance(decoder, Free) or not decoder.shared:
        return None
    weight = torch.ones_like(block.b_enc)
    weight[: decoder.shared] = shared
    return weight


def _fired(dictionary: Dictionary, passed: Pass) -> Float[Tensor, ""]:
    """Latents that fire in a row, over all blocks; its gradient reaches thresholds."""
    counts = []
    for block, latents in zip(dictionary.blocks, passed.latents, strict=True):
        assert isinstance(block.config.activation, JumpReLU)
        counts.append(_fires(block, latents, block.config.activation.bandwidth).sum() / len(latents))
    return torch.stack(counts).sum()


def _fires(block: Block, latents: Latents, bandwidth: float) -> Float[Tensor, " entry"]:
    values, indices = latents.flat
    return _Step.apply(values, block.own("threshold")[indices], bandwidth)  # pyright: ignore[reportReturnType]


class _Step(torch.autograd.Function):
    """One where an entry fires. In training those just below their threshold are entries too, of value zero."""

    @staticmethod
    def forward(ctx, values, threshold, bandwidth):
        ctx.save_for_backward((values == 0) | (values - threshold < bandwidth / 2))
        ctx.bandwidth = bandwidth
        return (values != 0).to(values.dtype)

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        (window,) = ctx.saved_tensors
        return None, -grad * window / ctx.bandwidth, None
