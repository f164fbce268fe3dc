"""Roles: a model whose heads change places is matched back, strangers are not, and nothing hangs on names."""

import copy

import pytest
import torch
from transformers import GPT2LMHeadModel

import digsite
from architectures import tiny
from digsite import toys
from digsite._core.errors import BadInput
from digsite.circuits import RoleMatch, Roles, eap_ig, match_roles, node_roles
from digsite.circuits.matching import carried, role_edges
from digsite.toys.aligned import aligned
from paired import paired_task

ORDERS = [[2, 0, 3, 1], [3, 1, 0, 2]]
"""Which head of each layer comes to stand where."""


def permuted(hf, orders):
    """The same network with its heads in another order."""
    hf = copy.deepcopy(hf)
    width, size = hf.config.n_embd, hf.config.n_embd // hf.config.n_head
    with torch.no_grad():
        for block, order in zip(hf.transformer.h, orders, strict=True):
            one = torch.cat([torch.arange(size) + head * size for head in order])
            three = torch.cat([one + part * width for part in range(3)])
            block.attn.c_attn.weight.copy_(block.attn.c_attn.weight[:, three].clone())
            block.attn.c_attn.bias.copy_(block.attn.c_attn.bias[three].clone())
            block.attn.c_proj.weight.copy_(block.attn.c_proj.weight[one].clone())
    return hf


@pytest.fixture(scope="module")
def known():
    return aligned("aligned-induction")


