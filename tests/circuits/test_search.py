"""Searches: speculation changes nothing, and what is left cannot be left out."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from transformers import GPT2Config

import digsite
from architectures import VOCAB, randomised
from digsite._core.errors import BadInput
from digsite.circuits import acdc, eap_ig, evaluate_circuit, exhaustive, minimise, minimise_circuit
from digsite.graphs import edge_space
from digsite.graphs.circuit import prune
from digsite.toys.aligned import aligned
from paired import paired_task


@pytest.fixture(scope="module")
def model():
    config = GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=2, n_positions=16)
    return digsite.load(randomised(config), verify=False)


@pytest.fixture(scope="module")
def trained():
    """A network that was trained to be an induction circuit, and its task."""
    known = aligned("aligned-induction")
    return known.model, known.task(4)


@pytest.mark.parametrize("how", ["corrupt", "zero"])
@pytest.mark.parametrize("threshold", [0.003, 0.03])
def test_acdc_with_speculation_is_acdc_without(trained, how, threshold):
    model, task = trained
    slow, *fast = (acdc(model, task, threshold, how=how, window=window) for window in (1, 5, 64))
    assert 0 < len(slow) < len(slow.space)
    for one in fast:
        assert torch.equal(one.kept, slow.kept)
    assert fast[1].cost.forwards < fast[0].cost.forwards < slow.cost.forwards / 2


@pytest.mark.slow
def test_acdc_guesses_about_any_metric_and_several_batches(trained):
    model, task = trained
    slow, fast = (acdc(model, task, 0.05, metric="logit_diff", window=window, batch=3) for window in (1, 64))
    assert torch.equal(fast.kept, slow.kept)
    assert 0 < len(fast) < len(fast.space)
    assert fast.cost.forwards * 4 < slow.cost.forwards


def test_acdc_is_the_algorithm_as_published(trained):
    """One edge after the other, in twenty lines, with nothing shared and nothing speculated."""
    (model, task), threshold = trained, 0.01
    space = edge_space(model)
    kept, damage = space.real.clone(), 0.0
    for reader in reversed(range(len(space.readers))):
        owner = space.inputs[:, reader]
        used = not owner.any() or kept[owner].any()
        for writer in reversed(range(space.before[reader])):
            without = kept.clone()
            without[writer, reader] = False
            new = float(evaluate_circuit(model, task, without[None], metric="kl").mean()) if used else damage
            if new - damage < threshold:
                kept, damage = without, new
    found = acdc(model, task, threshold)
    assert torch.equal(found.kept, prune(space, kept))
    assert len(found)


def test_minimise_agrees_with_all_subsets(model):
    task = paired_task(4)
    scores = eap_ig(model, task).mean()
    space = edge_space(model)
    best = scores.abs().masked_fill(~space.real, -1).flatten().topk(8).indices
    edges = [(space.writers[i // len(space.readers)], space.readers[i % len(space.readers)]) for i in best.tolist()]
    subsets, metric = exhaustive(model, task, edges)
    value = {tuple(subset.tolist()): float(one.mean()) for subset, one in zip(subsets, metric, strict=True)}
    none, every = value[(False,) * 8], value[(True,) * 8]

    def holds(tried):
        flags = [tuple(edge in one for edge in edges) for one in tried]
        return [(value[flag] - none) / (every - none) >= 0.6 for flag in flags]

    left = minimise(edges, holds)
    assert holds([left])[0]
    assert not any(holds([[edge for edge in left if edge != gone] for gone in left]))


def test_a_minimised_circuit_is_one_minimal(model):
    task = paired_task(4)
    whole = eap_ig(model, task).circuit(0.5)
    ends = evaluate_circuit(model, task, torch.stack([torch.zeros_like(whole.kept), whole.space.real])).mean(1)
    share = 0.9 * float((evaluate_circuit(model, task, whole.kept[None]).mean() - ends[0]) / (ends[1] - ends[0]))
    small = minimise_circuit(model, task, whole, share=share)
    assert len(small) < len(whole)
    without = small.kept.repeat(len(small) + 1, 1, 1)
    for row, (writer, reader) in enumerate(small.kept.nonzero().tolist()):
        without[row, writer, reader] = False
    kept = (evaluate_circuit(model, task, without).mean(1) - ends[0]) / (ends[1] - ends[0])
    assert kept[-1] >= share
    assert (kept[:-1] < share + 1e-5).all()


@given(some.sets(some.integers(0, 19)), some.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_what_is_needed_is_found_exactly(needed, count):
    items = list(range(20))
    left = minimise(items, lambda subsets: [needed <= set(subset) for subset in subsets])
    assert set(left) == needed


def test_minimise_refuses_what_does_not_hold():
    with pytest.raises(BadInput, match="nothing to minimise"):
        minimise([1, 2], lambda subsets: [False] * len(subsets))


def test_a_threshold_must_be_positive(model):
    with pytest.raises(BadInput, match="positive threshold"):
        acdc(model, paired_task(2), 0.0)


def test_a_circuit_of_another_model_is_refused(model):
    task = paired_task(2)
    config = GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=1, n_head=2, n_positions=16)
    other = eap_ig(digsite.load(randomised(config), verify=False), task).circuit(0.2)
    with pytest.raises(BadInput, match="belongs to another model"):
        minimise_circuit(model, task, other)


def test_every_subset_is_listed_once(model):
    space = edge_space(model)
    subsets, _ = exhaustive(model, paired_task(2), space.edges[:4])
    assert {tuple(one) for one in subsets.tolist()} == set(itertools.product([False, True], repeat=4))
