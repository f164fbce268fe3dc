"""Dead latents drawn anew, towards rows that are reconstructed badly.

1. Rows are drawn with probability proportional to their squared error.
2. A dead latent writes the direction of such a row's residual, and reads the row's direction, with a fifth of the mean
   length of the encoders of living latents; its bias is zero.
"""

import torch
from torch import Tensor

from digsite.dictionaries.decoders import Matrices
from digsite.dictionaries.dictionary import Dictionary, Pass


@torch.no_grad()
def resample(dictionary: Dictionary, number: int, dead: Tensor, passed: Pass, *, seed: int) -> list[Tensor]:
    """Draw the dead latents of a block anew, in place.

    Args:
        dictionary: In training.
        number: Of the block.
        dead: Its dead latents.
        passed: A pass, whose rows are drawn from.
        seed: Of the draw.

    Returns:
        The tensors that were changed, whose rows are latents: what an optimiser remembers of these rows is void.

    Source: transformer-circuits.pub/2023/monosemantic-features, appendix; residuals instead of rows are written,
    because here targets need not be what is read.

    Caveats:
        Latents that share rows with another block, or have a map each, are left as they are.
    """
    block = dictionary.blocks[number]
    if not len(dead) or not isinstance(block.decoder, Matrices) or block.decoder.common is not None:
        return []
    left = {name: passed.targets[name] - passed.outputs[name].detach() for name in block.config.writes}
    error = torch.stack([x.square().sum(1) for x in left.values()]).sum(0)
    drawn = torch.Generator().manual_seed(seed)
    rows = torch.multinomial(error.cpu().double(), len(dead), replacement=True, generator=drawn).to(error.device)  # 1.
    alive = torch.ones(block.config.latents, dtype=torch.bool, device=dead.device).index_fill(0, dead, value=False)
    changed = []
    lengths = torch.stack([x[rows].norm(dim=1) for x in left.values()]).norm(dim=0)[:, None].clamp_min(1e-30)
    for target, name in enumerate(block.config.writes):  # 2.
        block.decoder.W[target][dead] = left[name][rows] / lengths
        changed.append(block.decoder.W[target])
    for W, x in zip(block.W_enc, passed.inputs[number], strict=True):
        length = W[alive].norm(dim=1).mean() if alive.any() else W.new_ones(())
        W[dead] = torch.nn.functional.normalize(x[rows].detach(), dim=1) * 0.2 * length
        changed.append(W)
    block.b_enc[dead] = 0
    return [*changed, block.b_enc]
