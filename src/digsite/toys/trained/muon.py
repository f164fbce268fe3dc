"""The optimiser of toys that must learn much in few steps: Muon on the matrices of the blocks, AdamW on all else.

Muon goes equally far in all directions that the gradient of a matrix names:

1. A momentum remembers the gradients, M ← 0.95 M + 0.05 G, and looks one step ahead: L = 0.95 M + 0.05 G.
2. L = U S Vᵀ becomes nearly U Vᵀ by five rounds of a polynomial that draws every singular value towards one.
3. The matrix shrinks by its decay and moves against that, scaled so that its entries are as large as AdamW's.

Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; the scale is from Liu et al.
2025, "Muon is scalable for LLM training", arXiv:2502.16982, section 2.2.
The rounds are done in the precision of the weights. PyTorch's own Muon does them in bfloat16, which a processor without
instructions for it takes ten times as long for.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

MOMENTUM, ROUNDS = 0.95, 5
POLYNOMIAL = (3.4445, -4.7750, 2.0315)
"""Of the singular values in each round: a s + b s³ + c s⁵."""


class Muon(torch.optim.Optimizer):
    """Muon on the matrices of the blocks, and AdamW on all else, as one optimiser with one learning rate."""

    def __init__(self, network: torch.nn.Module, *, weight_decay: float):
        """The optimiser of what is trained of a GPT-2; matrices of the blocks decay, the rest does not."""
        trained = [(name, weight) for name, weight in network.named_parameters() if weight.requires_grad]
        inner = [weight for name, weight in trained if ".h." in name and weight.ndim == 2]
        rest = [weight for name, weight in trained if not (".h." in name and weight.ndim == 2)]
        self._adam = torch.optim.AdamW(rest, weight_decay=0.0, betas=(0.9, 0.98), fused=True)
        matrices = {"params": inner, "lr": 1e-3, "weight_decay": weight_decay}
        super().__init__([matrices, self._adam.param_groups[0]], {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step of each part; what they remember is kept here, so that it is saved and resumed as one."""
        matrices, rest = self.param_groups
        for weight in matrices["params"]:
            momentum = self.state[weight].setdefault("momentum_buffer", torch.zeros_like(weight))
            momentum.lerp_(weight.grad, 1 - MOMENTUM)  # 1
            ahead = weight.grad.lerp(momentum, MOMENTUM)
            weight.mul_(1 - matrices["lr"] * matrices["weight_decay"])  # 3
            weight.sub_(orthogonal(ahead), alpha=0.2 * math.sqrt(max(weight.shape)) * matrices["lr"])
        self._adam.state, self._adam.param_groups = self.state, [rest]
        self._adam.step(closure)


def orthogonal(of: Float[Tensor, "d_in d_out"]) -> Float[Tensor, "d_in d_out"]:
    """2. The nearest matrix with all singular values one, nearly: they end between about 0.7 and 1.2."""
    a, b, c = POLYNOMIAL
    wide = of.T if of.shape[0] > of.shape[1] else of
    wide = wide / wide.norm().clamp_min(1e-7)
    for _ in range(ROUNDS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.T if of.shape[0] > of.shape[1] else wide
