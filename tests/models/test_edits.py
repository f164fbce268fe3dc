"""Every edit does to hand-made values what it says, at the positions, rows and heads that were asked for."""

import json

import pytest
import torch

import digsite
from architectures import tiny
from digsite._core.errors import BadInput, NoSuchSite, ShapeMismatch
from digsite.models import Plan
from digsite.models.edits import changed
from digsite.models.load import wrap
from digsite.models.tokens import grid

SITE = "layers.1.resid_post"
ROWS = [[5, 6, 7, 8, 9], [11, 12, 13], [14, 15, 16, 17]]


@pytest.fixture(scope="module")
def model():
    return wrap(tiny("llama"), None, name="llama", revision=None, attention="eager")


@pytest.fixture(params=["left", "right"])
def padded(request):
    return grid(ROWS, padding=request.param)


@pytest.fixture(scope="module")
def even():
    return grid([[5, 6, 7, 8], [11, 12, 13, 14], [21, 22, 23, 24]])


def change(model, tokens, edit, read=None):
    """The value of the edited site before and after."""
    site = read or edit.site
    return model.run(tokens, read=[site])[site], model.run(tokens, read=[site], edits=[edit])[site]


# -- each operation on values that can be checked by hand ------------------------------------------------------------
X = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, -1.0, 0.0, 2.0]])


@pytest.mark.parametrize(
    ("edit", "wanted"),
    [
        (digsite.replace(SITE, torch.tensor([9.0, 8.0, 7.0, 6.0])), [[9, 8, 7, 6], [9, 8, 7, 6]]),
        (digsite.add(SITE, torch.tensor([1.0, 0, 0, 0]), scale=3.0), [[4, 2, 3, 4], [3, -1, 0, 2]]),
        (digsite.scale(SITE, -2.0), [[-2, -4, -6, -8], [0, 2, 0, -4]]),
        (digsite.ablate(SITE), [[0, 0, 0, 0], [0, 0, 0, 0]]),
        (digsite.ablate(SITE, direction=torch.tensor([0.0, 0, 0, 5])), [[1, 2, 3, 0], [0, -1, 0, 0]]),
        (digsite.ablate(SITE, direction=torch.tensor([3.0, 4.0, 0, 0])), [[-0.32, 0.24, 3, 4], [0.48, -0.36, 0, 2]]),
        (digsite.cap(SITE, torch.tensor([0.0, 0, 0, 2.0]), 3.0), [[1, 2, 3, 3], [0, -1, 0, 2]]),
        (digsite.cap(SITE, torch.tensor([0.0, -1.0, 0, 0]), 0.5), [[1, 2, 3, 4], [0, -0.5, 0, 2]]),
        (digsite.swap(SITE, [1, 0]), [[0, -1, 0, 2], [1, 2, 3, 4]]),
        (digsite.swap(SITE, [1, 0], within=torch.eye(4)[1:2]), [[1, -1, 3, 4], [0, 2, 0, 2]]),
        (digsite.scale(SITE, 3.0, within=2 * torch.eye(4)[[0, 3]]), [[3, 2, 3, 12], [0, -1, 0, 6]]),
        (digsite.scale(SITE, 0.0, within=torch.tensor([[1.0, 1, 0, 0], [1, 0, 0, 0]])), [[0, 0, 3, 4], [0, 0, 0, 2]]),
        (digsite.replace(SITE, torch.full((4,), 9.0), within=torch.eye(4)[2:3]), [[1, 2, 9, 4], [0, -1, 9, 2]]),
        (digsite.apply(SITE, lambda x: x.flip(-1)), [[4, 3, 2, 1], [2, 0, -1, 0]]),
    ],
)
def test_each_operation_is_its_formula(edit, wanted):
    before = X.clone()
    torch.testing.assert_close(changed(edit, X), torch.tensor(wanted, dtype=torch.float32))
    assert torch.equal(X, before), "edits are pure"


