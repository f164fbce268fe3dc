"""The figure of a position subspace shows what is read at each position, and what random subspaces read."""

import torch
from drawn import collisions, outside, texts

from digsite._core.cost import Cost
from digsite._core.provenance import record
from digsite.directions.probes import PositionSubspace


def test_it_shows_each_position_beside_random_subspaces_without_an_overlap():
    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=torch.Generator().manual_seed(0))

    result = PositionSubspace(
        site="layers.0.resid_pre", basis=torch.eye(4, 16), means=draw(11, 16), loud=0.3, right=draw(40, 11) < 0.9,
        right_random=0.2 + draw(6, 11) / 5, tokens_moved=draw(40), left=draw(40) / 9, left_random=draw(6, 40) * 1.2,
        provenance=record("digsite.directions.probes.position_subspace(model, tokens)", model="toy"), cost=Cost(),
    )  # fmt: skip
    figure = result.figure()
    assert not collisions(figure) and not outside(figure)
    written = " ".join(str(text) for text in texts(figure))
    assert "subspace of position" in written and "random subspaces" in written and "position" in written
    assert result.verdict in figure.caption and len(figure.data) == 22
