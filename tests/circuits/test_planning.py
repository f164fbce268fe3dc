"""Memory plans of edge attribution: what they say it holds is what it holds, and the batch they advise fits."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import transformers

import digsite
from architectures import CONFIGS, tiny
from digsite._core.errors import BadInput
from digsite.circuits import eap, plan_eap
from paired import paired_task

SMALL = transformers.GPT2Config(
    n_embd=64, n_layer=2, n_head=4, n_positions=64, vocab_size=101, bos_token_id=0, eos_token_id=0
)
MEASURED = """
import sys
import torch, transformers, digsite
sys.path.insert(0, {tests!r})
import paired
from digsite.circuits import eap, plan_eap
paired.VOCAB = 2000
hf = transformers.AutoModelForCausalLM.from_config(transformers.{family}Config(**{config}), attn_implementation="eager")
hf.eval().requires_grad_(False)
model = digsite.load(hf, verify=False)
plan = plan_eap(model, {pos}, batch={batch})
eap(model, paired.paired_task(2, lengths=({pos},)))
task = paired.paired_task({batch}, lengths=({pos},))
def kilobytes(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))
open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here
before = kilobytes("VmRSS")
eap(model, task)
print(plan.total - plan.rows[0].bytes, (kilobytes("VmHWM") - before) * 1024)
"""
SHAPES = {
    "GPT2": {"n_embd": 512, "n_layer": 6, "n_head": 8, "n_positions": 256, "vocab_size": 2000},
    "Llama": {
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "vocab_size": 2000,
    },
    "Gemma2": {
        "hidden_size": 512,
        "intermediate_size": 1024,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "vocab_size": 2000,
    },
}


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_a_loaded_model_and_its_config_have_one_plan(name):
    config = CONFIGS[name]()
    loaded, unloaded = (plan_eap(model, 7, batch=3) for model in (digsite.load(tiny(name), verify=False), config))
    assert [row.bytes for row in loaded.rows] == [row.bytes for row in unloaded.rows]


def test_scores_and_runs_are_products_of_shapes():
    model = digsite.load(transformers.GPT2LMHeadModel(SMALL).eval(), verify=False)
    plan = {row.what: row.bytes for row in plan_eap(model, 7, batch=3).rows}
    found = eap(model, paired_task(3))
    assert plan["scores"] == found.scores.nbytes
    assert plan["weights"] == sum(x.nbytes for x in (*model.hf.parameters(), *model.hf.buffers()))
    writers = 2 + 2 * 2  # embeddings and positions, z and the MLP of two layers
    stream = 3 * 7 * 64 * 4
    assert 2 * (writers - 1) * stream <= plan["clean and corrupt run"] <= 2 * writers * stream + 2 * 3 * 101 * 4 + 100


def test_the_plan_halves_with_the_dtype():
    whole, half = (plan_eap(SMALL, 7, batch=3, dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert half.rows[1].bytes < 0.51 * whole.rows[1].bytes
    assert half.rows[2].bytes == whole.rows[2].bytes  # scores are float32


@pytest.mark.slow
def test_the_batch_that_is_advised_fits_and_one_more_does_not():
    one, many = (plan_eap(SMALL, 7, batch=batch).total for batch in (1, 16))
    plan = plan_eap(SMALL, 7, batch=16, budget=(one + many) // 2)
    assert plan.fits is False
    (call,) = plan.advice
    batch = int(call.removeprefix("eap(batch=").removesuffix(")"))
    assert plan.then == plan_eap(SMALL, 7, batch=batch).total <= (one + many) // 2
    assert plan_eap(SMALL, 7, batch=batch + 1).total > (one + many) // 2
    assert plan_eap(SMALL, 7, batch=16, budget=many).fits
    assert "No set of these changes is enough" in plan_eap(SMALL, 7, batch=16, budget="1kB").verdict


def test_an_empty_batch_is_refused():
    with pytest.raises(BadInput, match="not a shape of tokens"):
        plan_eap(SMALL, 7, batch=0)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process from /proc")
@pytest.mark.parametrize("family", SHAPES)
def test_the_predicted_peak_is_the_measured_one(family):
    """Within 10 %, with every large block given back when it is freed."""
    code = MEASURED.format(tests=str(Path(__file__).parents[1]), family=family, config=SHAPES[family], pos=64, batch=16)
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2] / "src")
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    predicted, measured = map(int, done.stdout.split())
    assert measured > 50e6
    assert abs(predicted / measured - 1) < 0.10
