"""Rows picked out of large tensors, as fast as memory allows.

NumPy's large arrays come in large pages, which are several times faster to fill for the first time than what PyTorch
allocates on a CPU; so new rows go into those, and both see the same memory.
"""

import numpy as np
import torch
from torch import Tensor


def bits(x: Tensor) -> np.ndarray:
    """A tensor as NumPy sees it; it has no bfloat16, so those are looked at as whole numbers."""
    return x.view(torch.int16).numpy() if x.dtype == torch.bfloat16 else x.numpy()


def room(count: int, like: Tensor) -> Tensor:
    """Room for so many rows of this kind; its numbers are whatever was there."""
    return torch.from_numpy(np.empty((count, *like.shape[1:]), bits(like[:0]).dtype)).view(like.dtype)


def picked(x: Tensor, rows: np.ndarray) -> Tensor:
    """Some rows of a tensor, in the order given; all must be there."""
    found = room(len(rows), x)
    np.take(bits(x), rows, axis=0, out=bits(found), mode="clip")
    return found
