"""How the numbers of a column are written: halves, floats, or eight bits with scales.

int8, in three steps:
1. Each channel is divided by its root mean square over the first shard, which is then fixed. A few channels of a
   residual stream are tens of times larger than the others; without this step they alone would set the scale.
2. Each row is divided by its largest magnitude / 127. A few tokens are hundreds of times larger than the others.
3. What is left is rounded to a whole number.
"""

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int8
from torch import Tensor

from digsite._core.errors import BadInput, NotFinite, explain

Encoding = Literal["bf16", "fp16", "fp32", "int8"]
"""How a column is written."""

DTYPES: Mapping[str, torch.dtype] = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "int8": torch.int8,
}


_FP16_END = 65520.0
"""From here on fp16 has only infinity."""
_AT_ONCE = 8192
"""Rows that are turned into eight bits at one time."""


def check_encoding(encoding: str) -> None:
    """Raises where this is no encoding."""
    if encoding not in get_args(Encoding):
        raise BadInput(explain(f"{encoding!r} is no encoding", possible=get_args(Encoding), near=encoding))


def row_bytes(width: int, encoding: str) -> int:
    """Bytes of one row."""
    return width * DTYPES[encoding].itemsize + (4 if encoding == "int8" else 0)


def encode(
    x: Float[Tensor, "row width"], encoding: str, *, rms: Float[Tensor, " width"] | None = None, column: str = "rows"
) -> dict[str, Tensor]:
    """Rows as the tensors that a shard holds.

    Args:
        x: The rows.
        encoding: How they are written.
        rms: Of each channel (int8), as the first shard has it; None in the first shard.
        column: What they are, for the error.

    Raises:
        NotFinite: A number is too large for fp16.
    """
    if encoding != "int8":
        if encoding == "fp16" and len(x) and max(map(abs, map(float, torch.aminmax(x)))) >= _FP16_END:
            raise NotFinite(
                explain(
                    f"{column} cannot be written as fp16",
                    found=f"a number of size {float(x.abs().max()):.3g}",
                    possible="up to 65504",
                    do="choose bf16 or int8 for this column",
                )
            )
        return {"values": x.to(DTYPES[encoding]).contiguous()}
    rms = x.float().square().mean(0).sqrt() if rms is None else rms  # 1
    codes, scales = zip(*(_rounded(part, rms) for part in x.split(_AT_ONCE)), strict=True)
    return {"codes": torch.cat(codes), "scale": torch.cat(scales), "rms": rms}


def decode(tensors: Mapping[str, Tensor]) -> Float[Tensor, "row width"]:
    """The rows that `encode` was given, as far as the encoding kept them."""
    if "values" in tensors:
        return tensors["values"]
    return tensors["codes"].float().mul_(tensors["scale"][:, None]).mul_(_divisor(tensors["rms"]))


def _rounded(
    x: Float[Tensor, "row width"], rms: Float[Tensor, " width"]
) -> tuple[Int8[Tensor, "row width"], Float[Tensor, " row"]]:
    even = x.float() / _divisor(rms)
    scale = even.abs().amax(1) / 127  # 2
    return (even / _divisor(scale)[:, None]).round().to(torch.int8), scale  # 3


def _divisor(scale: Float[Tensor, " _"]) -> Float[Tensor, " _"]:
    """A scale to divide by: where everything is zero, so are the codes."""
    return torch.where(scale > 0, scale, 1.0)
