"""Scores of nodes, flow, masks, paths and scrubbing find their figure, which shows their numbers and their control."""

import polars as pl
import pytest
import torch
from drawn import collisions, outside, texts

from digsite._core.cost import Cost
from digsite._core.provenance import record
from digsite.circuits import FlowScores, NodeScores, PathPatching, ScrubbingResult, TrainedMask
from digsite.graphs.circuit import circuit
from digsite.graphs.edges import EdgeSpace
from digsite.viz import mask_training_figure

MADE = {"provenance": record("digsite.some_method(model, task)", model="toy"), "cost": Cost()}
TOLD = {"metric_name": "logit_diff", "unit": "logits"}
DRAW = torch.Generator().manual_seed(0)


def noise(*shape):
    return torch.randn(shape, generator=DRAW)


def sound(figure):
    """Drawn without an overlap, and with the call that made it inside the file."""
    return not collisions(figure) and not outside(figure) and "digsite.some_method(model, task)" in figure.svg()


def hovers(figure):
    return list(figure.canvas.marks.values())


def by_name(figure):
    rows = figure.data.drop_nulls("value")
    return dict(zip(rows["name"], rows["value"], strict=True))


def node_scores(layers, heads, shared, *, signed=True):
    counts = {"q": heads, "k": shared, "v": shared, "result": heads}
    names = []
    for layer in range(layers):
        names += [f"layers.{layer}.attn.{part}[{head}]" for part, count in counts.items() for head in range(count)]
        names.append(f"layers.{layer}.mlp.out")
    scores = noise(6, len(names))
    return NodeScores(
        method="NAP",
        task="pairs",
        clean=torch.ones(6),
        corrupt=torch.zeros(6),
        signed=signed,
        nodes=tuple(names),
        scores=scores if signed else scores.abs(),
        **TOLD,
        **MADE,
    )


