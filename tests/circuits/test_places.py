"""Edges at places: a mask for each position is what plain edits at those positions do."""

import pytest
import torch

import digsite
from architectures import tiny
from digsite._core.errors import BadInput, ShapeMismatch
from digsite.circuits import EdgeMux, eap, evaluate_circuit, faithfulness, minimise_circuit
from digsite.circuits.places import asked, places
from digsite.graphs import Circuit, edge_space
from digsite.graphs.circuit import ROLES, prune
from paired import paired_task

LENGTHS = (7, 5)


def loaded(name, dtype=torch.float64):
    return digsite.load(tiny(name, dtype), verify=False)


def placed_mux(model, task, at):
    return EdgeMux(model, task.clean, task.require_corrupt(), places=places(task, at).of)


def logits_of(mux, masks):
    found = {one: logits for which, some in mux(masks) for one, logits in zip(which, some, strict=True)}
    return torch.stack([found[i] for i in range(len(masks))])


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "gemma2"])
def test_the_same_mask_at_every_place_is_the_mask(name):
    # transformers computes attention of padding in float32, where what hides it from float64 is infinite.
    model, task = loaded(name, torch.float32), paired_task(3, lengths=LENGTHS)
    mux = placed_mux(model, task, ["subject"])
    masks = (torch.rand(2, *mux.space.real.shape, generator=torch.Generator().manual_seed(1)) < 0.3) & mux.space.real
    everywhere = logits_of(mux, masks)
    assert torch.allclose(logits_of(mux, masks[:, None].expand(-1, 2, -1, -1)), everywhere, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_an_edge_at_a_place_is_an_edit_there(name):
    """Cut at the subject alone: the reader gets the writer's change at that position of each row, and nowhere else."""
    model, task = loaded(name, torch.float32), paired_task(3, lengths=LENGTHS)
    writer, reader = "layers.0.mlp.out", "layers.1.mlp.in"
    mux = placed_mux(model, task, ["subject"])
    masks = torch.zeros(2, 2, *mux.space.real.shape, dtype=torch.bool)
    for place in range(2):  # the subject, elsewhere
        masks[place, place][mux.space.index((writer, reader))] = True
    clean, corrupt = (model.run(tokens, read=[writer])[writer] for tokens in (task.clean, task.require_corrupt()))
    there = places(task, ["subject"]).of == 0
    assert there.sum(1).tolist() == [1, 1, 1]
    for place, logits in enumerate(logits_of(mux, masks)):
        member = there if place == 0 else ~there
        edit = digsite.add(reader, (corrupt - clean) * member[..., None])
        assert torch.allclose(logits, model.run(task.clean, edits=[edit], logits=1).logits, rtol=1e-4, atol=1e-4)


def test_a_score_at_a_place_is_what_the_first_bit_of_cutting_there_does():
    model, task = loaded("llama"), paired_task(3)
    found = eap(model, task, at="each")
    mux = placed_mux(model, task, "each")
    largest = found.scores.mean(0).abs().flatten().topk(6).indices
    where = torch.stack(torch.unravel_index(largest, found.scores.shape[1:]), 1)
    step = 1e-3
    little = torch.zeros(2 * len(where), *found.scores.shape[1:], dtype=torch.float64)
    for i, one in enumerate(where.tolist()):
        little[(2 * i, *one)], little[(2 * i + 1, *one)] = step, -step
    metric = torch.stack([task.metric(one) for one in logits_of(mux, little)])
    slope = -(metric[::2] - metric[1::2]) / (2 * step)
    scores = found.scores[(slice(None), *where.T)].T
    assert float((scores - slope).abs().max()) < 0.01 * float(found.scores.abs().max())


def test_a_circuit_keeps_its_places_through_files_and_judging(tmp_path):
    model, task = loaded("gpt2"), paired_task(6)
    scores = eap(model, task, at=["subject"])
    found = scores.circuit(0.3)
    assert found.places == ("subject", "elsewhere") and found.possible == 2 * len(found.space)
    again = Circuit.load(found.save(tmp_path / "found"))
    assert torch.equal(again.kept, found.kept) and again.places == found.places
    (tmp_path / "found" / ROLES).mkdir()
    found.save(tmp_path / "found")
    assert not (tmp_path / "found" / ROLES).exists(), "roles of an older circuit are not those of a new one"
    assert set(found.to_frame()["place"]) <= set(found.places) and len(found.to_frame()) == len(found)
    kept = evaluate_circuit(model, task, found.kept[None], at=asked(found.places))
    judged = faithfulness(model, task, scores, shares=(0.3, 1.0), random_circuits=2, resamples=2)
    assert torch.allclose(judged.kept[0], kept[0].float(), atol=1e-5)
    assert judged.edges == found.possible and float(judged.curve[-1]) == pytest.approx(1, abs=1e-4)
    share = float(judged.curve[0])
    smaller = minimise_circuit(model, task, found, share=share - 0.05)
    assert smaller.places == found.places and len(smaller) <= len(found)


def test_a_query_is_handed_on_at_its_place_and_a_key_from_any():
    space = edge_space(loaded("gpt2"))
    kept = torch.zeros(2, *space.real.shape, dtype=torch.bool)
    query, key = (space.index(("embed", f"layers.0.attn.{part}_in[1]")) for part in "qk")
    out = space.index(("layers.0.attn.result[1]", "logits"))
    kept[0][query] = kept[0][key] = kept[1][out] = True
    left = prune(space, kept, placed=True)
    assert not left[0][query], "the head's output is used at another place than its query"
    assert left[0][key] and left[1][out]


def test_grown_circuits_lead_to_the_logits_at_every_place():
    model, task = loaded("llama"), paired_task(3)
    found = eap(model, task, at=["subject"]).circuit(40, select="greedy")
    moves, inputs = found.space.moves, found.space.inputs
    wrote = found.kept.any(2)
    for place, _, reader in found.kept.nonzero().tolist():
        owners = inputs[:, reader]
        used = wrote.any(0) if moves[reader] else wrote[place]
        assert not owners.any() or used[owners].any()


def test_other_places_are_refused():
    model, task = loaded("gpt2"), paired_task(3, lengths=LENGTHS)
    kept = edge_space(model).real.expand(1, 3, -1, -1)
    with pytest.raises(ShapeMismatch, match="about other places"):
        evaluate_circuit(model, task, kept, at=["subject"])
    with pytest.raises(BadInput, match="prompts of one length"):
        eap(model, task, at="each")


def test_names_of_places_say_how_they_were_asked_for():
    assert asked(("all",)) is None and asked(()) is None
    assert asked(("0", "1", "2")) == "each"
    assert asked(("S2", "IO", "elsewhere")) == ["S2", "IO"]
