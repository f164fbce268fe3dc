"""Losses: what a dictionary is trained to make small. Each is a value that is called; a dictionary computes none.

All numbers are in normalised units (columns divided by their scale), and means over rows, so that a coefficient means
the same at any batch size. Here are errors of reconstruction; `sparsity` has penalties, `auxiliary` what keeps latents
alive and pairs apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from digsite.dictionaries.dictionary import Dictionary, Pass
from digsite.store import Latents


@dataclass(frozen=True, eq=False)
class Clock:
    """Where training is.

    Attributes:
        step: From 0.
        steps: Of the whole run.
        dead: Of every block, the latents that have not fired for long.
    """

    step: int = 0
    steps: int = 1
    dead: Sequence[Int[Tensor, " dead"]] = field(default_factory=list)


@runtime_checkable
class Loss(Protocol):
    """What every loss is.

    Attributes:
        kinds: The activations it can be used with; all where empty.
        needs_pre: It looks at all pre-activations, which are then kept.
        sparsity: It makes latents fire less; its coefficient is what an L0 that is wished for moves.
    """

    kinds: ClassVar[tuple[str, ...]]
    needs_pre: ClassVar[bool]
    sparsity: ClassVar[bool]

    def __call__(self, dictionary: Dictionary, passed: Pass, clock: Clock) -> Float[Tensor, ""]:
        """The loss of one batch."""
        ...


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """How far what is written is from what should be.

    Attributes:
        by_variance: Divide by the variance of the column in the batch and take the mean over columns, so that 1 is what
            the mean alone reaches (FVU). Else squared errors are summed over coordinates and columns.

    Units: squared normalised units a row; with `by_variance` a fraction.
    """

    by_variance: bool = False
    kinds: ClassVar[tuple[str, ...]] = ()
    needs_pre: ClassVar[bool] = False
    sparsity: ClassVar[bool] = False

    def __call__(self, dictionary: Dictionary, passed: Pass, clock: Clock) -> Float[Tensor, ""]:
        """The loss of one batch."""
        return distance(passed.outputs, passed.targets, passed.targets if self.by_variance else None)


@dataclass(frozen=True, kw_only=True)
class Matryoshka:
    """The sum of the errors of all nested dictionaries: each prefix of the latents writes by itself.

    It takes the place of `Reconstruction`; the last prefix is the whole dictionary. The latents are chosen once. From
    the whole, one segment of latents after another is taken away, so that all prefixes cost one more decode.

    Attributes:
        by_variance: As in `Reconstruction`.

    Source: Bussmann et al. 2025, arXiv 2503.17547: L = Σ_w |x - f[:w] W[:w] - b|².

    Caveats:
        Some libraries take the mean over prefixes: their coefficients and learning rates do not transfer.
    """

    by_variance: bool = False
    kinds: ClassVar[tuple[str, ...]] = ()
    needs_pre: ClassVar[bool] = False
    sparsity: ClassVar[bool] = False

    def __call__(self, dictionary: Dictionary, passed: Pass, clock: Clock) -> Float[Tensor, ""]:
        """The loss of one batch."""
        of = passed.targets if self.by_variance else None
        outputs = dict(passed.outputs)
        total = distance(outputs, passed.targets, of)
        for level in reversed(range(1, max(len(block.prefixes) for block in dictionary.config.blocks))):
            for block, latents, x in zip(dictionary.blocks, passed.latents, passed.inputs, strict=True):
                segment = within(latents, *block.config.prefixes[level - 1 : level + 1])
                for target, name in enumerate(block.config.writes):
                    outputs[name] = outputs[name] - block.decoder(segment, target, x[0])
            total = total + distance(outputs, passed.targets, of)
        return total


@dataclass(frozen=True, kw_only=True)
class MultiTopK:
    """The error when `factor` times as many latents may fire: a dictionary that also works at another k.

    Attributes:
        factor: How many times.

    Units: a fraction, as `Reconstruction(by_variance=True)`.

    Source: Gao et al. 2024, arXiv 2406.04093: L(k) + L(4k)/8.
    """

    factor: int = 4
    kinds: ClassVar[tuple[str, ...]] = ("topk",)
    needs_pre: ClassVar[bool] = True
    sparsity: ClassVar[bool] = False

    def __call__(self, dictionary: Dictionary, passed: Pass, clock: Clock) -> Float[Tensor, ""]:
        """The loss of one batch."""
        outputs = dict(passed.outputs)
        for block, pre, latents, x in zip(dictionary.blocks, passed.pre, passed.latents, passed.inputs, strict=True):
            chosen, further = block.config.activation, min(self.factor * latents.values.shape[1], latents.width)
            hidden = pre.scatter(1, latents.indices, -torch.inf)  # pyright: ignore[reportOptionalMemberAccess]
            more = replace(chosen, k=further - latents.values.shape[1]).choose(hidden.detach(), block)  # pyright: ignore
            more = more.with_values(torch.relu(pre.gather(1, more.indices)))  # pyright: ignore[reportOptionalMemberAccess]
            for target, name in enumerate(block.config.writes):
                outputs[name] = outputs[name] + block.decoder(more, target, x[0])
        return distance(outputs, passed.targets, passed.targets)


def distance(
    made: Mapping[str, Tensor], wanted: Mapping[str, Tensor], by_variance_of: Mapping[str, Tensor] | None = None
) -> Float[Tensor, ""]:
    """Squared distance of columns [row, d]: summed over coordinates and columns, mean over rows.

    Args:
        made: What is there.
        wanted: What should be.
        by_variance_of: Divide the sum of each column by the sum of squares of this one around its mean in the batch,
            and take the mean over columns.
    """
    errors = []
    for name, x in made.items():
        error = torch.nn.functional.mse_loss(x, wanted[name], reduction="sum")
        if by_variance_of is None:
            errors.append(error / len(x))
        else:
            spread = by_variance_of[name].detach().var(0, correction=0).sum() * len(x)
            errors.append(error / spread.clamp_min(1e-12) / len(made))
    return torch.stack(errors).sum()


def within(latents: Latents, low: int, high: int) -> Latents:
    """The entries of the latents from `low` up to `high`, the end not included."""
    values, indices = latents.flat
    keep = ((indices >= low) & (indices < high)).nonzero().squeeze(1)
    offsets = torch.searchsorted(keep, latents.bounds)
    return Latents(values[keep], indices[keep], latents.width, offsets)
