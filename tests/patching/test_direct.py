"""Direct attribution is an exact decomposition of the logit difference."""

import pytest
import torch

import digsite
from architectures import tiny
from digsite.models.load import wrap
from digsite.models.readout import softcap
from digsite.patching import direct_attribution
from paired import paired_task

ARCHITECTURES = [
    "gpt2", "gpt_neox", "gptj", "llama", "phi", "phi3", "gemma", "gemma2", "olmo2", "granite", "cohere", "bloom",
    "falcon", "opt", "mixtral", "gpt_oss", "deepseek_v3", "falcon_h1", "mamba",
]  # fmt: skip


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_sum_is_the_metric(name):
    model = wrap(tiny(name), None, name=name, revision=None, attention="eager")
    model.snapshots = frozenset({(layer, "mlp.out") for layer in range(3)} if name == "falcon" else ())
    task = paired_task()
    result = direct_attribution(model, task)
    assert result.error < 1e-3 * max(1.0, float(result.metric.abs().max()))
    if softcap(model.hf) is None:
        torch.testing.assert_close(result.metric, task.metric(model.run(task.clean).logits, "logit_diff"))
    if model.n_heads:
        assert f"layers.1.attn.z[{model.n_heads - 1}]" in result.components


def test_a_head_attribution_is_its_effect_on_a_frozen_norm():
    """Removing what a head writes, with the final norm's scale held fixed, changes the metric by its attribution."""
    model = wrap(tiny("llama"), None, name="llama", revision=None, attention="eager")
    task = paired_task()
    result = direct_attribution(model, task)
    last = model.n_layers - 1
    scale = model.run(task.clean, read=["final.norm.scale"])["final.norm.scale"]
    result_site = f"layers.{last}.attn.result[2]"
    base = model.run(task.clean, read=[f"layers.{last}.mlp.out"])
    frozen = [
        digsite.replace("final.norm.scale", scale),
        digsite.replace(f"layers.{last}.mlp.out", base[f"layers.{last}.mlp.out"]),
        digsite.ablate(result_site),
    ]
    changed = task.metric(model.run(task.clean, edits=frozen).logits, "logit_diff")
    row = result.components.index(f"layers.{last}.attn.z[2]")
    torch.testing.assert_close(result.metric - changed, result.values[row], rtol=1e-3, atol=1e-3)


def test_the_null_reads_another_examples_answers():
    model = wrap(tiny("gpt2"), None, name="gpt2", revision=None, attention="eager")
    result = direct_attribution(model, paired_task())
    assert not torch.allclose(result.null, result.values)


def test_norms_inside_the_stream_are_refused():
    model = wrap(tiny("opt_post_norm"), None, name="opt", revision=None, attention="eager")
    with pytest.raises(NotImplementedError, match="not a sum of components"):
        direct_attribution(model, paired_task())
