"""The same question at another level: where the answer is known, it is found; what is moved remembers whence."""

import pytest
import torch

import digsite
from digsite._core.errors import BadInput
from digsite.circuits import eap
from digsite.dictionaries import load
from digsite.investigations import move, neighbours
from digsite.journal import Dig
from digsite.toys.aligned import aligned

HEADS = {"layers.0.attn.z[1]", "layers.1.attn.z[2]"}


@pytest.fixture(scope="module")
def toy():
    return aligned("aligned-induction")


@pytest.fixture(scope="module")
def model():
    return digsite.load("digsite/tinyworld", verify=False)


def test_a_behaviour_leads_to_the_heads_of_its_program(toy):
    found = neighbours(toy.model, "behaviour", "head", task=toy.task(32))
    assert set(found.subjects[:2]) == HEADS
    assert (found.scores > found.null).all() and found.subjects[0] in found.verdict


def test_a_circuit_leads_to_its_heads_and_a_head_to_the_circuits_that_have_it(toy, tmp_path):
    task = toy.task(16)
    made = eap(toy.model, task).circuit(8)
    made.save(tmp_path / "circuit")
    found = neighbours(toy.model, "circuit", "head", folder=tmp_path)
    assert set(found.subjects) == {node.replace(".result[", ".z[") for node in made.nodes}
    back = neighbours(toy.model, found.subjects[0], "circuit", circuits={"circuit": made})
    assert back.subjects == ("circuit",) and torch.equal(back.scores, found.scores[:1])
    outside = next(f"layers.0.attn.z[{i}]" for i in range(4) if f"layers.0.attn.result[{i}]" not in made.nodes)
    assert neighbours(toy.model, outside, "circuit", circuits={"circuit": made}).subjects == ()


def test_a_neuron_and_a_latent_that_write_the_same_find_each_other(model, tmp_path):
    """A latent that is given a neuron's own direction."""
    from digsite.dictionaries import save

    dictionary = load("digsite/tinyworld/sae-1")
    with torch.no_grad():
        dictionary.blocks[0].W_dec(dictionary.writes[0])[7].copy_(model.weights.W_out[1][30])
    save(dictionary, tmp_path / "sae")
    there = neighbours(model, "layers.1.mlp.act#30", "latent", dictionary="sae", folder=tmp_path)
    assert there.subjects[0] == "sae#7" and there.scores[0] == pytest.approx(1, abs=1e-3)
    back = neighbours(model, "sae#7", "neuron", folder=tmp_path)
    assert back.subjects[0] == "layers.1.mlp.act#30"


def test_a_head_leads_to_the_latents_that_it_writes(model):
    """What the score says of a latent is what taking the head away does to it."""
    task = digsite.tasks.ioi(model, n=8)
    found = neighbours(model, "layers.0.attn.z[5]", "latent", task=task)
    assert found.subjects and all(name.startswith("digsite/tinyworld/sae-0#") for name in found.subjects)
    with pytest.raises(BadInput, match="writes nothing into a layer before it"):
        neighbours(model, "layers.3.attn.z[5]", "latent", task=task, dictionary="digsite/tinyworld/sae-0")


def test_moving_writes_open_findings_that_remember_whence_and_why(toy, tmp_path):
    dig = Dig.init(tmp_path / "dig")
    task = toy.task(24)
    setting = {"model": toy.model.name, "task": task.name, "n": 24}
    first = dig.findings.add("It does induction", level="behaviour", subject="behaviour", setting=setting).id
    made, found = move(dig, first, "head", toy.model, task=task, most=2)
    assert {one.subject for one in made} == HEADS
    for one in made:
        assert (one.status, one.level, one.moved_from, one.setting) == ("open", "head", first, setting)
        assert [(e.run, e.stance) for e in one.evidence] == [(1, "for")] and "chance" in one.evidence[0].words
    assert dig.result(1).verdict == found.verdict

    with pytest.raises(BadInput, match="There is no circuit to look in"):
        move(dig, made[0].id, "circuit", toy.model, task=task)
    recording = dig.begin("circuits.eap", "eap(model, task).circuit(12)")
    recording.done(eap(toy.model, task).circuit(12))
    circuits, _ = move(dig, made[0].id, "circuit", toy.model, task=task)
    assert [one.subject for one in circuits] == [f"runs/{recording.number:04d}-eap"]


def test_ways_that_are_not_there_are_refused(toy, model, tmp_path):
    with pytest.raises(BadInput, match=r"(?s)no way from head \(layers.0.attn.z\[1\]\) to neuron.*head to latent"):
        neighbours(toy.model, "layers.0.attn.z[1]", "neuron")
    with pytest.raises(BadInput, match="needs prompts"):
        neighbours(model, "layers.0.attn.z[1]", "latent")
    with pytest.raises(BadInput, match="has no built-in dictionary of layer 0"):
        neighbours(toy.model, "layers.0.attn.z[1]", "latent", task=toy.task(4))
    dig = Dig.init(tmp_path / "dig")
    number = dig.findings.add("It", level="behaviour", subject="behaviour", setting={"model": "other"}).id
    with pytest.raises(BadInput, match=f"Finding {number} is about the model other"):
        move(dig, number, "head", toy.model)
    with pytest.raises(BadInput, match="'hed' is no level"):
        move(dig, number, "hed", toy.model)