def test_edits_apply_in_order(model, even):
    vector = torch.ones(64)
    first, second = digsite.add(SITE, vector), digsite.scale(SITE, 2.0)
    x = model.run(even, read=[SITE])[SITE]
    torch.testing.assert_close(model.run(even, read=[SITE], edits=[first, second])[SITE], (x + 1) * 2)
    torch.testing.assert_close(model.run(even, read=[SITE], edits=[second, first])[SITE], x * 2 + 1)


# -- positions -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("at", "cells"),
    [
        (0, [(0, 0), (1, 0), (2, 0)]),
        (-1, [(0, 4), (1, 2), (2, 3)]),
        (2, [(0, 2), (1, 2), (2, 2)]),
        ([0, -1], [(0, 0), (0, 4), (1, 0), (1, 2), (2, 0), (2, 3)]),
        (range(1, 3), [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2)]),
        (slice(1, 3), [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2)]),
        (slice(2, None), [(0, 2), (0, 3), (0, 4), (1, 2), (2, 2), (2, 3)]),
        (slice(-2, None), [(0, 3), (0, 4), (1, 1), (1, 2), (2, 2), (2, 3)]),
        (torch.tensor([4, 1, 0]), [(0, 4), (1, 1), (2, 0)]),
        (torch.tensor([[0, 1], [1, 2], [2, 3]]), [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2), (2, 3)]),
    ],
    ids=str,
)
def test_positions_are_absolute_and_padding_does_not_count(model, padded, at, cells):
    before, after = change(model, padded, digsite.add(SITE, torch.ones(64), at=at))
    wanted = before.clone()
    for row, position in cells:
        wanted[row, padded.starts[row] + position] += 1
    torch.testing.assert_close(after[padded.mask], wanted[padded.mask])


def test_rows(model, padded):
    before, after = change(model, padded, digsite.scale(SITE, 0.0, rows=[2, 0]))
    assert not after[[0, 2]][padded.mask[[0, 2]]].any()
    assert torch.equal(after[1], before[1])
    before, after = change(model, padded, digsite.scale(SITE, 0.0, rows=[1], at=-1))
    assert (before != after).any(-1).nonzero().tolist() == [[1, padded.starts[1] + 2]]


def test_a_value_for_each_row_and_position(model, even):
    value = torch.arange(3 * 4.0).reshape(3, 4, 1) * torch.ones(64)
    _, after = change(model, even, digsite.replace(SITE, value))
    assert torch.equal(after, value)
    before, after = change(model, even, digsite.replace(SITE, value, at=2))
    assert torch.equal(after[:, 2], value[:, 2])
    assert torch.equal(after[:, [0, 1, 3]], before[:, [0, 1, 3]])
    _, after = change(model, even, digsite.replace(SITE, value[:, [3, 0]], at=[0, 1]))
    assert torch.equal(after[:, :2], value[:, [3, 0]])
    _, after = change(model, even, digsite.replace(SITE, value[:, 1], at=-1))
    assert torch.equal(after[:, 3], value[:, 1])
    _, after = change(model, even, digsite.replace(SITE, value, rows=[1]))
    assert torch.equal(after[1], value[1])


def test_batches_cut_values_and_rows_where_the_rows_are(model, even):
    value = torch.randn(3, 4, 64, generator=torch.Generator().manual_seed(0))
    for edit in (
        digsite.replace(SITE, value),
        digsite.replace(SITE, value[:, 1], at=1),
        digsite.replace(SITE, value[:, :2], at=[0, -1]),
        digsite.add(SITE, value[0, 0], at=torch.tensor([0, 1, 2])),
        digsite.scale(SITE, 0.0, rows=[1, 2]),
        digsite.replace(SITE, value, rows=[2]),
        digsite.replace(SITE, value[[2]], rows=[2]),
        digsite.replace(SITE, value[[0, 2], 1], rows=[0, 2], at=-1),
    ):
        whole = model.run(even, read=[SITE], edits=[edit])
        for size in (1, 2):
            parts = model.run(even, read=[SITE], edits=[edit], batch_size=size)
            torch.testing.assert_close(parts[SITE], whole[SITE])
            torch.testing.assert_close(parts.logits, whole.logits)


