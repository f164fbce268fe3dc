"""Classical methods behind the interface of a dictionary: they are what scikit-learn found, and code new rows."""

import pytest
import torch
from sklearn.decomposition import PCA

from digsite._core.errors import BadInput, NotFinite
from digsite.dictionaries import load, save
from digsite.dictionaries.classical import classical, pursued, sparse_coder
from digsite.toys.planted import Planted, planted_batch

FEW = Planted(features=10, d_model=12, density=0.15, bias=1.0)
X = planted_batch(FEW, 0, examples=3000).x


def cosines(made):
    unit = torch.nn.functional.normalize(made.directions("x").detach(), dim=1)
    return (unit @ FEW.directions.T).amax(0)


def test_both_sides_of_all_components_are_all_of_a_row(tmp_path):
    made = load(save(classical({"x": X}, "PCA", 50), tmp_path / "pca"))
    found = PCA(12).fit(X.numpy())
    overlap = made.directions("x").detach() @ torch.from_numpy(found.components_).float().T
    torch.testing.assert_close(overlap.abs(), torch.eye(12), rtol=1e-3, atol=1e-3)
    with torch.no_grad():
        one = made({"x": X})["x"]
        made.blocks[0].W_enc[0].neg_()
        made.blocks[0].W_dec("x").neg_()
        other = made({"x": X})["x"]
    torch.testing.assert_close(one + other - X.mean(0), X, rtol=1e-3, atol=1e-3)


def test_independent_components_are_fewer_features_than_dimensions():
    made = classical({"x": X}, "ICA", 10)
    assert (cosines(made) > 0.9).float().mean() >= 0.9
    assert made.config.family == "ICA" and len(made.directions("x")) == 10


def test_sparse_coding_reads_new_rows_about_as_iteration_does():
    made = classical({"x": X}, "sparse coding", 16, seed=1)
    model, new = sparse_coder(X, 16, 1), planted_batch(FEW, 1, examples=500).x
    torch.testing.assert_close(made.directions("x").detach(), torch.from_numpy(model.components_).float())
    with torch.no_grad():
        quick, slow = made.encode({"x": new})[0].dense(), pursued(model, new - X.mean(0))
        left = (made({"x": new})["x"] - new).square().sum() / (new - new.mean(0)).square().sum()
    assert torch.corrcoef(torch.stack([quick.flatten(), slow.flatten()]))[0, 1] > 0.7
    assert left < 0.5


def test_nonnegative_factors_of_nonnegative_rows():
    positive = torch.relu(X)
    made = classical({"x": positive}, "NMF", 12)
    assert (made.directions("x") >= 0).all()
    with torch.no_grad():
        left = (made({"x": positive})["x"] - positive).square().sum() / positive.square().sum()
    assert left < 0.3
    with pytest.raises(BadInput, match="without negative numbers"):
        classical({"x": X}, "NMF", 12)


def test_what_cannot_be_done_says_why():
    with pytest.raises(BadInput, match="did you mean PCA"):
        classical({"x": X}, "PCB", 3)
    with pytest.raises(BadInput, match="one column"):
        classical({"x": X, "y": X}, "PCA", 3)
    with pytest.raises(NotFinite, match="column x"):
        classical({"x": X / 0}, "PCA", 3)
