"""The logit lens reads the stream as the model itself would, so its last layer is the model."""

import pytest
import torch

from architectures import tiny
from digsite.lenses import logit_lens
from digsite.models.load import wrap
from paired import paired_task

ARCHITECTURES = ["gpt2", "llama", "gemma2", "cohere", "granite", "phi", "opt", "falcon_h1", "mamba", "gptj", "mpt"]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_last_layer_is_the_model(name):
    model = wrap(tiny(name), None, name=name, revision=None, attention="eager")
    task = paired_task(lengths=(6, 8))
    result = logit_lens(model, task)
    logits = model.run(task.clean).logits
    assert result.last_layer_error < 1e-4
    for metric, found in (("logit_diff", result.logit_diff), ("prob", result.right), ("rank", result.rank)):
        torch.testing.assert_close(found[-1], task.metric(logits, metric).float(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(result.kl[-1], torch.zeros_like(result.kl[-1]), rtol=0, atol=1e-4)
    assert len(result.layers) == model.n_layers + 1 and result.to_frame().height == model.n_layers + 1


def test_an_answer_written_into_the_stream_is_seen_there_and_not_before():
    model = wrap(tiny("llama"), None, name="llama", revision=None, attention="eager")
    task = paired_task()
    before = logit_lens(model, task).rank[1]
    (ids, _), _ = task.answer_direction_ids()
    stream = model.run(task.clean, read=["layers.1.resid_post"], at=-1)["layers.1.resid_post"]
    moved = stream + 500 * model.weights.W_U.T[ids[:, 0]]
    rank = task.metric(model.readout(moved).unsqueeze(1), "rank")
    assert float(rank.float().mean()) < float(before.mean())