# -- heads and attention -------------------------------------------------------------------------------------------
def test_one_head_is_edited_and_no_other(model, even):
    for name, heads, axis in (("attn.q", 4, 2), ("attn.k", 2, 2), ("attn.z", 4, 2), ("attn.pattern", 4, 1)):
        site = f"layers.1.{name}"
        for head in (0, heads - 1):
            before, after = change(model, even, digsite.scale(f"{site}[{head}]", 0.0), read=site)
            assert not after.select(axis, head).any()
            rest = torch.tensor([other for other in range(heads) if other != head])
            assert torch.equal(after.index_select(axis, rest), before.index_select(axis, rest))


def test_positions_of_patterns_are_destinations(model, even):
    """4 heads and 4 positions: nothing may take one for the other."""
    site = "layers.1.attn.pattern"
    before, after = change(model, even, digsite.scale(site, 0.0, at=2))
    assert not after[:, :, 2].any()
    assert torch.equal(after[:, :, [0, 1, 3]], before[:, :, [0, 1, 3]])
    donor = model.run(even[[2, 1, 0]], read=[site])
    after = model.run(even, read=[site], edits=[digsite.patch(site, donor, at=3)])[site]
    torch.testing.assert_close(after[:, :, 3], donor[site][:, :, 3])
    assert torch.equal(after[:, :, :3], before[:, :, :3])
    after = model.run(even, read=[site], edits=[digsite.patch(f"{site}[1]", donor, at=3)])[site]
    torch.testing.assert_close(after[:, 1, 3], donor[site][:, 1, 3])
    assert torch.equal(after[:, 0], before[:, 0])


# -- edits from other runs -----------------------------------------------------------------------------------------
def test_a_patch_puts_in_what_the_donor_computed(model, even):
    donors = even[[1, 2, 0]]
    source = model.run(donors, read=[SITE, "layers.1.attn.z"])
    logits = model.run(even, edits=[digsite.patch(SITE, source)]).logits
    torch.testing.assert_close(logits, model.run(even, edits=[digsite.replace(SITE, source[SITE])]).logits)
    _, after = change(model, even, digsite.patch(SITE, source, at=-1))
    torch.testing.assert_close(after[:, 3], source[SITE][:, 3])
    _, after = change(model, even, digsite.patch(SITE, source, at=0, source_at=2))
    torch.testing.assert_close(after[:, 0], source[SITE][:, 2])
    _, after = change(model, even, digsite.patch(SITE, source, at=[0, 1], source_at=[2, 3]))
    torch.testing.assert_close(after[:, :2], source[SITE][:, 2:])
    _, after = change(model, even, digsite.patch("layers.1.attn.z[2]", source, at=1), read="layers.1.attn.z")
    torch.testing.assert_close(after[:, 1, 2], source["layers.1.attn.z"][:, 1, 2])


def test_a_patch_between_rows_of_other_lengths_names_both_ends(model, padded, even):
    """Absolute positions on both sides, whatever the padding."""
    source = model.run(even, read=[SITE])
    _, after = change(model, padded, digsite.patch(SITE, source, at=-1, source_at=-1))
    ends = torch.tensor([start + length - 1 for start, length in zip(padded.starts, padded.lengths, strict=True)])
    torch.testing.assert_close(after[torch.arange(3), ends], source[SITE][:, -1])
    with pytest.raises(ShapeMismatch, match=r"value \(3, 4, 64\), selected activation \(3, 5, 64\)"):
        model.run(padded, edits=[digsite.patch(SITE, source)])


