"""Latents and rows shared out over processes give the numbers of one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

HERE = Path(__file__).parent


@pytest.mark.skipif(not dist.is_available(), reason="this build of PyTorch has no torch.distributed")
@pytest.mark.slow
def test_two_processes_learn_what_one_learns():
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{HERE.parents[1] / 'src'}{os.pathsep}{HERE}"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(HERE / "in_processes.py")], env=environment, capture_output=True, text=True, check=False
    )
    assert "all the same" in done.stdout, done.stderr[-4000:]
