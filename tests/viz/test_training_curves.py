"""The curves of a training show every dictionary in every panel, without an overlap."""

from dataclasses import replace

import pytest
import torch
from drawn import collisions, outside, texts

from digsite.dictionaries import TopK, sae, train
from digsite.dictionaries.monitor import DENSITIES
from digsite.dictionaries.recipes import TOPK
from digsite.store import Held
from digsite.viz.training_curves import PANELS, POINTS

QUICK = replace(TOPK, rate=1e-2)


def trained(*ks):
    torch.manual_seed(0)
    wanted = {f"layers.2.resid_post-k{k}": sae({"x": 8}, 32, TopK(k=k)) for k in ks}
    return train(Held({"x": torch.randn(2000, 8)}), wanted, QUICK, batch=50)


@pytest.mark.parametrize("ks", [(2,), pytest.param((1, 2, 4), marks=pytest.mark.slow)])
def test_every_dictionary_is_in_every_panel(ks):
    result = trained(*ks)
    figure = result.figure()
    assert not collisions(figure) and not outside(figure)
    assert {"variance unexplained (FVU)", "dead latents", "loss", "rows", "never"} <= set(texts(figure))
    for name in result.names:
        assert texts(figure).count(name) == (len(PANELS) + 1) * (len(ks) > 1)
        hovers = [text for text in figure.canvas.marks.values() if text.startswith(name)]
        assert (len(PANELS) - 2) * POINTS < len(hovers) <= len(PANELS) * POINTS + len(DENSITIES)
    assert figure.data["fvu"].to_list() == result.curves["fvu"].to_list()
    assert figure.caption.startswith(result.verdict)


def test_a_beginning_far_above_the_rest_does_not_squeeze_it():
    result = trained(2)
    curves = result.curves.with_row_index("at")
    fvu = [9.0 if at < 3 else value for at, value in zip(curves["at"], curves["fvu"], strict=True)]
    strange = replace(result, curves=result.curves.with_columns(fvu=torch.tensor(fvu).numpy()))
    assert "900 %" not in texts(strange.figure()) and "1,000 %" not in texts(strange.figure())
    high = replace(result, curves=result.curves.with_columns(fvu=torch.full((len(fvu),), 9.0).numpy()))
    assert "1,000 %" in texts(high.figure())