def test_a_swap_joins_rows_of_one_pass(model, even):
    before, after = change(model, even, digsite.swap(SITE, [2, 0, 1]))
    assert torch.equal(after, before[[2, 0, 1]])
    before, after = change(model, even, digsite.swap(SITE, [1, 0, 2], at=-1))
    assert torch.equal(after[:, -1], before[[1, 0, 2], -1])
    assert torch.equal(after[:, :-1], before[:, :-1])
    with pytest.raises(BadInput, match="joins rows"):
        model.run(even, edits=[digsite.swap(SITE, [2, 0, 1])], batch_size=2)
    uneven = grid(ROWS)
    with pytest.raises(BadInput, match="swap"):
        model.run(uneven, edits=[digsite.swap(SITE, [1, 0, 2], at=slice(0, None))])
    for order in ([1, 0], [0, 1, 3], [0, 1, 2, 2]):
        with pytest.raises(BadInput, match="order"):
            model.run(even, edits=[digsite.swap(SITE, order)])


def test_ablations_are_measured_on_what_they_are_over(model, padded, even):
    other = grid([[31, 32, 33, 34], [41, 42, 43, 44]])
    x = model.run(other, read=[SITE])[SITE]
    _, after = change(model, even, digsite.ablate(SITE, how="mean", over=other, at=1))
    torch.testing.assert_close(after[:, 1], x.mean((0, 1)).expand(3, -1))
    _, after = change(model, even, digsite.ablate(SITE, how="position-mean", over=other))
    torch.testing.assert_close(after, x.mean(0).expand(3, -1, -1))
    _, after = change(model, even, digsite.ablate(SITE, how="position-mean", over=other, at=3))
    torch.testing.assert_close(after[:, 3], x.mean(0)[3].expand(3, -1))
    y = model.run(padded, read=[SITE])[SITE]
    _, after = change(model, even, digsite.ablate(SITE, how="mean", over=padded))
    torch.testing.assert_close(after, y[padded.mask].mean(0).expand(3, 4, -1))
    for at in (None, 2):
        _, after = change(model, even, digsite.ablate(SITE, how="resample", over=other, seed=3, at=at))
        where = slice(None) if at is None else [at]
        for row in range(3):
            donors = [torch.allclose(after[row, where], donor[where], atol=1e-6) for donor in x]
            assert donors.count(True) == 1
    again = change(model, even, digsite.ablate(SITE, how="resample", over=other, seed=3, at=2))[1]
    assert torch.equal(after, again), "seeded"
    donors = grid([[*row[:-1], 40] for row in ROWS], padding="right")
    _, after = change(model, padded, digsite.ablate(SITE, how="resample", over=donors))
    y = model.run(donors, read=[SITE])[SITE]
    for row, length in enumerate(padded.lengths):
        torch.testing.assert_close(after[row][padded.mask[row]], y[row, :length])


def test_what_cannot_be_lined_up_is_refused(model, padded, even):
    with pytest.raises(ShapeMismatch, match="one length"):
        model.run(even, edits=[digsite.ablate(SITE, how="position-mean", over=padded)])
    for tokens, over in ((padded, grid([[3, 4, 5, 6, 7]])), (even, grid([[3, 4, 5, 6, 7]]))):
        with pytest.raises(ShapeMismatch, match="one length in the run too"):
            model.run(tokens, edits=[digsite.ablate(SITE, how="position-mean", over=over)])
        with pytest.raises(ShapeMismatch, match=r"a row of \d tokens, donors of \[5\]"):
            model.run(tokens, edits=[digsite.ablate(SITE, how="resample", over=over)])
    with pytest.raises(ShapeMismatch, match="without padding"):
        model.run(padded, edits=[digsite.ablate("layers.0.attn.pattern", how="resample", over=even)])
    with pytest.raises(BadInput, match="has no meaning"):
        model.run(even, edits=[digsite.ablate("layers.0.attn.pattern", how="mean", over=even)])
    with pytest.raises(BadInput, match="how='median' is not an ablation"):
        digsite.ablate(SITE, how="median")
    with pytest.raises(BadInput, match="needs something to measure it on"):
        digsite.ablate(SITE, how="mean")


