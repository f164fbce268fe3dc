"""Answers of several tokens, of unequal length: every method scores an example as it would by itself, or refuses."""

import pytest
import torch

import digsite
from architectures import tiny
from digsite._core.errors import Unsupported
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
from digsite.lenses import logit_lens
from digsite.models.load import wrap
from digsite.patching import (
    ablation,
    activation_patching,
    chain_patching,
    components,
    direct_attribution,
    evaluate_sets,
)
from digsite.tasks import Chain, chain_task


@pytest.fixture(scope="module")
def model():
    return wrap(tiny("llama"), None, name="llama", revision=None, attention="eager")


@pytest.fixture(scope="module")
def task(model):
    """Three pairs of texts of different lengths; answers of 3 and 2, 1 and 3, 2 and 2 tokens."""
    generator = torch.Generator().manual_seed(0)

    def draw(count):
        return torch.randint(3, 97, (count,), generator=generator).tolist()

    sides = [], []
    for front, widths in zip((2, 4, 3), ((3, 2), (1, 3), (2, 2)), strict=True):
        end = draw(2)
        for side, width in zip(sides, widths, strict=True):
            side.append(Chain.of(model, {"question": draw(front), "end": end}, draw(width)))
    return chain_task(model, *sides)


def half(model):
    real = edge_space(model).real
    chosen = torch.rand(real.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    return torch.stack([real & chosen, real])


def sets(model):
    return torch.rand(3, len(components(model)), generator=torch.Generator().manual_seed(2)) < 0.5


SCORES = {
    "eap": lambda model, task: eap(model, task).scores,
    "eap at spans": lambda model, task: eap(model, task, at=["question", "end"]).scores,
    "eap_ig": lambda model, task: eap_ig(model, task, steps=2).scores,
    "relp": lambda model, task: relp(model, task).scores,
    "nap": lambda model, task: nap(model, task).scores,
    "atp_star": lambda model, task: atp_star(model, task).scores,
    "information_flow": lambda model, task: information_flow(model, task).scores,
    "evaluate_circuit": lambda model, task: evaluate_circuit(model, task, half(model)).T,
    "evaluate_circuit, edge": lambda model, task: evaluate_circuit(model, task, half(model), semantics="edge").T,
    "path_patching": lambda model, task: path_patching(model, task).patched.T,
    "path_patching, mlps": lambda model, task: path_patching(model, task, through="mlps").patched.T,
    "evaluate_sets": lambda model, task: evaluate_sets(model, task, sets(model)).T,
    "activation_patching": lambda model, task: activation_patching(model, task, "layers.*.attn.z[*]").patched.T,
    "activation_patching, spans": lambda model, task: (
        activation_patching(model, task, "layers.*.resid_pre", at=["question", "end", "answer"]).patched.T
    ),
    "chain_patching": lambda model, task: chain_patching(model, task).state.T,
}


@pytest.mark.parametrize("name", SCORES)
def test_an_example_is_scored_as_by_itself(model, task, name):
    assert task.keep == 3 and len(task.clean) == 6
    together = SCORES[name](model, task)
    assert len(together) == 3 and float((together[0] - together[1]).abs().max()) > 1e-4
    for i in range(3):
        alone = SCORES[name](model, task.take(i))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=2e-3, atol=2e-3)


def test_gradients_of_long_answers_are_what_cutting_a_little_does(model, task):
    """The score of all edges into the logits from the last MLP, against the metric itself."""
    scores = eap(model, task).mean()
    mux = digsite.circuits.EdgeMux(model, task.clean, task.require_corrupt(), keep=task.keep)
    writer, reader = mux.space.index(("layers.2.mlp.out", "logits"))
    little = torch.zeros(2, *mux.space.real.shape)
    little[0, writer, reader], little[1, writer, reader] = 1e-2, -1e-2
    cut = torch.cat([logits for _, logits in mux(little)])
    more, less = (task.metric(one).mean() for one in cut)
    torch.testing.assert_close((less - more) / 2e-2, scores[writer, reader], rtol=2e-2, atol=1e-3)


def test_searches_take_long_answers(model, task):
    found = acdc(model, task, 0.01, metric="kl")
    assert 0 < len(found) <= len(found.space)
    scores = eap(model, task)
    judged = faithfulness(model, task, scores, shares=(0.1, 1.0), random_circuits=1, resamples=2)
    torch.testing.assert_close(judged.full, scores.clean, rtol=1e-3, atol=1e-3)
    small = minimise_circuit(model, task, scores.circuit(0.9), share=0.2)
    assert len(small) <= len(found.space)
    assert mask_training(model, task, 0.5, over="nodes", steps=2, random_circuits=1).circuit.name == task.name
    assert ablation(model, task, ["layers.1.mlp.out"], random_sets=2).knockout.shape == (3,)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (lambda model, task: direct_attribution(model, task), "which no single direction reads"),
        (lambda model, task: logit_lens(model, task), "The logit lens reads one-token answers"),
        (lambda model, task: causal_scrubbing(model, task, Hypothesis([])), "Causal scrubbing takes one-token answers"),
    ],
)
def test_what_needs_one_token_says_so(model, task, method, message):
    with pytest.raises(Unsupported, match=message):
        method(model, task)
