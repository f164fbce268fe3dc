"""Two models whose common and own features are known: what a crosscoder claims falsely is caught."""

from typing import Any

import pytest
import torch

from digsite._core.errors import BadInput, NotFinite
from digsite.dictionaries import Relu, crosscoder, sae
from digsite.dictionaries.diffing import ModelDiff, model_diff
from store.sources import Held, held

A, B = "base:layers.0.resid_post", "tuned:layers.0.resid_post"
D = 24
SHARED, ONLY_A, ONLY_B = range(8), range(8, 11), range(11, 14)
SHRUNK, SPLIT = 0, 1


def pair(rows=3000, *, noise=0.05, seed=0):
    """Features 0–7 are in both models, 8–10 in the base alone, 11–13 in the tuned one alone."""
    drawn = torch.Generator().manual_seed(seed)
    directions = torch.linalg.qr(torch.randn(D, D, generator=drawn))[0][:14]
    active = torch.rand(rows, 14, generator=drawn) < 0.2
    values = torch.where(active, 0.5 + torch.rand(rows, 14, generator=drawn), 0.0)
    inside = {A: [*SHARED, *ONLY_A], B: [*SHARED, *ONLY_B]}
    columns = {
        name: values[:, some] @ directions[some] + noise * torch.randn(rows, D, generator=drawn)
        for name, some in inside.items()
    }
    return directions, Held(columns, torch.zeros(rows, dtype=torch.long), chunk=500)


@torch.no_grad()
def dictionary_of(directions):
    """The right one, but for two defects: feature 0 is not written to the base although it is there (shrinkage), and
    feature 1 has a latent for each model (decoupling): latent 1 for the tuned one, latent 14 for the base."""
    new: Any = crosscoder({A: D, B: D}, 15, Relu())
    block = new.blocks[0]
    for latent in range(14):
        sides = [0] if latent in ONLY_A else [1] if latent in ONLY_B else [0, 1]
        for side in sides:
            block.W_enc[side][latent] = directions[latent] / len(sides)
            block.decoder.W[side][latent] = directions[latent]
    block.b_enc.fill_(-0.1)
    block.decoder.W[0][SHRUNK] = 0
    block.decoder.W[0][SPLIT] = 0
    block.W_enc[0][SPLIT] = 0
    block.W_enc[1][SPLIT] = directions[SPLIT]
    block.W_enc[0][14] = block.decoder.W[0][14] = directions[SPLIT]
    return new.eval()


def test_what_is_new_is_found_and_what_only_looks_so_is_caught():
    directions, source = pair()
    result = model_diff(dictionary_of(directions), source)
    kinds = {row["latent"]: row for row in result.to_frame().to_dicts()}
    for latent in SHARED:
        if latent not in (SHRUNK, SPLIT):
            assert kinds[latent]["kind"] == "shared" and kinds[latent]["norm"] == pytest.approx(0.5)
            assert kinds[latent]["nu_error"] == pytest.approx(1, abs=0.1)
    for latent in ONLY_A:
        assert kinds[latent]["kind"] == "only in base" and kinds[latent]["norm"] == 0
    for latent in ONLY_B:
        assert kinds[latent]["kind"] == "only in tuned" and kinds[latent]["norm"] == 1
        assert abs(kinds[latent]["nu_error"]) < 0.1 and abs(kinds[latent]["nu_reconstruction"]) < 0.1
    assert kinds[SHRUNK]["kind"] == "only in tuned by norm" and kinds[SHRUNK]["nu_error"] == pytest.approx(1, abs=0.15)
    assert kinds[SPLIT]["kind"] == "only in tuned by norm"
    assert kinds[SPLIT]["nu_reconstruction"] == pytest.approx(1, abs=0.15) and abs(kinds[SPLIT]["nu_error"]) < 0.15
    assert kinds[14]["kind"] == "only in base by norm"
    assert int(result.exclusive("tuned").sum()) == 5 and int(result.new("tuned").sum()) == 3
    assert "5 look exclusive to tuned, of which 3 are new by latent scaling" in result.verdict
    assert "6 of 15 latents are shared by base and tuned" in result.verdict


def test_nu_is_what_least_squares_gives():
    directions, source = pair(rows=640, noise=0.3)
    new = dictionary_of(directions)
    with torch.no_grad():
        new.blocks[0].decoder.W[0].add_(0.2 * torch.randn(15, D, generator=torch.Generator().manual_seed(1)))
    result = model_diff(new, source, batch=100)
    rows = source.rows_at(torch.arange(640))
    with torch.no_grad():
        f = new.encode(rows)[0].dense().double()
        made = {name: x.double() for name, x in new(rows).items()}
    for latent in (0, 3, 9, 12):
        beta = {}
        W = {name: new.blocks[0].W_dec(name)[latent].detach().double() for name in (A, B)}
        own, other = (B, A) if W[B].norm() > W[A].norm() else (A, B)
        x = (f[:, latent, None] * W[own]).flatten()
        for name in (own, other):
            target = rows[name].double() - made[name] + f[:, latent, None] * W[name]
            beta[name] = torch.linalg.lstsq(x[:, None], target.flatten()[:, None]).solution.item()
        assert float(result.nu_error[latent]) == pytest.approx(beta[other] / beta[own], rel=1e-4)


def test_density_cosine_and_intervals():
    directions, source = pair()
    result = model_diff(dictionary_of(directions), source)
    assert result.density[3] == pytest.approx(0.2, abs=0.04)
    assert result.cosine[3] == pytest.approx(1, abs=1e-5)
    row = result.to_frame().row(SHRUNK, named=True)
    assert row["nu_error_low"] < row["nu_error"] < row["nu_error_high"]
    assert model_diff(dictionary_of(directions), source, rows=1000).rows == 1000


def test_it_comes_back_from_a_folder(tmp_path):
    directions, source = pair(rows=500)
    result = model_diff(dictionary_of(directions), source)
    assert ModelDiff.load(result.save(tmp_path / "d")).verdict == result.verdict


def test_what_cannot_be_compared_is_refused():
    directions, source = pair(rows=500)
    with pytest.raises(BadInput, match=r"by a crosscoder over one site of both[\s\S]*layers\.0\.resid_post"):
        model_diff(sae({"layers.0.resid_post": D}, 64), held(layers=4))
    with pytest.raises(BadInput, match=r"32 parts need 64 rows[\s\S]*Found: 50"):
        model_diff(dictionary_of(directions), source, rows=50)
    with pytest.raises(BadInput, match=r"chat is none of the two models[\s\S]*base, tuned"):
        model_diff(dictionary_of(directions), source).new("chat")
    source.columns[B][3, 3] = torch.nan
    with pytest.raises(NotFinite, match="tuned:layers"):
        model_diff(dictionary_of(directions), source)
