"""Losses beside error and sparsity: what revives dead latents, trains gates, and makes pairs of dictionaries sparse."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from digsite._core.errors import BadInput, explain
from digsite.dictionaries import kernels
from digsite.dictionaries.dictionary import Dictionary, Pass
from digsite.dictionaries.losses import Clock, distance
from digsite.store import Latents


@dataclass(frozen=True, kw_only=True)
class AuxK:
    """How well dead latents would write what the living ones leave over.

    Of the dead latents the k with the largest pre-activations write, without bias; the error is to the residual, which
    feels nothing of it. Encoder and decoder of the dead are trained by it, and only their rows are multiplied.

    Attributes:
        k: How many write; half the width of the first column if None.

    Units: a fraction of the variance of the targets, mean over columns.

    Source: Gao et al. 2024, arXiv 2406.04093, appendix A.2.
    """

    k: int | None = None
    kinds: ClassVar[tuple[str, ...]] = ()
    needs_pre: ClassVar[bool] = False
    sparsity: ClassVar[bool] = False

    def __call__(self, dictionary: Dictionary, passed: Pass, clock: Clock) -> Float[Tensor, ""]:
        """The loss of one batch."""
        left = {name: (x - passed.outputs[name]).detach() for name, x in passed.targets.items()}
        made: dict[str, Tensor] = {}
        for block, dead, x in zip(dictionary.blocks, clock.dead, passed.inputs, strict=True):
            if not len(dead):
                continue
            read, W = torch.cat(x, 1), torch.cat([W[dead] for W in block.W_enc], 1)
            k = (self.k or x[0].shape[1] // 2) // (dictionary.slices or 1) or 1
            few = kernels.encode_top_k(read, W, block.b_enc[dead], min(k, len(dead)))
            latents = Latents(few.values, dead[few.indices], block.config.latents)
            for target, name in enumerate(block.config.writes):
                added = block.decoder(latents, target, x[0])
                made[name] = made[name] + added if name in made else added
        if not made and not dictionary.slices:
            return next(iter(left.values())).new_zeros(())
        made = {
            name: dictionary.summed(made[name] if name in made else torch.zeros_like(x)) for name, x in left.items()
        }
        return distance(made, left, passed.targets)


@dataclass(frozen=True, kw_only=True)
class GatedAux:
    """How well open gates would write, through a frozen copy of the decoder: it trains the gates, and only them.

    Source: Rajamanoharan et al. 2024, arXiv 2404.16014, eq. 8: |x - relu(π) sg(W_dec) - sg(b_dec)|².
    """

    kinds: ClassVar[tuple[str, ...]] = ("gated",)
    needs_pre: ClassVar[bool] = True
    sparsity: ClassVar[bool] = False

    def __call__(self, dictionary: Dictionary, passed: Pass, clock: Clock) -> Float[Tensor, ""]:
        """The loss of one batch."""
        made: dict[str, Tensor] = {name: dictionary.bias(name).detach() for name in passed.targets}
        for block, pre in zip(dictionary.blocks, passed.pre, strict=True):
            if pre is None:
                continue
            latents = Latents.of(torch.relu(pre))
            for name in block.config.writes:
                made[name] = made[name] + kernels.decode(latents, block.W_dec(name).detach())
        return distance(made, passed.targets)


@dataclass(frozen=True, kw_only=True)
class Jacobian:
    """How many latents after a part of the model each latent before it drives: mean |J_ij| over those that are active.

    J = W_enc' J_part(x̂) W_dec, for the k latents that the first dictionary of the pair has in a row and the k' that the
    second has; x̂ is what the first writes.

    Attributes:
        part: The part of the model between the two, from rows [row, d_in] to rows [row, d_out] in the model's units.

    Units: change of a latent after, for one of a latent before; normalised units.

    Source: Farnik et al. 2025, "Jacobian sparse autoencoders", ICML; they divide the sum by k².
    """

    part: Callable[[Tensor], Tensor] = field(repr=False)  # a repr would be another one in each process
    kinds: ClassVar[tuple[str, ...]] = ("topk", "groupmax")
    needs_pre: ClassVar[bool] = False
    sparsity: ClassVar[bool] = False

    def __call__(self, dictionary: Dictionary, passed: Pass, clock: Clock) -> Float[Tensor, ""]:
        """The loss of one batch."""
        return self.jacobian(dictionary, passed).abs().mean()

    def jacobian(self, dictionary: Dictionary, passed: Pass) -> Float[Tensor, "row after before"]:
        """The active block of the Jacobian in every row.

        Raises:
            BadInput: The dictionary is no pair.
        """
        if len(dictionary.blocks) != 2 or len(dictionary.writes) != 2:
            raise BadInput(
                explain("A Jacobian is of a pair of dictionaries", do="jacobian_pair(before, after, latents)")
            )
        (before, after), (first, second) = dictionary.blocks, passed.latents
        scales = [dictionary.config.columns[name].scale for name in dictionary.writes]
        directions = before.W_dec(dictionary.writes[0])[first.indices]  # [row, k, d]

        def part(x: Tensor) -> Tensor:
            return self.part(x * scales[0]) / scales[1]

        def along(tangent: Tensor) -> Tensor:
            return torch.func.jvp(part, (passed.outputs[dictionary.writes[0]],), (tangent,))[1]

        moved = torch.func.vmap(along, in_dims=1, out_dims=1)(directions)
        return after.W_enc[0][second.indices] @ moved.mT
