"""What turns pre-activations into latents: each a small value with one method, and the numbers that it learns.

Each selects which latents fire and how strongly. Between encoder and decoder there are only their entries.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from digsite.dictionaries.kernels import top_entries, top_k
from digsite.store import Latents


@runtime_checkable
class Own(Protocol):
    """What an activation may look at in its block."""

    training: bool

    @property
    def b_enc(self) -> Tensor:
        """The bias of the pre-activations."""
        ...

    def own(self, name: str) -> Tensor:
        """A number, or one a latent, that the activation keeps in its block."""
        ...

    def norms(self) -> Float[Tensor, " latent"]:
        """The length of every latent's decoder."""
        ...


@dataclass(frozen=True, kw_only=True)
class Relu:
    """Every latent whose pre-activation is above zero."""

    kind: Literal["relu"] = "relu"

    def initial(self, latents: int) -> dict[str, Tensor]:
        """What it learns, at the start."""
        return {}

    def select(self, pre: Float[Tensor, "row latent"], block: Own) -> Latents:
        """The latents that fire."""
        return Latents.of(torch.relu(pre))


@dataclass(frozen=True, kw_only=True)
class TopK:
    """The k largest pre-activations of each row, where they are above zero.

    Attributes:
        k: Latents of a row.
        by_norm: Choose by pre-activation × length of the decoder instead.

    Source: Gao et al. 2024, arXiv 2406.04093.
    """

    k: int
    by_norm: bool = False
    kind: Literal["topk"] = "topk"

    def initial(self, latents: int) -> dict[str, Tensor]:
        """What it learns, at the start."""
        return {}

    def select(self, pre: Float[Tensor, "row latent"], block: Own) -> Latents:
        """The latents that fire."""
        if self.by_norm:
            _, indices = top_k((pre * block.norms()).detach(), self.k)
            values = pre.gather(1, indices)
        else:
            values, indices = top_k(pre, self.k)
        return Latents(torch.relu(values), indices, pre.shape[1])


@dataclass(frozen=True, kw_only=True)
class BatchTopK:
    """The k × rows largest pre-activations of a batch, where above zero; after training all above a threshold.

    Attributes:
        k: Latents of a row, on average.
        by_norm: Choose by pre-activation × length of the decoder instead.

    Source: Bussmann et al. 2024, arXiv 2412.06410. The threshold is the mean, over batches in training, of the smallest
    chosen entry.
    """

    k: int
    by_norm: bool = False
    kind: Literal["batchtopk"] = "batchtopk"

    def initial(self, latents: int) -> dict[str, Tensor]:
        """The threshold that stands in for the batch after training; it follows the batches, no gradient reaches it."""
        return {"threshold": torch.zeros(())}

    def select(self, pre: Float[Tensor, "row latent"], block: Own) -> Latents:
        """The latents that fire."""
        gate = (pre * block.norms()).detach() if self.by_norm else pre.detach()
        if block.training:
            chosen = top_entries(torch.relu(gate), self.k * len(pre))
        else:
            chosen = Latents.of(torch.where(gate > block.own("threshold"), gate, 0.0))
        return chosen.with_values(torch.relu(pre[chosen.rows, chosen.flat[1]]))


@dataclass(frozen=True, kw_only=True)
class JumpReLU:
    """Every latent whose pre-activation is above its own threshold, as it is.

    Attributes:
        start: The thresholds at the start of training, in units of the normalised activations.
        bandwidth: The width of the window around a threshold in which its gradient is estimated (ε), in the same unit.
        through: Whether the window's gradient also reaches the pre-activation (Anthropic's January 2025 recipe).

    Source: Rajamanoharan et al. 2024, arXiv 2407.14435, eq. 11: dJump/dθ = -(θ/ε) K((π - θ)/ε), K a rectangle.
    """

    start: float = 0.1
    bandwidth: float = 2.0
    through: bool = False
    kind: Literal["jumprelu"] = "jumprelu"

    def initial(self, latents: int) -> dict[str, Tensor]:
        """The thresholds."""
        return {"threshold": torch.full((latents,), self.start)}

    def select(self, pre: Float[Tensor, "row latent"], block: Own) -> Latents:
        """The latents that fire; in training also those just below their threshold, with value zero."""
        threshold = block.own("threshold")
        reach = self.bandwidth / 2 if block.training and torch.is_grad_enabled() else 0.0
        near = Latents.of((pre.detach() > (threshold - reach).detach()).to(pre.dtype))
        _, indices = near.flat
        values = _Jump.apply(pre[near.rows, indices], threshold[indices], self.bandwidth, self.through)
        return near.with_values(values)  # pyright: ignore[reportArgumentType]


class _Jump(torch.autograd.Function):
    @staticmethod
    def forward(ctx, pre, threshold, bandwidth, through):
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth, ctx.through = bandwidth, through
        return torch.where(pre > threshold, pre, torch.zeros_like(pre))

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        pre, threshold = ctx.saved_tensors
        window = ((pre - threshold).abs() < ctx.bandwidth / 2).to(grad.dtype)
        jump = threshold / ctx.bandwidth * window * grad
        return grad * (pre > threshold) + (jump if ctx.through else 0), -jump, None, None


@dataclass(frozen=True, kw_only=True)
class Gated:
    """A gate that says which latents fire, and a magnitude, from one encoder.

    f = 1[π > 0] × relu(exp(r) × (π - b_enc) + b_mag), π = W_enc x + b_enc.

    Source: Rajamanoharan et al. 2024, arXiv 2404.16014.
    """

    kind: Literal["gated"] = "gated"

    def initial(self, latents: int) -> dict[str, Tensor]:
        """The magnitude's scale r and bias."""
        return {"r_mag": torch.zeros(latents), "b_mag": torch.zeros(latents)}

    def select(self, pre: Float[Tensor, "row latent"], block: Own) -> Latents:
        """The latents that fire."""
        magnitude = block.own("r_mag").exp() * (pre - block.b_enc) + block.own("b_mag")
        return Latents.of(torch.relu(magnitude) * (pre > 0))


@dataclass(frozen=True, kw_only=True)
class AbsTopK:
    """The k largest pre-activations of each row by size, with their sign: a latent may be negative.

    Attributes:
        k: Latents of a row.
    """

    k: int
    kind: Literal["abstopk"] = "abstopk"

    def initial(self, latents: int) -> dict[str, Tensor]:
        """What it learns, at the start."""
        return {}

    def select(self, pre: Float[Tensor, "row latent"], block: Own) -> Latents:
        """The latents that fire."""
        _, indices = top_k(pre.detach().abs(), self.k)
        return Latents(pre.gather(1, indices), indices, pre.shape[1])


@dataclass(frozen=True, kw_only=True)
class GroupMax:
    """The latents lie in k groups of neighbours; of each group the largest fires, where it is above zero.

    Attributes:
        k: Groups, so latents of a row.
    """

    k: int
    kind: Literal["groupmax"] = "groupmax"

    def initial(self, latents: int) -> dict[str, Tensor]:
        """What it learns, at the start."""
        return {}

    def select(self, pre: Float[Tensor, "row latent"], block: Own) -> Latents:
        """The latents that fire."""
        size = pre.shape[1] // self.k
        values, within = pre.unflatten(1, (self.k, size)).max(2)
        return Latents(torch.relu(values), within + torch.arange(self.k, device=pre.device) * size, pre.shape[1])


Activation = Annotated[Relu | TopK | BatchTopK | JumpReLU | Gated | AbsTopK | GroupMax, Field(discriminator="kind")]
"""Any of them; `kind` says which in a file."""
