"""Places that are not there."""

import pytest
import torch


def test_a_folder_that_is_not_there():
    import digsite

    with pytest.raises(OSError, match=r"There is no folder \./nowhere"):
        digsite.load("./nowhere")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there():
    import digsite

    with pytest.raises(OSError, match="The model cannot be put on cuda"):
        digsite.load("digsite/tinyworld", device="cuda")
