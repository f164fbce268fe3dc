"""Input that no method can make sense of is refused by name; input at the edge of sense has a defined answer."""

import pytest
import torch
from transformers import GPT2Config

import digsite
from architectures import VOCAB, randomised
from digsite._core.errors import BadInput, NoSuchSite, NotFinite
from digsite.circuits import (
    Hypothesis,
    acdc,
    atp_star,
    causal_scrubbing,
    eap,
    eap_ig,
    evaluate_circuit,
    faithfulness,
    information_flow,
    mask_training,
    minimise_circuit,
    nap,
    path_patching,
    relp,
)
from digsite.graphs import edge_space
from paired import paired_task

CONFIG = GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=1, n_head=2, n_positions=16)


def made():
    return digsite.load(randomised(CONFIG), verify=False)


@pytest.fixture(scope="module")
def model():
    return made()


@pytest.fixture(scope="module")
def broken():
    """A model whose MLP gives NaN."""
    found = made()
    with torch.no_grad():
        found.hf.transformer.h[0].mlp.c_proj.weight[0, 0] = torch.nan
    return found


@pytest.fixture(scope="module")
def scores(model):
    return eap(model, paired_task(3))


def every_edge(scores):
    return scores.circuit(1.0)


def scrubbed(model, task):
    classes = torch.arange(len(task))
    return causal_scrubbing(model, task, Hypothesis([("embed", "logits")], {"embed": classes}), draws=1)


METHODS = {
    "eap": lambda model, task, scores: eap(model, task),
    "eap_ig": lambda model, task, scores: eap_ig(model, task, steps=2),
    "relp": lambda model, task, scores: relp(model, task),
    "nap": lambda model, task, scores: nap(model, task),
    "atp_star": lambda model, task, scores: atp_star(model, task),
    "information_flow": lambda model, task, scores: information_flow(model, task),
    "acdc": lambda model, task, scores: acdc(model, task, 0.05),
    "minimise_circuit": lambda model, task, scores: minimise_circuit(model, task, every_edge(scores), share=0.5),
    "mask_training": lambda model, task, scores: mask_training(model, task, 0.3, steps=2, random_circuits=2),
    "path_patching": lambda model, task, scores: path_patching(model, task),
    "causal_scrubbing": lambda model, task, scores: scrubbed(model, task),
    "faithfulness": lambda model, task, scores: faithfulness(
        model, task, scores, shares=(0.1, 0.5, 1.0), random_circuits=2, resamples=5
    ),
    "evaluate_circuit": lambda model, task, scores: evaluate_circuit(model, task, scores.space.real[None]),
}


@pytest.mark.parametrize("name", METHODS)
def test_nan_is_refused(broken, scores, name):
    with pytest.raises(NotFinite, match="must be finite"):
        METHODS[name](broken, paired_task(3), scores)


@pytest.mark.parametrize("name", ["eap", "eap_ig", "relp", "nap", "atp_star"])
def test_attribution_refuses_a_metric_that_is_constant(model, scores, name):
    with pytest.raises(BadInput, match="the same on clean and corrupt prompts"):
        METHODS[name](model, paired_task(3, same=True), scores)


def test_other_methods_and_a_metric_that_is_constant(model, scores):
    task = paired_task(3, same=True)
    with pytest.raises(BadInput, match="with all edges and with none"):
        METHODS["minimise_circuit"](model, task, scores)
    with pytest.raises(BadInput, match="score the same"):
        METHODS["path_patching"](model, task, scores)
    assert len(METHODS["acdc"](model, task, scores)) == 0  # nothing is damaged, so everything is cut


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("mask_training", "causal_scrubbing")])
def test_one_example_is_enough(model, scores, name):
    found = METHODS[name](model, paired_task(1), scores)
    values = getattr(found, "scores", found)
    if isinstance(values, torch.Tensor) and name not in ("acdc", "minimise_circuit"):  # of these only what was scored
        assert values.isfinite().all()


def test_mask_training_needs_examples_to_be_judged_on(model, scores):
    with pytest.raises(BadInput, match="1 examples"):
        METHODS["mask_training"](model, paired_task(1), scores)


def test_no_edge_and_every_edge(model):
    task, space = paired_task(3), edge_space(model)
    ends = torch.stack([torch.zeros_like(space.real), space.real])
    none, every = evaluate_circuit(model, task, ends)
    assert torch.equal(every, task.metric(model.run(task.clean, logits=1).logits))
    assert torch.allclose(none, task.metric(model.run(task.require_corrupt(), logits=1).logits), atol=1e-4)


def test_names_that_do_not_exist(model, scores):
    with pytest.raises(NoSuchSite, match="reads the stream"):
        edge_space(model).flags([("embed", "layers.9.mlp.in")])
    with pytest.raises(NoSuchSite, match="writes to the stream"):
        edge_space(model).flags([("layers.9.mlp.out", "logits")])
    with pytest.raises(NoSuchSite, match="is not a node that was scored"):
        nap(model, paired_task(2)).of("layers.9.mlp.out")
