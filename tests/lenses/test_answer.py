"""Where the answer can be read: the last layer is the model, whatever the lens."""

import pytest
import torch

from architectures import tiny
from digsite._core.errors import BadInput
from digsite.lenses import Lens, logit_lens
from digsite.lenses.lens import Affine
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


def test_another_lens_reads_the_same_stream():
    model = wrap(tiny("llama"), None, name="llama", revision=None, attention="eager")
    task = paired_task()
    change, bias = torch.zeros(64, 64), torch.zeros(64)
    change[3, 5] = 2.0
    lens = Lens(model, "tuned", {"layers.0.resid_post": Affine(change, bias)})
    plain, tuned = logit_lens(model, task), logit_lens(model, task, lens)
    assert torch.equal(plain.right[0], tuned.right[0]) and torch.equal(plain.right[2:], tuned.right[2:])
    assert not torch.equal(plain.right[1], tuned.right[1])
    assert (plain.lens, tuned.lens) == ("logit", "tuned") and tuned.verdict.startswith("Through the tuned lens")


def test_a_lens_that_looks_ahead_or_is_of_another_model_is_refused():
    model, other = (wrap(tiny(name), None, name=name, revision=None, attention="eager") for name in ("llama", "qwen2"))
    with pytest.raises(BadInput, match=r"The future \+2 lens does not say the next token"):
        logit_lens(model, paired_task(), Lens(model, "future", ahead=2))
    with pytest.raises(BadInput, match=r"The logit lens is of another model \(qwen2\)"):
        logit_lens(model, paired_task(), Lens(other))
