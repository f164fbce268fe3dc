"""Circuits in files of EAP-IG and MIB: what is read is what was written, and what does not fit is refused."""

import json
import os
from pathlib import Path

import pytest
import torch

from architectures import tiny
from digsite._core.cost import Cost
from digsite._core.errors import BadInput, LoadError, NotFinite, Unsupported
from digsite._core.provenance import record
from digsite.graphs import edge_space, read_mib, write_mib
from digsite.graphs.circuit import circuit


def model_of(name):
    from digsite.models import load

    return load(tiny(name), verify=False)


def some_circuit(space, *, scored=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = len(space.writers), len(space.readers)
    scores = torch.randn(shape, generator=generator) if scored else None
    kept = torch.rand(shape, generator=generator) < 0.3
    return circuit(space, kept, name="pairs", method="EAP (absolute)", provenance=record("f()"), scores=scores)


@pytest.fixture(scope="module")
def published():
    folder = os.environ.get("DIGSITE_TEST_DATA")
    if not folder:
        pytest.skip("DIGSITE_TEST_DATA is not set")
    return Path(folder) / "data" / "mib-circuit" / "ioi-eap-ig.json"


@pytest.fixture(scope="module")
def twelve():
    """The edges of a model with the layers and heads of GPT-2 small, and hardly anything else."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from digsite.models import load

    config = GPT2Config(vocab_size=8, n_embd=24, n_layer=12, n_head=12, n_positions=8, bos_token_id=0, eos_token_id=0)
    return load(GPT2LMHeadModel(config).eval(), verify=False)


@pytest.mark.data
@pytest.mark.parametrize("ending", ["json", "pt"])
def test_the_published_circuit_is_the_same_after_reading_and_writing(published, twelve, tmp_path, ending):
    space = edge_space(twelve)
    first = read_mib(published, space)
    theirs = json.loads(published.read_text())
    assert len(first) == sum(edge["in_graph"] for edge in theirs["edges"].values()) == 756
    writer, reader = space.index(("embed", "layers.0.attn.k_in[1]"))
    assert first.scores[writer, reader] == pytest.approx(theirs["edges"]["input->a0.h1<k>"]["score"], rel=1e-7)
    assert first.kept[writer, reader]
    again = read_mib(write_mib(first, tmp_path / f"again.{ending}", d_model=768), space)
    assert torch.equal(again.kept, first.kept)
    assert torch.equal(again.scores.nan_to_num(9e9), first.scores.nan_to_num(9e9))
    assert (again.name, again.method) == (first.name, first.method) == ("ioi-eap-ig", "ioi-eap-ig.json")


@pytest.mark.data
def test_the_published_file_is_written_as_it_was(published, twelve, tmp_path):
    made = json.loads(write_mib(read_mib(published, edge_space(twelve)), tmp_path / "a.json", d_model=768).read_text())
    theirs = json.loads(published.read_text())
    assert made.pop("digsite")["left_out"] == 0
    assert len(made["edges"]) == 32_491
    assert made == theirs


@pytest.mark.data
def test_what_a_positive_score_means_is_for_the_reader_to_say(published, twelve):
    space = edge_space(twelve)
    name_mover = space.index(("layers.9.attn.result[9]", "logits"))
    as_written, turned = read_mib(published, space), read_mib(published, space, positive="hurts")
    assert as_written.scores[name_mover] == -turned.scores[name_mover] == pytest.approx(-0.28, abs=0.01)
    with pytest.raises(BadInput, match="Possible: helps, hurts"):
        read_mib(published, space, positive="both")


@pytest.mark.data
def test_the_published_circuit_is_refused_for_a_model_of_another_width(published, twelve):
    with pytest.raises(BadInput, match="belongs to another model") as error:
        read_mib(published, twelve)
    assert "d_model 768" in str(error.value) and "d_model 24" in str(error.value)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "gpt_bigcode", "gemma2"])
@pytest.mark.parametrize("ending", ["json", "pt"])
def test_a_circuit_of_any_architecture_comes_back(name, ending, tmp_path):
    model = model_of(name)
    mine = some_circuit(edge_space(model))
    path = write_mib(mine, tmp_path / f"a.{ending}", d_model=model.d_model)
    back = read_mib(path, model)
    named = torch.tensor([writer != "pos_embed" for writer in mine.writers])
    assert torch.equal(back.kept[named], mine.kept[named]) and not back.kept[~named].any()
    real = mine.space.real & named[:, None]
    torch.testing.assert_close(back.scores[real], mine.scores[real])
    assert back.scores[~named].isnan().all()
    assert (back.name, back.method) == ("pairs", "EAP (absolute)")
    assert back.provenance.model == model.name


def test_a_shared_key_is_repeated_and_its_score_divided(tmp_path):
    space = edge_space(model_of("llama"))  # four query heads, two of keys
    place = space.index(("embed", "layers.0.attn.k_in[1]"))
    scores, kept = torch.zeros(len(space.writers), len(space.readers)), space.flags([])
    scores[place], kept[place] = 3.0, True
    mine = circuit(space, kept, name="a", method="b", provenance=record("f()"), scores=scores)
    content = json.loads(write_mib(mine, tmp_path / "a.json").read_text())
    keys = [content["edges"][f"input->a0.h{head}<k>"] for head in range(4)]
    assert [key["score"] for key in keys] == [0.0, 0.0, 1.5, 1.5]
    assert [key["in_graph"] for key in keys] == [False, False, True, True]
    assert "input->a0.h3<q>" in content["edges"] and not content["edges"]["input->a0.h3<q>"]["in_graph"]
    content["edges"]["input->a0.h3<k>"] = {"score": -0.5, "in_graph": False}
    (tmp_path / "b.json").write_text(json.dumps(content))
    back = read_mib(tmp_path / "b.json", space)
    assert back.scores[place] == 1.0
    assert back.edges == (("embed", "layers.0.attn.k_in[1]"),)


def test_learned_positions_are_left_out_and_counted(tmp_path):
    space = edge_space(model_of("gpt2"))
    edges = [("pos_embed", "layers.0.mlp.in"), ("pos_embed", "logits"), ("embed", "logits")]
    mine = circuit(space, edges, name="a", method="b", provenance=record("f()"))
    content = json.loads(write_mib(mine, tmp_path / "a.json").read_text())
    assert content["digsite"]["left_out"] == 2
    assert read_mib(tmp_path / "a.json", space).edges == (("embed", "logits"),)


def test_nodes_are_kept_where_the_circuit_flows_through_them(tmp_path):
    space = edge_space(model_of("gpt2"))
    edges = [
        ("embed", "layers.0.attn.v_in[1]"),
        ("layers.0.attn.result[1]", "logits"),
        ("layers.1.mlp.out", "logits"),  # nothing goes in
        ("embed", "layers.2.mlp.in"),  # nothing goes out
    ]
    mine = circuit(space, edges, name="a", method="b", provenance=record("f()"))
    nodes = json.loads(write_mib(mine, tmp_path / "a.json").read_text())["nodes"]
    assert [name for name, node in nodes.items() if node["in_graph"]] == ["input", "a0.h1", "logits"]


def test_edges_without_scores_are_written_so_that_scores_find_them(tmp_path):
    mine = some_circuit(edge_space(model_of("llama")), scored=False)
    edges = json.loads(write_mib(mine, tmp_path / "a.json").read_text())["edges"].values()
    assert {(edge["score"] > 0, edge["in_graph"]) for edge in edges} == {(True, True), (False, False)}


def test_arrays_in_another_order_and_flags_of_no_edge(tmp_path):
    space = edge_space(model_of("llama"))
    mine = some_circuit(space)
    content = torch.load(write_mib(mine, tmp_path / "a.pt"), weights_only=True)
    order = torch.randperm(len(content["dst_nodes"]), generator=torch.Generator().manual_seed(0))
    content["dst_nodes"] = [content["dst_nodes"][i] for i in order]
    content["edges_scores"] = content["edges_scores"][:, order]
    content["edges_in_graph"] = content["edges_in_graph"][:, order]
    late = content["src_nodes"].index("m2"), content["dst_nodes"].index("m0")
    assert not content["edges_in_graph"][late]
    content["edges_in_graph"][late] = True
    torch.save(content, tmp_path / "b.pt")  # noqa: TID251
    assert torch.equal(read_mib(tmp_path / "b.pt", space).kept, mine.kept)


def changed(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("change", "error", "telling"),
    [
        (lambda c: c["cfg"].update(n_heads=8), BadInput, "another model.*\n.*n_heads 8.*\n.*n_heads 4"),
        (lambda c: c["cfg"].update(parallel_attn_mlp=True), BadInput, "parallel_attn_mlp True"),
        (lambda c: c["cfg"].update(d_model=32), BadInput, "d_model 32"),
        (lambda c: c["edges"].update({"a0.h9->m1": {"score": 1.0, "in_graph": True}}), LoadError, "unknown: a0.h9->m1"),
        (lambda c: c["edges"].update({"m1->m0": {"score": 1.0, "in_graph": True}}), LoadError, "unknown: m1->m0"),
        (lambda c: c["nodes"].update({"x3": {"in_graph": True}}), LoadError, "unknown: x3"),
        (lambda c: [c["edges"].pop(k) for k in list(c["edges"])[:9]], LoadError, "missing: input->a0.h0<q>.* 4 more"),
        (lambda c: c["edges"]["input->m0"].pop("score"), LoadError, "without score or in_graph: input->m0"),
        (lambda c: c["edges"]["input->m0"].update(score=None), LoadError, "without score or in_graph: input->m0"),
        (lambda c: c["edges"]["input->m0"].update(score=float("nan")), NotFinite, "input->m0: nan"),
        (lambda c: c.pop("cfg"), LoadError, "lacks cfg"),
        (lambda c: c.update(edges=[]), LoadError, "lacks cfg and edges by name"),
        (lambda c: c["nodes"]["m0"].update(neurons=[True, False]), Unsupported, "some neurons of a node"),
    ],
)
def test_a_file_that_does_not_fit_says_why(change, error, telling, tmp_path):
    model = model_of("llama")
    path = write_mib(some_circuit(edge_space(model)), tmp_path / "a.json", d_model=model.d_model)
    with pytest.raises(error, match=telling):
        read_mib(changed(path, change), model)


def test_files_that_are_none(tmp_path):
    space = edge_space(model_of("llama"))
    (tmp_path / "a.json").write_text('{"cfg": {')
    (tmp_path / "b.json").write_text("[1, 2]")
    (tmp_path / "c.pt").write_bytes(b"no archive")
    for name, telling in (("a.json", "cannot be read"), ("b.json", "a list"), ("c.pt", "cannot be read")):
        with pytest.raises(LoadError, match=telling):
            read_mib(tmp_path / name, space)
    with pytest.raises(LoadError, match="cannot be read"):
        read_mib(tmp_path / "none.json", space)
    for call in (lambda: read_mib(tmp_path / "a.csv", space), lambda: write_mib(some_circuit(space), tmp_path / "a")):
        with pytest.raises(BadInput, match=r"Possible: \.json, \.pt"):
            call()


def test_a_pt_file_that_would_run_code_is_refused_and_runs_none(tmp_path):
    class Runs:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "made"),))

    torch.save({"cfg": Runs()}, tmp_path / "a.pt")  # noqa: TID251
    with pytest.raises(LoadError, match="cannot be read"):
        read_mib(tmp_path / "a.pt", edge_space(model_of("llama")))
    assert not (tmp_path / "made").exists()


def test_arrays_that_do_not_fit_their_names(tmp_path):
    space = edge_space(model_of("llama"))
    content = torch.load(write_mib(some_circuit(space), tmp_path / "a.pt"), weights_only=True)
    cut = content | {"edges_scores": content["edges_scores"][1:]}
    torch.save(cut, tmp_path / "b.pt")  # noqa: TID251
    with pytest.raises(LoadError, match="does not fit its own names"):
        read_mib(tmp_path / "b.pt", space)
    part = content | {"neurons_in_graph": torch.zeros(2, 2)}
    torch.save(part, tmp_path / "c.pt")  # noqa: TID251
    with pytest.raises(Unsupported, match="some neurons"):
        read_mib(tmp_path / "c.pt", space)


def test_what_was_read_is_a_result_like_any_other(tmp_path):
    from digsite.artifacts import load_result

    model = model_of("llama")
    path = write_mib(some_circuit(edge_space(model)), tmp_path / "a.json", d_model=model.d_model)
    found = read_mib(path, model)
    found.save(tmp_path / "saved")
    assert load_result(tmp_path / "saved").verdict == found.verdict
    assert found.cost == Cost()
