"""Results of trained, followed and translated directions find their figure, with controls and without an overlap."""

import pytest
import torch
from drawn import collisions, outside, texts

from digsite._core.cost import Cost
from digsite._core.provenance import record
from digsite.directions import Scale
from digsite.directions.steering import LanguageTransfer, PromptSearch, Readings, Stability, TrainedDirection
from digsite.sites import Site

MADE = {"provenance": record("digsite.some_method(model, task)", model="toy"), "cost": Cost()}
SITE = Site.parse("layers.1.resid_post")


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def trained():
    effects = drawn(3, 4, 20) + torch.arange(4)[None, :, None] * torch.tensor([3.0, 2.0, 0.1])[:, None, None]
    return TrainedDirection(
        site=SITE, objective="RePS", vector=drawn(8), losses=drawn(5), held_out=drawn(3).sort(descending=True).values,
        scale=Scale(norm=1.0, mean=0.0, sd=1.0, smallest=-1.0, largest=1.0, rows=9),
        judged=("trained", "mean difference", "names"), lengths=(0.25, 0.5, 1.0, 2.0), chosen=1,
        effects=effects, null=drawn(6, 4) / 5, detection=torch.rand(3), null_detection=torch.rand(6), **MADE,
    )  # fmt: skip


def transfer():
    return LanguageTransfer(
        site=SITE, languages=("english", "tavi"), labels=torch.arange(40) < 20, scores=drawn(2, 2, 40),
        null=torch.rand(2, 2, 5), effects=drawn(2, 2, 20) + torch.tensor([[3.0, 2], [0.1, 3]])[..., None],
        null_effects=drawn(2, 2, 5) / 5, cosines=torch.tensor([[1.0, 0.4], [0.4, 1.0]]), **MADE,
    )  # fmt: skip


def reading():
    return Readings(name="open", plain=drawn(20), steered=drawn(20, seed=1) + 3, null=drawn(5, 20, seed=2), **MADE)


def stability():
    end = torch.tensor([0.95, 0.9, 1.0])
    return Stability(
        site=SITE, name="female", models=("step 100", "step 1000", "step 10000"), cosines=torch.tensor([1.0, 0.4, 0.1]),
        null_cosine=0.17, first=torch.stack([end, end - 0.2, end - 0.4]), own=torch.stack([end, end, end]),
        first_effect=drawn(3, 20) + 2, own_effect=drawn(3, 20) + 3, null_effect=drawn(3, 5) / 5, unit="logits", **MADE,
    )  # fmt: skip


def prompt():
    kl = drawn(3, 10).abs() + torch.tensor([0.2, 3.0, 1.5])[:, None]
    return PromptSearch(
        text="When Mary", ids=torch.tensor([4, 9]), word="Mary", judged=("found", "no prefix", "best word"),
        kl=kl, null=drawn(8).abs() + 2.5, history=torch.tensor([4.0, 1.0]), **MADE,
    )  # fmt: skip


SHOWN = [
    (trained, ["trained", "mean difference", "names", "random"]),
    (transfer, ["english", "tavi"]),
    (reading, ["with the direction", "by itself", "random", "no preference"]),
    (stability, ["cosine with the first", "AUROC, its own", "random pairs"]),
    (prompt, ["found: When Mary", "best word: Mary", "no prefix", "random prefixes"]),
]


@pytest.mark.parametrize(("make", "names"), SHOWN, ids=[make.__name__ for make, _ in SHOWN])
def test_each_figure_shows_the_claim_and_its_controls_without_an_overlap(make, names):
    result = make()
    figure = result.figure()
    assert not collisions(figure) and not outside(figure)
    written = " ".join(str(text) for text in texts(figure))
    assert all(name in written for name in names), written
    assert result.verdict in figure.caption and len(figure.data)
