"""The dimensions of position: planted ones are found and exchanged, and a rotary model has none."""

from pathlib import Path

import numpy as np
import pytest
import torch

import digsite
from digsite._core.errors import BadInput, NotFinite
from digsite.artifacts import load_result
from digsite.directions import Subspace
from digsite.directions.labelled import split
from digsite.directions.probes import PositionSubspace, position_subspace
from digsite.directions.probes.position import neighbours_exchanged
from digsite.sites import Site
from digsite.toys.compiled import compile_program
from digsite.toys.trained import induction, position_tracker
from digsite.toys.trained.networks import small_gpt2
from digsite.toys.training import train

SITE = "layers.0.resid_pre"
PLANTED, VOCAB, LENGTH = 3, 40, 12


def planted(layers: int = 1) -> tuple[digsite.Model, torch.Tensor]:
    """Attention alone, which adds up what it sees: positions are written in three dimensions, tokens in the others."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = small_gpt2(vocab=VOCAB, length=LENGTH, layers=layers, heads=2, width=32, norm="still").eval()
        basis = torch.linalg.qr(torch.randn(32, 32))[0].T
        with torch.no_grad():
            for name, weight in net.named_parameters():
                if weight.requires_grad and weight.ndim > 1 and "mlp" not in name:
                    weight.mul_(20)
            net.transformer.wpe.weight.copy_(2 * torch.randn(LENGTH, PLANTED) @ basis[:PLANTED])
            net.transformer.wte.weight.copy_(torch.randn(VOCAB, 32 - PLANTED) @ basis[PLANTED:])
    return digsite.load(net, verify=False), basis[:PLANTED]


def random_rows(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(VOCAB, (rows, LENGTH), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def found() -> PositionSubspace:
    model, _ = planted()
    return position_subspace(model, model.tokens(random_rows(600)), SITE, draws=5)


def test_planted_dimensions_are_found_and_how_many_they_are(found):
    basis = planted()[1]
    assert found.basis.shape == (PLANTED, 32)
    assert float(torch.linalg.svdvals(found.basis @ basis.T).min()) > 0.98
    assert found.is_read and found.is_used and "not shown" not in found.verdict
    read, used = found.to_frame().to_dicts()
    assert read["share"] > 0.95 and read["random_95"] < 0.5
    assert used["share"] > 0.9 and used["random_95"] < 0.1


def test_exchanging_the_planted_dimensions_is_exchanging_the_tokens():
    """After both neighbours attention sees the same keys and values, in another order: the logits are the same."""
    model, basis = planted()
    tokens, first = model.tokens(random_rows(6, seed=3)), torch.tensor([1, 2, 3, 4, 5, 6])
    run = model.run(tokens, read=[SITE])
    space = Subspace(
        site=Site.parse(SITE), basis=basis, provenance=digsite.directions.token_direction(model, 0).provenance
    )
    here, there = first[:, None], first[:, None] + 1
    edits = [space.swap(run, at=here, source_at=there), space.swap(run, at=there, source_at=here)]
    edited = model.run(tokens, edits=edits).logits
    swapped = model.run(neighbours_exchanged(tokens, first)).logits
    after = torch.arange(LENGTH) > first[:, None] + 1
    torch.testing.assert_close(edited[after], swapped[after], rtol=1e-4, atol=1e-4)
    assert float((run.logits[after] - swapped[after]).abs().max()) > 0.1


def test_what_is_left_of_an_exchange_is_what_a_loop_measures(found):
    model, _ = planted()
    tokens = model.tokens(random_rows(24, seed=5))
    one = position_subspace(model, tokens, SITE, size=2, draws=2, seed=4)
    first = np.random.default_rng([4, 2]).integers(1, LENGTH - 2, 24)
    test = split(torch.ones(24, dtype=torch.bool), torch.arange(24), 0.5, 4)[1]
    for at, row in enumerate(test.tolist()):
        single, a = tokens[row], int(first[row])
        ids = single.ids.clone()
        ids[0, [a, a + 1]] = ids[0, [a + 1, a]]
        wanted = model.run(model.tokens(ids)).logits.log_softmax(-1)[0, a + 2 :].double()
        run = model.run(single, read=[SITE])
        edits = [one.subspace.swap(run, at=a, source_at=a + 1), one.subspace.swap(run, at=a + 1, source_at=a)]
        for edit, measured in (([], one.tokens_moved[at]), (edits, one.left[at])):
            said = model.run(single, edits=edit).logits.log_softmax(-1)[0, a + 2 :].double()
            assert float((wanted.exp() * (wanted - said)).sum(-1).mean()) == pytest.approx(
                float(measured), rel=1e-3, abs=1e-6
            )


def test_padding_on_either_side_and_longer_texts_change_nothing(found):
    model, _ = planted()
    ids = random_rows(40, seed=7)
    rows = [row[: LENGTH - (at % 3)].tolist() for at, row in enumerate(ids)]
    padded = []
    for side in ("left", "right"):
        mask = torch.zeros(40, LENGTH, dtype=torch.bool)
        grid = torch.zeros(40, LENGTH, dtype=torch.long)
        for at, row in enumerate(rows):
            where = slice(LENGTH - len(row), LENGTH) if side == "left" else slice(0, len(row))
            mask[at, where], grid[at, where] = True, torch.tensor(row)
        padded.append(position_subspace(model, digsite.Tokens(ids=grid, mask=mask), SITE, size=3, draws=2))
    left, right = padded
    assert left.means.shape == (LENGTH - 3, 32)  # positions that every text has, without the first
    torch.testing.assert_close(left.means, right.means, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(left.left, right.left, rtol=1e-2, atol=1e-5)
    assert torch.equal(left.right, right.right)


def test_a_compiled_program_writes_its_places_where_they_are_found():
    """The program `reverse` numbers its positions, one coordinate each."""
    made = compile_program("reverse")
    length = made.program.length + 1
    words = made.tokens(made.program.rows[:50]).ids.unique()
    ids = words[torch.randint(len(words), (800, length), generator=torch.Generator().manual_seed(0))]
    found = position_subspace(made.model, made.model.tokens(ids), SITE, draws=3)
    written = made.model.hf.transformer.wpe.weight[1:length].detach()
    _, sizes, basis = torch.linalg.svd(written - written.mean(0), full_matrices=False)
    planted = basis[sizes > 1e-3 * sizes[0]]
    assert len(found.basis) == len(planted) == length - 2  # one coordinate each, less one: only differences are seen
    assert float(torch.linalg.svdvals(found.basis @ planted.T).min()) > 0.95
    assert found.is_read and found.right.float().mean() > 0.99


def test_a_rotary_model_has_no_position_in_its_embedding():
    model = digsite.load("digsite/tinyworld", verify=False)
    ids = torch.randint(20, 300, (60, 10), generator=torch.Generator().manual_seed(0))
    ids[:, 0] = 1
    found = position_subspace(model, model.tokens(ids), SITE, draws=20)
    assert not found.is_used and not found.is_read
    assert "not shown to be read" in found.verdict and "not shown to use" in found.verdict
    assert found.loud < 0.1


def test_a_model_that_does_not_look_back_is_no_case(found):
    model, _ = planted(layers=1)
    with torch.no_grad():
        model.hf.transformer.h[0].attn.c_proj.weight.zero_()
    one = position_subspace(model, model.tokens(random_rows(40)), SITE, draws=3)
    assert "use cannot be judged" in one.verdict and not one.is_used


def test_it_is_saved_and_gives_edits(found, tmp_path):
    again = load_result(found.save(tmp_path / "found"))
    assert again.verdict == found.verdict
    model, _ = planted()
    run = model.run(model.tokens(random_rows(4)), read=[SITE], edits=[found.subspace.ablate()])
    assert float(found.subspace.read(run).abs().max()) < 1e-4


def test_what_cannot_be_asked_is_refused():
    model, _ = planted()
    with pytest.raises(BadInput, match="Positions are told apart on 8 different texts of 4 tokens or more"):
        position_subspace(model, model.tokens(random_rows(5)), SITE)
    with pytest.raises(BadInput, match="Found: 1 texts"):
        position_subspace(model, model.tokens(random_rows(1).repeat(20, 1)), SITE)
    with pytest.raises(BadInput, match="the shortest of 3 tokens"):
        position_subspace(model, model.tokens(random_rows(20)[:, :3]), SITE)
    with pytest.raises(BadInput, match=r"A subspace of 20 dimensions cannot be found(.|\n)*Possible: 1 to 10"):
        position_subspace(model, model.tokens(random_rows(20)), SITE, size=20)
    with pytest.raises(BadInput, match="A subspace is judged beside random ones"):
        position_subspace(model, model.tokens(random_rows(20)), SITE, draws=0)
    with pytest.raises(BadInput, match="names several sites"):
        position_subspace(model, model.tokens(random_rows(20)), "layers.*.resid_pre")
    with torch.no_grad():
        model.hf.transformer.wpe.weight[3, 0] = torch.nan
    with pytest.raises(NotFinite, match=r"an activation at layers\.0\.resid_pre"):
        position_subspace(model, model.tokens(random_rows(20)), SITE)


# -- trained networks ----------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_the_tracker_takes_neighbours_for_each_other_where_their_positions_are_exchanged(tmp_path: Path):
    model = digsite.load(train(position_tracker.recipe(0, 400), tmp_path / "state").network, verify=False)
    rows = position_tracker.rows(np.random.default_rng(3), 200)
    found = position_subspace(model, model.tokens(rows), SITE, size=8, draws=10)
    read, used = found.to_frame().to_dicts()
    assert found.is_read and read["share"] > 0.75
    assert used["low"] > 0.95 and used["random_95"] < 0.4


@pytest.mark.slow
def test_a_head_looks_for_the_position_before_in_a_few_dimensions(tmp_path: Path):
    """In the induction toy: the attention to the token before goes to the one that now says it stands there."""
    model = digsite.load(train(induction.recipe(0), tmp_path / "state").network, verify=False)
    ids = induction.repeats(np.random.default_rng(3), 200).ids
    found = position_subspace(model, model.tokens(ids), SITE, size=6, draws=10)
    assert found.is_read and found.is_used and found.to_frame()["share"][1] > 0.5
    tokens, length = model.tokens(ids[:50]), ids.shape[1]
    pattern = "layers.0.attn.pattern"
    plain = model.run(tokens, read=[SITE, pattern])
    scores = plain[pattern].diagonal(-1, -2, -1)[..., :8].mean((0, 2))  # in the first copy
    head = int(scores.argmax())
    assert float(scores[head]) > 0.5
    random = torch.linalg.qr(torch.randn(model.d_model, 6, generator=torch.Generator().manual_seed(0)))[0].T
    spaces = found.subspace, Subspace(site=found.subspace.site, basis=random, provenance=found.provenance)
    went = []
    for space in spaces:
        moved = []
        for b in range(2, 8):  # position b + 1 looks at b; b and b - 1 exchange their positions
            edits = [space.swap(plain, at=a, source_at=c) for a, c in ((b, b - 1), (b - 1, b))]
            seen = model.run(tokens, edits=edits, read=[pattern])[pattern][:, head, b + 1]
            moved.append(float((seen[:, b - 1] - plain[pattern][:, head, b + 1, b - 1]).mean()))
        went.append(float(np.mean(moved)))
    assert length == induction.LENGTH and went[0] > 0.5 * float(scores[head]) and abs(went[1]) < 0.35 * went[0]