# -- wrong edits ---------------------------------------------------------------------------------------------------
def test_values_of_a_wrong_shape_say_both_shapes(model, even):
    for edit, found in (
        (digsite.add(SITE, torch.ones(63)), r"value \(63,\), selected activation \(3, 4, 64\)"),
        (digsite.replace(SITE, torch.ones(2, 4, 64)), r"value \(2, 4, 64\), selected activation \(3, 4, 64\)"),
        (digsite.add(SITE, torch.ones(5, 3, 4, 64)), r"value \(5, 3, 4, 64\), selected activation \(3, 4, 64\)"),
        (digsite.add(SITE, torch.ones(2, 64), at=1), r"value \(2, 64\), selected activation \(3, 64\)"),
        (digsite.cap(SITE, torch.ones(7), 1.0), r"value \(7,\)"),
        (digsite.ablate(SITE, direction=torch.ones(7)), r"vectors of 7 numbers, selected activation \(3, 4, 64\)"),
        (digsite.add("layers.0.attn.z[1]", torch.ones(64)), r"value \(64,\), selected activation \(3, 4, 16\)"),
        (digsite.apply(SITE, lambda x: x[..., :3]), r"Tensor \(3, 4, 3\) for \(3, 4, 64\)"),
        (digsite.apply(SITE, lambda x: None), "NoneType"),  # pyright: ignore[reportArgumentType]
    ):
        with pytest.raises(ShapeMismatch, match=found):
            model.run(even, edits=[edit])


def test_positions_and_rows_that_are_not_there(model, padded):
    for at in (5, -6, [0, 9], torch.tensor([0, 3, 0])):
        with pytest.raises(BadInput, match=r"Position -?\d is outside row \d"):
            model.run(padded, edits=[digsite.scale(SITE, 0.0, at=at)])
    for rows in ([3], [-1], [0, 7]):
        with pytest.raises(BadInput, match=r"Row -?\d is not in the batch"):
            model.run(padded, edits=[digsite.scale(SITE, 0.0, rows=rows)])
        with pytest.raises(BadInput, match=r"Row -?\d is not in the batch"):
            model.run(padded, edits=[digsite.scale(SITE, 0.0, rows=rows)], batch_size=1)
    with pytest.raises(BadInput, match="selects no position"):
        model.run(padded, edits=[digsite.scale(SITE, 0.0, at=slice(9, 12))])
    with pytest.raises(BadInput, match="selects no position"):
        model.run(padded, edits=[digsite.scale(SITE, 0.0, at=[])])
    with pytest.raises(BadInput, match="rows"):
        model.run(padded, edits=[digsite.scale(SITE, 0.0, at=torch.tensor([0, 1]))])


def test_directions_without_length(model):
    for make in (lambda v: digsite.cap(SITE, v, 1.0), lambda v: digsite.ablate(SITE, direction=v)):
        with pytest.raises(BadInput, match="must have a length"):
            make(torch.zeros(4))
        with pytest.raises(BadInput, match="must have a length"):
            make(torch.tensor([1.0, float("nan")]))


def test_vectors_that_span_nothing_of_their_own(model):
    with pytest.raises(BadInput, match="linearly independent"):
        digsite.scale(SITE, 0.0, within=torch.tensor([[1.0, 2, 0, 0], [2, 4, 0, 0]]))
    with pytest.raises(BadInput, match=r"(?s)\[basis, width\].*shape \(4,\)"):
        digsite.scale(SITE, 0.0, within=torch.ones(4))


