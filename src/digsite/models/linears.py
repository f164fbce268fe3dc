"""The effective weight of a projection, as views where nothing has to be computed.

Adapters that are switched on count; a quantised weight that cannot be read as numbers is refused.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from digsite._core.errors import Unsupported, explain
from digsite.models.block import Block


def linear_weight(module: nn.Module) -> Float[Tensor, "d_out d_in"]:
    """W [out, in] of a linear layer, with its active adapters added.

    Raises:
        Unsupported: The weight is quantised and is not a matrix of numbers.
    """
    base: Any = getattr(module, "base_layer", module)
    weight = base.weight.detach()
    if not weight.is_floating_point() or hasattr(weight, "quant_state"):
        raise Unsupported(
            explain(
                f"The weight of {type(module).__name__} is quantised",
                found=f"dtype {weight.dtype}",
                do="activations can be read and edited; for weights load the model without quantisation",
            )
        )
    weight = weight.T if type(base).__name__ == "Conv1D" else weight
    for delta in _adapter_deltas(module):
        weight = weight + (delta.T if type(base).__name__ == "Conv1D" and delta.shape != weight.shape else delta)
    return weight


def _adapter_deltas(module: Any) -> list[Tensor]:
    if not hasattr(module, "get_delta_weight") or module.disable_adapters or module.merged:
        return []
    with torch.no_grad():
        return [module.get_delta_weight(name) for name in module.active_adapters if name in module.lora_A]


def linear_bias(module: nn.Module) -> Float[Tensor, " d_out"] | None:
    """b [out] of a linear layer, or None."""
    bias = getattr(getattr(module, "base_layer", module), "bias", None)
    return None if bias is None else bias.detach()


def head_weight(block: Block, layout: Any, name: str) -> Tensor:
    """W_Q, W_K, W_V [head, d_model, d_head] or W_O [head, d_head, d_model] of a block, as views."""
    assert block.heads is not None
    if name == "o":
        return linear_weight(block.parts["o"]).T.unflatten(0, (block.heads.n_heads, -1))
    if "qkv" in block.parts:
        weight = layout.split(linear_weight(block.parts["qkv"]).T, block.heads)["qkv".index(name)]
    else:
        count = block.heads.n_heads if name == "q" else block.heads.n_kv_heads
        weight = linear_weight(block.parts[name]).T.unflatten(-1, (count, -1))
    return weight.movedim(-2, 0)


def head_bias(block: Block, layout: Any, name: str) -> Tensor | None:
    """b_Q, b_K, b_V [head, d_head] of a block, or None."""
    assert block.heads is not None
    if "qkv" in block.parts:
        bias = linear_bias(block.parts["qkv"])
        return None if bias is None else layout.split(bias, block.heads)["qkv".index(name)]
    bias = linear_bias(block.parts[name])
    count = block.heads.n_heads if name == "q" else block.heads.n_kv_heads
    return None if bias is None else bias.unflatten(-1, (count, -1))
