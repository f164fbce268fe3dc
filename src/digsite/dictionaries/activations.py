"""What turns pre-activations into latents: each a small value with two steps, and the numbers that it learns.

1. `choose` says which latents may fire, from the pre-activations of some rows; no gradient passes here.
2. `value` says how strongly, from the pre-activations at those places alone; gradients do.

Between encoder and decoder there are only these entries.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from digsite.dictionaries.kernels import above, top_k
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

    def choose(self, pre: Float[Tensor, "row latent"], block: Own) -> Latents:
        """The places that may fire."""
        return above(pre, 0.0)

    def value(self, at: Latents, block: Own) -> Float[Tensor, "*entries"]:
        """How strongly, from the pre-activations there."""
        return at.values


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

    def choose(self, pre: Float[Tensor, "row latent"], block: Own) -> Latents:
        """The places that may fire."""
        return Latents(*top_k(pre * block.norms() if self.by_norm else pre, self.k), pre.shape[1])

    def value(self, at: Latents, block: Own) -> Float[Tensor, "*entries"]:
        """How strongly, from the pre-activations there."""
        return torch.relu(at.values)


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

    def choose(self, pre: Float[Tensor, "row latent"], block: Own) -> Latents:
        """The places that may fire, after training."""
        return above(pre * block.norms() if self.by_norm else pre, block.own("threshold"))

    def value(self, at: Latents, block: Own) -> Float[Tensor, "*entries"]:
        """How strongly, from the pre-activations there."""
        return torch.relu(at.values)


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

    def choose(self, pre: Float[Tensor, "row latent"], block: Own) -> Latents:
        """The places that may fire; in training also those just below their threshold, with value zero."""
        reach = self.bandwidth / 2 if block.training else 0.0
        return above(pre, block.own("threshold").detach() - reach)

    def value(self, at: Latents, block: Own) -> Float[Tensor, "*entries"]:
        """How strongly, from the pre-activations there."""
        threshold = block.own("threshold")[at.indices]
        return _Jump.apply(at.values, threshold, self.bandwidth, self.through)  # pyright: ignore[reportReturnType]


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

    def choose(self, pre: Float[Tensor, "row latent"], block: Own) -> Latents:
        """The places that may fire."""
        return above(pre, 0.0)

    def value(self, at: Latents, block: Own) -> Float[Tensor, "*entries"]:
        """How strongly, from the pre-activations there."""
        scale, bias = block.own("r_mag").exp()[at.indices], block.own("b_mag")[at.indices]
        return torch.relu(scale * (at.values - block.b_enc[at.indices]) + bias)


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

    def choose(self, pre: Float[Tensor, "row latent"], block: Own) -> Latents:
        """The places that may fire."""
        return Latents(*top_k(pre.abs(), self.k), pre.shape[1])

    def value(self, at: Latents, block: Own) -> Float[Tensor, "*entries"]:
        """How strongly, from the pre-activations there."""
        return at.values


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

    def choose(self, pre: Float[Tensor, "row latent"], block: Own) -> Latents:
        """The places that may fire."""
        size = pre.shape[1] // self.k
        values, within = pre.unflatten(1, (self.k, size)).max(2)
        return Latents(values, within + torch.arange(self.k, device=pre.device) * size, pre.shape[1])

    def value(self, at: Latents, block: Own) -> Float[Tensor, "*entries"]:
        """How strongly, from the pre-activations there."""
        return torch.relu(at.values)


Activation = Annotated[Relu | TopK | BatchTopK | JumpReLU | Gated | AbsTopK | GroupMax, Field(discriminator="kind")]
"""Any of them; `kind` says which in a file."""