def test_the_whole_space_as_subspace_is_the_plain_edit(model, even):
    source = model.run(even[[1, 2, 0]], read=[SITE])
    basis = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(0)))[0]
    for at in (None, -1, [0, 2]):
        plain = model.run(even, edits=[digsite.patch(SITE, source, at=at)]).logits
        within = model.run(even, edits=[digsite.patch(SITE, source, at=at, within=basis)]).logits
        torch.testing.assert_close(plain, within, atol=1e-4, rtol=1e-4)
    own = model.run(even, read=[SITE])
    unchanged = model.run(even, edits=[digsite.patch(SITE, own, within=basis[:5])]).logits
    assert torch.equal(unchanged, own.logits), "writing back what was read changes nothing, bit for bit"


def test_wildcards_reach_every_site_they_match(model, even):
    edits = [digsite.ablate("layers.*.mlp.out")]
    run = model.run(even, read=["layers.*.mlp.out", "layers.*.resid_mid", "layers.*.resid_post"], edits=edits)
    assert not run["layers.*.mlp.out"].any()
    torch.testing.assert_close(run["layers.*.resid_mid"], run["layers.*.resid_post"])
    heads = model.run(even, read=["layers.1-2.attn.z"], edits=[digsite.ablate("layers.1-2.attn.z[1-2]")])
    z = heads["layers.1-2.attn.z"]
    assert not z[:, :, :, 1:3].any()
    assert z[:, :, :, 0].any()
    with pytest.raises(NoSuchSite, match=r"There is no site 'layers\.1\.resid_past'"):
        digsite.ablate("layers.1.resid_past")


# -- plans as data -------------------------------------------------------------------------------------------------
def test_a_plan_written_as_data_executes_identically(model, even):
    source = model.run(even[[1, 2, 0]], read=[SITE])
    edits = [
        digsite.add(
            "layers.0.resid_post", torch.randn(64, generator=torch.Generator().manual_seed(1)), at=slice(1, None)
        ),
        digsite.patch(SITE, source, at=torch.tensor([0, 1, 2])),
        digsite.scale("layers.0.attn.z[1]", 0.5, at=[0, -1], rows=[0, 2]),
        digsite.ablate("layers.2.mlp.act"),
        digsite.ablate(SITE, direction=torch.ones(64), at=-1),
        digsite.cap("layers.2.resid_pre", torch.ones(64), 0.3),
        digsite.scale("layers.1.resid_pre", 2.0, within=torch.eye(64)[:3]),
        digsite.swap("layers.2.mlp.out", [1, 2, 0], at=range(2)),
        model.resolved(digsite.ablate("layers.2.attn.out", how="mean", over=even)),
    ]
    plan = model.plan(
        read=["layers.*.resid_post", "layers.1.attn.z[2]", "final.norm"], edits=edits, logits=2, at=[0, -1]
    )
    data, tensors = plan.to_dict()
    again = Plan.from_dict(json.loads(json.dumps(data)), tensors)
    first, second = model.execute(even, plan), model.execute(even, again)
    assert torch.equal(first.logits, second.logits)
    assert first.values.keys() == second.values.keys()
    for key, value in first.values.items():
        assert torch.equal(value, second.values[key]), key
    assert torch.equal(first["layers.1.attn.z[2]"], second["layers.1.attn.z[2]"])
    assert again.to_dict()[0] == data
    stop = Plan.from_dict(
        *model.plan(stop="layers.1.mlp.in", read=["layers.1.mlp.in"], dtype=torch.float16, to="cpu").to_dict()
    )
    run = model.execute(even, stop)
    assert run["layers.1.mlp.in"].dtype == torch.float16


def test_a_plan_with_a_function_is_no_data(model, even):
    with pytest.raises(NotImplementedError, match="is not plain data"):
        model.plan(edits=[digsite.apply(SITE, torch.relu)]).to_dict()
    with pytest.raises(NotImplementedError, match=r"call model\.resolved\(edit\) first"):
        model.plan(edits=[digsite.ablate(SITE, how="mean", over=even)]).to_dict()
