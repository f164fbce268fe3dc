"""The heads of a latent: shares that were put in, contributions that add up."""

from typing import Any

import pytest
import torch

import digsite
from architectures import tiny
from digsite._core.errors import BadInput
from digsite.dictionaries import TopK, initialise, sae
from digsite.dictionaries.heads import HeadShares, head_contributions, head_shares
from digsite.dictionaries.splice import rows_in, rows_of
from digsite.models.tokens import grid

SITE = "layers.1.attn.z"


def filled_sae():
    new: Any = initialise(sae({SITE: 64}, 30, TopK(k=3)), seed=0)
    with torch.no_grad():
        new.blocks[0].b_enc.copy_(torch.randn(30))
        new.bias(SITE).copy_(torch.randn(64))
    return new.eval()


def test_contributions_add_up_to_the_pre_activation():
    model = digsite.load(tiny("llama"), verify=False)
    tokens = grid([[5, 6, 7, 8], [9, 10, 11, 12]])
    rows = rows_of(model.run(tokens, read=[SITE]), [SITE], rows_in(tokens))
    new = filled_sae()
    heads, constant = head_contributions(new, rows, [3, 7], model.n_heads)
    pre = new.blocks[0].pre(new.inputs(new.blocks[0], rows))[:, [3, 7]]
    torch.testing.assert_close(heads.sum(2) + constant, pre)
    assert heads.shape == (8, 2, 4)


def test_a_head_that_is_zeroed_contributes_its_bias_alone():
    """Contribution of head 2 with z = 0 is minus the bias of what the dictionary writes, read through its encoder."""
    new = filled_sae()
    x = torch.randn(5, 64)
    without = x.clone()
    without[:, 32:48] = 0
    from digsite.store import Rows

    a, _ = head_contributions(new, Rows({SITE: x}), [1], 4)
    b, _ = head_contributions(new, Rows({SITE: without}), [1], 4)
    assert torch.equal(a[:, :, [0, 1, 3]], b[:, :, [0, 1, 3]]) and not torch.equal(a, b)
    wanted = -(new.bias(SITE)[32:48] @ new.blocks[0].W_enc[0][1, 32:48])
    torch.testing.assert_close(b[:, 0, 2], wanted.expand(5).detach())


def test_shares_are_those_that_were_put_in(tmp_path):
    new = filled_sae()
    with torch.no_grad():
        new.blocks[0].decoder.W[0].zero_()
        new.blocks[0].decoder.W[0][:, 0] = 3.0  # head 0
        new.blocks[0].decoder.W[0][:15, 17] = 4.0  # head 1
    result = head_shares(new, 4)
    assert result.writes[0].tolist() == pytest.approx([0.36, 0.64, 0, 0])
    assert result.writes[20].tolist() == [1, 0, 0, 0]
    torch.testing.assert_close(result.reads.sum(1), torch.ones(30))
    frame = result.to_frame()
    assert frame["writes_head"][0] == 1 and frame["writes_head"][20] == 0
    assert "100% of the latents write mostly through one head" in result.verdict
    assert HeadShares.load(result.save(tmp_path / "h")).verdict == result.verdict
    chance = head_shares(initialise(sae({SITE: 64}, 300, TopK(k=3)), seed=1), 4)
    assert "no more than chance" in chance.verdict


def test_another_site_is_refused():
    with pytest.raises(BadInput, match=r"one attn\.z[\s\S]*Found: layers\.1\.resid_post"):
        head_shares(sae({"layers.1.resid_post": 64}, 40), 4)
    with pytest.raises(BadInput, match="64 numbers do not fall into 5 heads"):
        head_shares(filled_sae(), 5)
    from digsite.store import Rows

    with pytest.raises(BadInput, match=r"no latent 30[\s\S]*0 to 29"):
        head_contributions(filled_sae(), Rows({SITE: torch.zeros(2, 64)}), [30], 4)
