"""The figures of lenses: every lens beside its controls, without an overlap."""

import torch
from drawn import collisions, outside, texts

from digsite._core.cost import Cost
from digsite._core.provenance import record
from digsite.lenses import CausalAgreement, JacobianFit, LayerTransfer, LensComparison, TunedFit
from digsite.viz import Figure

MADE = {"provenance": record("digsite.lenses.some(model, text)", model="toy"), "cost": Cost()}
SITES = ("layers.0.resid_pre", *(f"layers.{layer}.resid_post" for layer in range(4)))
DRAW = torch.Generator().manual_seed(0)


def falling(*heights: float) -> torch.Tensor:
    """[lens, depth, example], down to zero at the last point."""
    slope = torch.linspace(1, 0, 5)[None, :, None]
    return torch.tensor(heights)[:, None, None] * slope * (1 + 0.05 * torch.rand(len(heights), 5, 12, generator=DRAW))


def compared() -> LensComparison:
    kl = falling(22.0, 1.8, 4.0, 3.0)
    flat = torch.full((4, 12), 3.2) + 0.1 * torch.rand(4, 12, generator=DRAW)
    return LensComparison(
        lenses=("logit", "tuned", "jacobian", "future +1"),
        ahead=(0, 0, 0, 1),
        sites=SITES,
        kl=kl,
        null=kl + 3,
        agree=1 / (1 + kl),
        ce=kl + 1,
        bias=kl.mean(2) / 3,
        model_ce=flat / 2,
        constant=flat,
        alone=flat / 2,
        last=torch.zeros(4),
        tokens=900,
        **MADE,
    )


def sound(figure: Figure) -> bool:
    return not collisions(figure) and not outside(figure) and "digsite.lenses.some(model, text)" in figure.svg()


def test_lenses_stand_beside_the_constant_answer_and_the_token_alone():
    result = compared()
    figure = result.figure()
    assert sound(figure) and {"logit", "tuned", "jacobian", "token alone"} <= set(texts(figure))
    assert "future +1" not in texts(figure) and "for they look ahead: future +1" in figure.caption
    assert "lines are not drawn: logit" in figure.caption
    assert result.verdict.startswith("tuned is the nearest to the model")
    assert "no nearer than the token alone (1.6" in result.verdict


def test_a_fit_stands_beside_the_logit_lens():
    kl = falling(22.0, 1.8)[:, :4]
    fit = TunedFit(
        lens="tuned", sites=SITES[:4], steps=(0, 10), curve=torch.ones(2, 4), held=kl[1], start=kl[0],
        alone=torch.full((12,), 1.7), **MADE,
    )  # fmt: skip
    assert sound(fit.figure()) and {"tuned", "logit lens", "token alone"} <= set(texts(fit.figure()))
    assert "the token alone is 1.70 away, no further than the lens at embed" in fit.verdict


def test_a_mean_jacobian_shows_its_error():
    fit = JacobianFit(
        sites=SITES, prompts=9, probes=0, moved=torch.full((8,), 0.01), halves=torch.linspace(0.3, 0, 5),
        from_identity=torch.linspace(2, 0, 5), **MADE,
    )  # fmt: skip
    assert sound(fit.figure()) and "not settled" in fit.verdict


def test_exchanged_maps_are_a_map():
    apart = (torch.arange(4)[:, None] - torch.arange(4)).abs().float()
    result = LayerTransfer(
        lens="tuned", sites=SITES[:4], kl=(apart + 0.5)[..., None] + 0.1 * torch.rand(4, 4, 12, generator=DRAW),
        none=torch.full((4, 12), 2.0), **MADE,
    )  # fmt: skip
    assert sound(result.figure()) and "of 12 exchanged maps of the tuned lens read better than none" in result.verdict


def test_agreement_stands_beside_the_variance():
    effect = torch.rand(4, 16, generator=DRAW)
    energy = torch.stack([effect + 0.1 * torch.rand(4, 16, generator=DRAW), torch.rand(4, 16, generator=DRAW)])
    result = CausalAgreement(
        lenses=("tuned", "logit"), sites=SITES[:4], energy=energy, effect=effect,
        variance=torch.rand(4, 16, generator=DRAW), **MADE,
    )  # fmt: skip
    assert sound(result.figure()) and "variance alone" in texts(result.figure())
    assert result.verdict.index("tuned") < result.verdict.index("logit")