@pytest.mark.parametrize("shape", [(1, 1, 1), (12, 12, 12), pytest.param((32, 32, 8), marks=pytest.mark.slow)], ids=str)
def test_nodes_stand_in_a_row_for_each_layer_with_the_typical_node_in_grey(shape):
    result = node_scores(*shape)
    figure = result.figure()
    assert sound(figure)
    means = result.scores.mean(0)
    assert by_name(figure) == pytest.approx(dict(zip(result.nodes, means.tolist(), strict=True)))
    columns = figure.data["part"].to_list()[: len(figure.data) // shape[0]]
    assert columns[: shape[1] + 1] == [*(f"head {head}" for head in range(shape[1])), "MLP"]
    assert columns[shape[1] + 1] == "q 0" and columns[-1] == f"v {shape[2] - 1}"
    typical = float(means.abs().median())
    assert any(text == f"half of all nodes: −{typical:.2f} to {typical:.2f}" for text in hovers(figure))
    assert any("95 %:" in text and text.endswith("n = 6") for text in hovers(figure))


def test_sizes_are_called_sizes_and_have_no_grey_below_zero():
    figure = node_scores(2, 2, 2, signed=False).figure()
    assert figure.title.startswith("Size of the predicted drop of the logit diff")
    assert any(text.startswith("half of all nodes: 0.00 – ") for text in hovers(figure))


WRITERS = ("embed", "layers.0.attn.result[0]", "layers.0.mlp.out")
READERS = ("layers.0.attn.q_in[0]", "layers.0.mlp.in", "logits")


def test_what_the_logits_read_adds_up_and_stands_against_even_parts():
    scores = torch.rand(5, 1, 3, 3, generator=DRAW)
    scores = scores / scores.sum(2, keepdim=True)
    figure = FlowScores(
        method="information flow",
        task="pairs",
        clean=torch.ones(5),
        corrupt=torch.full((5,), torch.nan),
        places=("all",),
        writers=WRITERS,
        readers=READERS,
        before=(1, 2, 3),
        scores=scores,
        **TOLD,
        **MADE,
    ).figure()
    assert sound(figure) and figure.data["value"].sum() == pytest.approx(1)
    found = by_name(figure)
    assert [found[name] for name in WRITERS] == pytest.approx(scores[:, 0, :, 2].mean(0).tolist())
    assert any(text.startswith("up to an even part: 0 – 33 %") for text in hovers(figure))


def mask(steps=40, over="edges"):
    space = EdgeSpace(WRITERS, READERS, (1, 2, 3))
    kept = 3.0 + 0.2 * noise(10)
    return TrainedMask(
        circuit=circuit(space, space.real, name="pairs", method="trained masks", provenance=MADE["provenance"]),
        over=over,
        gates="top-k",
        objective="kl",
        loss=torch.arange(steps).float() + 1,
        wanted=torch.linspace(6, 2, steps),
        trained_on=10,
        full=torch.full((10,), 4.0),
        empty=torch.zeros(10),
        kept=kept,
        random=torch.linspace(0.1, 0.5, 20),
        **TOLD,
        **MADE,
    )


def test_a_trained_circuit_stands_against_random_ones():
    result = mask()
    figure = result.figure()
    assert sound(figure) and "20 random circuits" in texts(figure)
    assert any(text.startswith("6 trained edges") for text in texts(figure))
    assert len(figure.data.filter(kind="null")) == 20
    claim = figure.data.filter(kind="claim").row(0, named=True)
    assert claim["value"] == pytest.approx(float(result.kept.mean()) / 4)


@pytest.mark.parametrize(("steps", "points"), [(1, 1), (5, 5), (40, 16), (300, 16)])
def test_training_is_drawn_by_its_largest_values_and_steps_are_averaged(steps, points):
    result = mask(steps, over="nodes")
    figure = mask_training_figure(result)
    assert sound(figure) and len(figure.data) == 2 * points
    objective = figure.data.filter(pl.col("line").str.starts_with("objective"))
    assert objective["step"][-1] == str(steps) and objective["value"].max() == 1
    first = result.loss[: -(-steps // points)].mean() / result.loss[-(steps // points) :].mean()
    assert objective["value"][0] == pytest.approx(float(first))
    assert figure.caption == "At the last step 2 nodes were to be open." or steps == 1


def paths(senders, **changes):
    count = len(senders)
    effects = torch.linspace(0.6, -0.2, count)
    return PathPatching(
        **{"direction": "noise", "through": "direct", "receivers": ("logits",)} | changes,
        senders=tuple(senders),
        base=torch.full((8,), 2.0),
        source=torch.zeros(8),
        patched=2.0 - 2.0 * effects[:, None] + 0.01 * noise(count, 8),
        null=2.0 + 0.02 * noise(count, 8),
        **TOLD,
        **MADE,
    )


def test_a_few_senders_are_bars_with_their_intervals_and_the_null():
    result = paths(["embed", "layers.0.attn.result[1]", "layers.0.mlp.out"], through="mlps")
    figure = result.figure()
    assert sound(figure) and figure.title.endswith(
        "destroyed by each sender's corrupt value on its way to logits, also over MLPs"
    )
    found = by_name(figure)
    expected = result.share(result.patched).mean(1).tolist()
    assert [found[name] for name in result.senders] == pytest.approx(expected)
    assert figure.data["low"].is_not_null().all()
    assert any(text.startswith("95 % of equal changes in random directions") for text in hovers(figure))


@pytest.mark.slow
def test_many_heads_are_a_map_and_many_senders_with_an_embedding_the_strongest_bars():
    heads = [f"layers.{layer}.attn.result[{head}]" for layer in range(3) for head in range(6)]
    figure = paths(heads, direction="denoise", receivers=("layers.3.attn.q_in[0]", "layers.3.attn.q_in[1]")).figure()
    assert sound(figure) and {"layer 0", "layer 2", "head 5"} <= set(texts(figure)) and len(figure.data) == 18
    assert figure.title.startswith("Share of the logit diff restored by each sender's clean value on its way to 2 rec")
    figure = paths(["embed", *heads]).figure()
    assert sound(figure) and len(figure.data) == 14
    assert figure.caption.endswith("Shown are the strongest 14 of 19 senders.")
    assert not [text for text in texts(figure) if "together" in text], "effects of senders do not add up"


def test_the_hypothesis_is_amber_between_its_ends_and_its_control():
    model = 4 + noise(12)
    result = ScrubbingResult(
        task="pairs",
        edges=("embed → logits",),
        scrubbed_writers=("embed",),
        model=model,
        scrambled=noise(3, 12),
        scrubbed=model - 0.5 + 0.1 * noise(3, 12),
        control=1 + noise(3, 12),
        **TOLD,
        **MADE,
    )
    figure = result.figure()
    assert sound(figure) and {"model", "hypothesis", "classes dealt out anew", "scrambled"} <= set(texts(figure))
    means = figure.data.unique("name", keep="first", maintain_order=True)["mean"].to_list()
    assert means == pytest.approx(result.to_frame()["recovered"].to_list())
    points = figure.data.filter(name="hypothesis")["value"].to_list()
    assert points == pytest.approx(result.recovered(result.scrubbed).tolist())