@pytest.fixture(scope="module")
def made(known):
    """Roles and circuits of the network, of itself with heads in another order, and of one that was never trained."""
    task = known.task(16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        untrained = GPT2LMHeadModel(known.model.hf.config).eval()

    def found(hf):
        model = digsite.load(hf, tokenizer=known.model.tokenizer, verify=False)
        scores = eap_ig(model, task)
        return node_roles(model, task, scores, draws=5), scores.circuit(0.1)

    return [found(hf) for hf in (known.model.hf, permuted(known.model.hf, ORDERS), untrained)]


@pytest.fixture(scope="module")
def matched(made):
    (one, circuit), (other, turned), _ = made
    return match_roles(one, other, (circuit, turned), draws=40)


def test_heads_that_changed_places_are_matched_back(matched):
    wanted = {
        f"layers.{layer}.attn.result[{head}]": f"layers.{layer}.attn.result[{place}]"
        for layer, order in enumerate(ORDERS)
        for place, head in enumerate(order)
    } | {f"layers.{layer}.mlp.out": f"layers.{layer}.mlp.out" for layer in range(2)}
    assert dict(zip(matched.first, matched.second, strict=True)) == wanted
    assert matched.similarity == pytest.approx(1.0, abs=1e-4)
    assert matched.overlap == 1.0 and matched.weighted == pytest.approx(1.0, abs=1e-4)


def test_the_null_is_below_and_its_part_in_the_verdict(matched):
    assert matched.similarity_null.mean() < 0.6 and matched.overlap_null.mean() < 0.6
    assert (matched.numbers()["p"] < 0.1).all()
    assert "layers alone" in matched.verdict
    assert matched.weight.sum() == pytest.approx(1.0, abs=1e-5)


def test_a_network_that_was_never_trained_has_no_such_roles(made):
    (one, circuit), _, (other, random) = made
    strangers = match_roles(one, other, (circuit, random), draws=40)
    assert strangers.similarity < strangers.similarity_null.quantile(0.95)
    assert strangers.weighted < 0.3
    assert "no more than layers give" in strangers.verdict


@pytest.mark.slow
def test_another_seed_learns_the_same_roles(known, made, tmp_path):
    task, (one, circuit) = known.task(16), made[0]
    model = aligned(toys.train("aligned-induction", tmp_path / "other", seed=1)).model
    scores = eap_ig(model, task)
    alike = match_roles(one, node_roles(model, task, scores), (circuit, scores.circuit(0.1)))
    assert alike.similarity > 0.7 and alike.weighted > 0.7
    assert (alike.numbers()["p"] < 0.05).all()


def test_the_nodes_of_the_program_are_the_important_ones_and_do_what_it_says(known, made):
    frame = made[0][0].to_frame()
    assert {name.replace("result", "z") for name in frame["node"][:2]} == {step.node for step in known.program.steps}
    rows = {row["node"]: row for row in frame.rows(named=True)}
    previous, follower = rows["layers.0.attn.result[1]"], rows["layers.1.attn.result[2]"]
    assert previous["attends position before"] > 0.8
    assert previous["feeds keys"] > 0.8 and follower["reads heads by key"] > 0.2
    assert follower["feeds logits"] > 0.8
    assert rows["layers.1.mlp.out"]["attends position before"] is None


def test_shares_are_shares(made):
    one = made[0][0]
    assert one.importance.sum() == pytest.approx(1.0, abs=1e-5)
    reads = [i for i, name in enumerate(one.traits) if name.startswith("reads")]
    feeds = [i for i, name in enumerate(one.traits) if name.startswith("feeds")]
    assert torch.allclose(one.profile[:, reads].nansum(1), torch.ones(len(one.nodes)), atol=1e-4)
    assert torch.allclose(one.profile[:, feeds].sum(1), torch.ones(len(one.nodes)), atol=1e-4)


def test_spans_are_traits_and_attention_of_a_row_sums_to_one():
    model = digsite.load("digsite/tinyworld")
    task = digsite.tasks.ioi(model, n=4)
    found = node_roles(model, task, eap_ig(model, task, steps=1), spans=["IO", "S2"], draws=1)
    assert {"attends answer → IO", "attends S2 → IO", "attends IO → S2"} <= set(found.traits)
    direct = model.run(task.clean, read=["layers.3.attn.pattern"], logits=1)["layers.3.attn.pattern"][:, 4, -1]
    columns = torch.arange(direct.shape[1]) - torch.tensor(task.clean.starts)[:, None]
    at = (columns >= task.spans["S2"][:, :1]) & (columns < task.spans["S2"][:, 1:])
    row = next(one for one in found.to_frame().rows(named=True) if one["node"] == "layers.3.attn.result[4]")
    assert row["attends answer → S2"] == pytest.approx(float((direct * at).sum(1).mean()), abs=1e-5)


def test_an_edge_without_partner_is_nobodys():
    partner = {"layers.0.attn.result[0]": "layers.1.attn.result[3]"}
    assert carried(("layers.0.attn.result[0]", "logits", "logits"), partner)[0] == "layers.1.attn.result[3]"
    assert carried(("embed", "layers.0.mlp.out", "in"), partner) == ("embed", "no partner of layers.0.mlp.out", "in")


def test_edges_of_shared_keys_count_for_each_head_that_shares_them():
    model = digsite.load(tiny("llama"), verify=False)  # two query heads share a key
    scores = eap_ig(model, paired_task(2), steps=1)
    found = scores.circuit(0.3)
    edges = role_edges(found)
    assert sum(edges.values()) == pytest.approx(1.0)
    shared = sum(".k_in[" in reader or ".v_in[" in reader for _, reader in found.edges)
    assert len(edges) == len(found) + shared


def test_they_are_saved_and_read_back(made, matched, tmp_path):
    one = made[0][0]
    assert Roles.load(one.save(tmp_path / "roles")).verdict == one.verdict
    assert RoleMatch.load(matched.save(tmp_path / "match")).verdict == matched.verdict


def test_bad_input(known, made):
    task = known.task(4)
    scores = eap_ig(known.model, task, steps=1)
    with pytest.raises(BadInput, match="Roles need the scores of this model on these examples"):
        node_roles(known.model, known.task(3), scores)
    with pytest.raises(BadInput, match="has no span"):
        node_roles(known.model, task, scores, spans=["IO"])
