"""Whether the plan of edge attribution's memory is what a process then takes.

1. Three small models with random weights; `plan_eap` says what one batch will hold beside the weights.
2. A process of its own runs `eap` once on two pairs, so that what every process needs is there, and then on the batch.
   The peak is counted from that moment. Every large block is given back when it is freed
   (MALLOC_MMAP_THRESHOLD_=65536), for the plan counts tensors, not what the C library keeps.
3. The ratio is measured by planned; it is held to 0.9 to 1.1 by its distance from 1.
4. Below: the plan of an 8-billion-parameter Llama in bfloat16, of which no weights are needed.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import transformers

import digsite
from digsite.circuits import eap, plan_eap

from .circuits import pairs
from .table import Row, Table, conditions

VOCAB = 2000
SHAPES: dict[str, dict[str, Any]] = {
    "GPT2": {"n_embd": 512, "n_layer": 6, "n_head": 8, "n_positions": 256},
    "Llama": {
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
    },
    "Gemma2": {
        "hidden_size": 512,
        "intermediate_size": 1024,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 64,
    },
}
LLAMA_8B: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "dtype": "bfloat16",
}
PAIRS, LENGTHS, LARGE = 16, (30, 64), (1, 8, 16, 32)


def measure(*, peers: bool, rounds: int | None) -> Table:
    """Runs the benchmark; it has no peers."""
    rows = []
    for family in SHAPES:
        for length in LENGTHS:
            planned, measured = _in_own_process(family, length)
            setting = f"{family}, 6 layers × 512, {PAIRS} pairs × {length} tokens"
            rows += [
                Row(setting=setting, who="digsite", name="planned", value=planned, ratio=1.0),
                Row(
                    setting=setting,
                    who="digsite",
                    name="measured",
                    value=measured,
                    ratio=measured / planned,
                    apart=abs(measured / planned - 1),
                    tolerance=0.1,
                ),
            ]
    config = transformers.LlamaConfig(**LLAMA_8B)
    for batch in LARGE:
        plan = plan_eap(config, 30, batch=batch)
        weights = plan.rows[0].bytes
        setting = (
            "Llama 8B (32 layers × 4096, 32 heads, 8 of keys and values), bfloat16, 30 tokens; ratio by its weights"
        )
        name = f"planned for {batch} pair{'s' if batch > 1 else ''}, weights included"
        rows.append(Row(setting=setting, who="digsite", name=name, value=plan.total / 1e6, ratio=plan.total / weights))
    return Table(
        name="planning",
        question="Is what a plan says of edge attribution's memory what it takes?",
        unit="MB",
        rows=rows,
        conditions=conditions(dtype="float32"),
    )


def _in_own_process(family: str, length: int) -> tuple[float, float]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed.planning", family, str(length)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    planned, measured = map(float, done.stdout.split()[-2:])
    return planned, measured


def _kilobytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


if __name__ == "__main__":
    torch.set_num_threads(1)
    family, length = sys.argv[1], int(sys.argv[2])
    config = getattr(transformers, f"{family}Config")(**SHAPES[family], vocab_size=VOCAB)
    hf = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    model = digsite.load(hf.eval().requires_grad_(requires_grad=False), verify=False)
    plan = plan_eap(model, length, batch=PAIRS)
    eap(model, pairs(2, length, VOCAB))
    task = pairs(PAIRS, length, VOCAB)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _kilobytes("VmRSS")
    eap(model, task)
    print((plan.total - plan.rows[0].bytes) / 1e6, (_kilobytes("VmHWM") - before) * 1024 / 1e6)
