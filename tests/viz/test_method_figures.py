"""Results of methods find their figure, and the figure shows their numbers with their controls."""

import torch
from drawn import collisions, outside, texts

from digsite._core.cost import Cost
from digsite._core.provenance import record
from digsite.lenses import AnswerByDepth
from digsite.patching import AblationResult, DirectAttribution, PatchingResult
from digsite.viz import Figure

MADE = {"provenance": record("digsite.some_method(model, task)", model="toy"), "cost": Cost()}
DRAW = torch.Generator().manual_seed(0)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=DRAW)


def lens() -> AnswerByDepth:
    rising = torch.linspace(0, 0.9, 3)[:, None] + 0.05 * torch.rand(3, 10, generator=DRAW)
    zeros = torch.zeros(3, 10)
    return AnswerByDepth(
        lens="logit",
        layers=("embed", "layer 0", "layer 1"),
        right=rising,
        wrong=0.5 * rising,
        logit_diff=zeros,
        rank=zeros + 1,
        kl=zeros,
        last_layer_error=0.0,
        **MADE,
    )


def patching(sites: list[str], places: list[str], effects: torch.Tensor) -> PatchingResult:
    base, source = torch.zeros(10), torch.full((10,), 2.0)
    return PatchingResult(
        direction="denoise",
        sites=tuple(sites),
        places=tuple(places),
        metric_name="logit_diff",
        unit="logits",
        base=base,
        source=source,
        patched=2 * effects[:, None].expand(-1, 10).contiguous(),
        null=0.01 * noise(len(sites), 4),
        **MADE,
    )


def hovers(figure: Figure) -> list[str]:
    return list(figure.canvas.marks.values())


def sound(figure: Figure) -> bool:
    """Drawn without an overlap, and with the call that made it inside the file."""
    return not collisions(figure) and not outside(figure) and "digsite.some_method(model, task)" in figure.svg()


def test_the_lens_sets_the_right_answer_against_the_wrong_ones():
    result = lens()
    figure = result.figure()
    assert sound(figure) and {"right answer", "wrong answers", "embed", "layer 1"} <= set(texts(figure))
    assert figure.data.filter(line="right answer")["value"].to_list() == result.right.mean(1).tolist()
    assert all(text.endswith("n = 10") for text in hovers(figure))


def test_direct_attribution_adds_up_and_shows_its_null():
    values = noise(20, 10)
    result = DirectAttribution(
        components=tuple(f"layers.{at}.mlp.out" for at in range(20)),
        values=values,
        null=0.1 * noise(20, 10),
        metric=values.sum(0),
        error=0.0,
        **MADE,
    )
    figure = result.figure()
    assert sound(figure)
    assert abs(figure.data["value"].sum() - float(result.metric.mean())) < 1e-5
    assert any("answers of another example" in text for text in hovers(figure))


def test_heads_and_mlps_stand_in_a_row_for_each_layer():
    sites = [name for layer in range(2) for name in (*(f"layers.{layer}.attn.z[{head}]" for head in range(3)),)]
    sites += ["layers.0.mlp.out", "layers.1.mlp.out"]
    effects = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    figure = patching(sites, ["all"] * 8, effects).figure()
    assert sound(figure) and {"layer 0", "layer 1", "head 0", "MLP"} <= set(texts(figure))
    found = {row["name"]: round(row["value"], 6) for row in figure.data.iter_rows(named=True)}
    assert found == {site: round(float(effect), 6) for site, effect in zip(sites, effects, strict=True)}


def test_positions_stand_rightward_and_layers_upward():
    sites = [f"layers.{layer}.resid_pre" for layer in range(3) for _ in range(2)]
    figure = patching(sites, ["S2", "answer"] * 3, torch.arange(6) / 10).figure()
    assert sound(figure) and {"S2", "answer", "layer 2"} <= set(texts(figure))
    assert figure.data["name"].to_list()[:2] == ["layers.0.resid_pre at S2", "layers.0.resid_pre at answer"]
    assert "layers.2.resid_pre at answer: +50 % (95 %: 50 – 50 %), n = 10" in hovers(figure)


def test_a_layer_without_a_component_has_no_value_there():
    figure = patching(["layers.0.attn.z[0]", "layers.1.mlp.out"], ["all"] * 2, torch.tensor([0.5, 0.5])).figure()
    assert sound(figure) and "no value" in texts(figure)


def test_a_set_stands_against_random_sets():
    result = AblationResult(
        components=("layers.0.attn.z[0]",),
        how="corrupt",
        metric_name="logit_diff",
        unit="logits",
        clean=torch.full((10,), 4.0),
        corrupt=torch.zeros(10),
        knockout=torch.full((10,), 0.4),
        keep=torch.full((10,), 3.6),
        random_knockout=3.5 + 0.1 * noise(50),
        random_keep=0.5 + 0.1 * noise(50),
        random_examples=10,
        **MADE,
    )
    figure = result.figure()
    assert sound(figure) and {"this set 90 %", "50 random sets"} <= set(texts(figure))
    assert len(figure.data.filter(kind="null")) == 50
