"""One circuit under every way of cutting: known ends, the worth of each edge by plain evaluation, random circuits."""

import pytest
import torch

import digsite
from architectures import tiny
from digsite._core.errors import BadInput
from digsite.circuits import CircuitJudgement, eap, evaluate_circuit, faithfulness, judge_circuit
from digsite.circuits.judging import share_kept
from digsite.models import untrained
from paired import paired_task


@pytest.fixture(scope="module")
def model():
    return digsite.load(tiny("gpt2"), verify=False)


@pytest.fixture(scope="module")
def task():
    return paired_task(6)


@pytest.fixture(scope="module")
def found(model, task):
    return eap(model, task).circuit(0.3)


@pytest.fixture(scope="module")
def judged(model, task, found):
    return judge_circuit(model, task, found, random_circuits=3, minimality=True)


def test_each_way_says_what_evaluation_says(model, task, found, judged):
    for way, name in enumerate(judged.ways):
        how, semantics = name.split(", ")
        masks = torch.stack([found.kept, found.space.real & ~found.kept])
        kept, rest = evaluate_circuit(model, task, masks, how=how, semantics=semantics)
        assert torch.allclose(judged.kept[way], kept) and torch.allclose(judged.rest[way], rest)
    assert float(judged.share(0, judged.full[0].mean())) == 1 and float(judged.share(0, judged.empty[0].mean())) == 0
    assert torch.allclose(judged.full[0], judged.full[2]), "with every edge kept the donor does not matter"


def test_an_edge_is_worth_what_is_lost_without_it(model, task, found, judged):
    row = found.to_frame().row(0, named=True)
    without = found.kept.clone()
    without[found.space.index((row["writer"], row["reader"]))] = False
    metric = evaluate_circuit(model, task, torch.stack([found.kept, without])).mean(1)
    lost = share_kept(metric, judged.empty[0], judged.full[0])
    assert float(judged.without[0]) == pytest.approx(float(lost[0] - lost[1]), abs=1e-5)
    assert len(judged.without) == len(found)


def test_it_is_saved_and_read_back(judged, tmp_path):
    again = CircuitJudgement.load(judged.save(tmp_path / "judged"))
    assert again.verdict == judged.verdict and torch.equal(again.random, judged.random)


def test_no_edge_and_every_edge_have_defined_answers(model, task, found):
    nothing, everything = found.with_edges(torch.zeros_like(found.kept)), found.with_edges(found.space.real)
    ways = [("corrupt", "tree")]
    assert judge_circuit(model, task, nothing, ways=ways).to_frame()["kept"].to_list() == [0.0]
    assert judge_circuit(model, task, everything, ways=ways).to_frame()["kept"].to_list() == [1.0]


def test_bad_input(model, task, found):
    with pytest.raises(BadInput, match="needs a way of cutting"):
        judge_circuit(model, task, found, ways=[])
    other = digsite.load(tiny("llama"), verify=False)
    with pytest.raises(BadInput, match="belongs to another model"):
        judge_circuit(other, task, found)
    with pytest.raises(BadInput, match="does not change the metric"):
        judge_circuit(model, paired_task(3, same=True), found)


def test_shuffled_weights_have_the_same_entries_in_other_places(model):
    before = {name: weight.clone() for name, weight in model.hf.named_parameters()}
    other = untrained(model)
    for name, weight in other.hf.named_parameters():
        assert torch.equal(weight.flatten().sort().values, before[name].flatten().sort().values)
        assert weight.ndim < 2 or not torch.equal(weight, before[name])
    assert all(torch.equal(weight, before[name]) for name, weight in model.hf.named_parameters())


def test_the_method_is_run_again_on_shuffled_weights(model, task):
    scores = eap(model, task)
    control = faithfulness(model, task, scores, shares=(0.2, 1.0), random_circuits=1, resamples=0, rescore=eap)
    assert control.untrained[-1] == pytest.approx(1, abs=1e-4) and not control.untrained.isnan().any()
    other = untrained(model)
    by_hand = faithfulness(other, task, eap(other, task), shares=(0.2, 1.0), random_circuits=0, resamples=0)
    assert torch.allclose(control.untrained, by_hand.curve)
    without = faithfulness(model, task, scores, shares=(0.2, 1.0), random_circuits=1, resamples=0)
    assert without.untrained.isnan().all()
