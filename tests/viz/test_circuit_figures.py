"""Circuits are drawn edge by edge, none passing for another, and what is left out is said."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from drawn import collisions, marks, outside, texts
from matplotlib.patches import PathPatch

from architectures import tiny
from digsite._core.errors import BadInput
from digsite._core.provenance import record
from digsite.circuits import EdgeScores
from digsite.graphs import edge_space
from digsite.graphs.circuit import circuit
from digsite.viz import Wire, wiring
from digsite.viz.theme import LIGHT
from slowly import slow_but


def space_of(name):
    import digsite

    return edge_space(digsite.load(tiny(name), verify=False))


def some_circuit(space, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(len(space.writers), len(space.readers), generator=generator)
    kept = torch.zeros_like(space.real)
    for i in torch.randperm(len(space), generator=generator)[:count].tolist():
        kept[space.index(space.edges[i])] = True
    return circuit(space, kept, name="pairs", method="EAP", provenance=record("f()"), scores=scores)


def some_scores(space, places, n=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = n, len(places), len(space.writers), len(space.readers)
    return EdgeScores(
        method="EAP",
        task="pairs",
        metric_name="logit_diff",
        unit="logits",
        clean=torch.ones(n),
        corrupt=torch.zeros(n),
        places=places,
        writers=space.writers,
        readers=space.readers,
        before=space.before,
        scores=torch.randn(shape, generator=generator) * space.real,
        provenance=record("f()"),
        cost=circuit(space, [], name="", method="", provenance=record("f()")).cost,
    )


def drawn_edges(figure):
    return [
        patch
        for patch in figure.drawing.axes[0].patches
        if isinstance(patch, PathPatch) and patch.get_gid() in figure.canvas.marks
    ]


def told(figure, patch):
    return figure.canvas.marks[str(patch.get_gid())]


def vertices(patch):
    return np.array(patch.get_path().vertices)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox"])
def test_every_edge_is_drawn_with_its_score_as_width_sign_and_hover(name):
    found = some_circuit(space_of(name), 40)
    figure = found.figure()
    rows = {f"{row['writer']} → {row['reader']}": row["score"] for row in found.to_frame().to_dicts()}
    edges = {told(figure, patch).split(":")[0]: patch for patch in drawn_edges(figure)}
    assert set(edges) == set(rows)
    assert len(figure.data) == 40 and "left out" not in " ".join(texts(figure))
    ordered = sorted(rows, key=lambda edge: abs(rows[edge]))
    widths = [edges[edge].get_linewidth() for edge in ordered]
    assert widths == sorted(widths) and widths[-1] == pytest.approx(6.0)
    for edge, patch in edges.items():
        assert (patch.get_linestyle() == "solid") == (rows[edge] > 0)
    assert not collisions(figure) and not outside(figure)
    page = {mark.get("aria-label") for mark in marks(figure)}
    assert any(text.startswith(ordered[-1]) and "no score" not in text for text in page)


def test_layers_go_upward_and_heads_across():
    figure = some_circuit(space_of("llama"), 60).figure()
    places = {text.get_text(): text.get_position() for text in figure.drawing.texts}
    assert places["embed"][1] < places["layer 0"][1] < places["layer 1"][1] < places["layer 2"][1] < places["logits"][1]
    assert places["head 0"][0] < places["1"][0] < places["2"][0] < places["3"][0] < places["MLP"][0]


def test_a_shared_key_goes_to_every_head_that_shares_it():
    space = space_of("llama")  # four query heads, two of keys
    edge = ("embed", "layers.0.attn.k_in[1]")
    figure = circuit(space, [edge], name="a", method="b", provenance=record("f()")).figure()
    assert {"layer 0 head 2: 1 edge in", "layer 0 head 3: 1 edge in"} <= set(figure.canvas.marks.values())
    (path,) = drawn_edges(figure)
    assert len(vertices(path)) == 8  # two curves, one mark


def test_more_than_200_edges_are_cut_and_said():
    found = some_circuit(space_of("gpt2"), 230)
    figure = found.figure()
    assert len(drawn_edges(figure)) == len(figure.data) == 200
    assert "the strongest 200 of 230 edges; 30 are left out" in texts(figure)
    kept = found.to_frame().head(200)["score"].abs()
    assert figure.data["score"].abs().sort().to_list() == kept.sort().to_list()


def test_a_circuit_without_scores_is_amber_and_of_one_width():
    found = some_circuit(space_of("gpt2"), 20)
    figure = replace(found, scores=torch.full_like(found.scores, torch.nan)).figure()
    assert {patch.get_linewidth() for patch in drawn_edges(figure)} == {1.4}
    assert "kept, without a score" in texts(figure)
    assert figure.data["score"].null_count() == 20
    assert LIGHT.mark in figure.svg()


def test_a_circuit_without_edges_says_so():
    with pytest.raises(BadInput, match="no edge to draw"):
        some_circuit(space_of("gpt2"), 0).figure()


def test_scores_at_places_have_a_column_each_and_intervals():
    found = some_scores(space_of("llama"), ("S2", "IO", "elsewhere"))
    figure = found.figure()
    assert {"S2", "IO", "elsewhere", "the strongest 60 of 570 edges"} <= set(texts(figure))
    assert set(figure.data["place"]) <= {"S2", "IO", "elsewhere"} and len(figure.data) == 60
    best = found.to_frame(1).row(0, named=True)
    hover = [
        text for text in figure.canvas.marks.values() if text.startswith(f"{best['writer']} → {best['reader']} at")
    ]
    assert any("95 %:" in text and "n = 6" in text and best["place"] in text for text in hover)
    assert not collisions(figure) and not outside(figure)


def test_scores_without_places_have_heads_across():
    figure = some_scores(space_of("gpt2"), ("all",)).figure()
    assert "head 0" in texts(figure) and not [text for text in figure.canvas.marks.values() if " at all" in text]


@pytest.mark.parametrize(
    ("layers", "heads"), slow_but([(1, 1), (12, 12)], [(1, 1), (4, 8), (12, 12), (32, 32), (6, 64), (80, 8)]), ids=str
)
def test_no_label_lies_on_another_at_any_size(layers, heads):
    wires = [
        Wire(
            writer="embed",
            reader=f"layers.{layer}.attn.q_in[{head}]",
            ends=(f"layers.{layer}.attn.result[{head}]",),
            place="all",
            score=(-1.0) ** layer * (1 + head),
        )
        for layer, head in {(0, 0), (layers - 1, heads - 1), (layers // 2, heads // 2)}
    ]
    wires.append(Wire(writer="pos_embed", reader="logits", ends=("logits",), place="all", score=0.5))
    figure = wiring(wires, title="A circuit", layers=layers, heads=heads)
    assert not collisions(figure) and not outside(figure)


def test_an_edge_bends_around_a_part_of_its_own_column_and_only_then():
    def wire(writer, reader):
        end = reader if reader == "logits" else reader.replace("q_in", "result")
        return Wire(writer=writer, reader=reader, ends=(end,), place="all", score=1.0)

    def bend(*wires):
        figure = wiring(list(wires), title="", layers=3, heads=4)
        path = next(one for one in drawn_edges(figure) if told(figure, one).startswith("layers.0.attn.result"))
        return np.ptp(vertices(path)[:, 0])

    over = wire("layers.0.attn.result[1]", "logits")
    between = [wire("embed", "layers.1.attn.q_in[1]"), wire("layers.1.attn.result[1]", "logits")]
    assert bend(over) == 0
    assert bend(over, *between) > 20


def test_a_score_of_nothing_is_drawn_thin():
    figure = wiring(
        [Wire(writer="embed", reader="logits", ends=("logits",), place="all", score=0.0)], title="", layers=1, heads=1
    )
    (edge,) = drawn_edges(figure)
    assert math.isclose(edge.get_linewidth(), 0.7)
