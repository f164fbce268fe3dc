"""A short name for exactly these weights."""

import hashlib
from typing import Any

import torch

_SAMPLE = 4096


def fingerprint(hf: Any) -> str:
    """Sixteen hex digits over the names, shapes, dtypes and values of all parameters.

    Of a large tensor a fixed, evenly spaced sample of 4,096 values is hashed, so that an 8B model takes under a second.
    """
    digest = hashlib.sha256(type(hf).__name__.encode())
    for name, parameter in hf.named_parameters():
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        if parameter.device.type == "meta" or not parameter.numel():
            continue
        flat = parameter.detach().reshape(-1)
        step = max(1, flat.numel() // _SAMPLE)
        digest.update(flat[::step].contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
