"""A direction is its formula: read as a probe, written as an edit, under padding and with a KV cache."""

import dataclasses
import json

import pytest
import torch

import digsite
from digsite._core.errors import BadInput, LoadError, NotFinite, ShapeMismatch
from digsite._core.provenance import record
from digsite.directions import (
    Direction,
    Subspace,
    load,
    load_direction,
    measured,
    save,
    scale_along,
    token_direction,
)
from digsite.models import untrained

SITE = "layers.1.resid_post"


@pytest.fixture(scope="module")
def model():
    return digsite.load("digsite/tinyworld", verify=False)


@pytest.fixture(scope="module")
def prompts(model):
    return model.tokens(["Mary gave the book to John", "Where is the key"], padding="left")


def drawn(model, site=SITE, seed=0, width=None, **more):
    vector = 3 * torch.randn(width or model.d_model, generator=torch.Generator().manual_seed(seed))
    made = record("drawn", weights=model.fingerprint)
    return Direction(site=digsite.Site.parse(site), vector=vector, how="drawn", provenance=made, **more)


def read_after(model, tokens, edit, site=SITE):
    return model.run(tokens, read=[site], edits=[edit], logits=None)[site]


# -- formulas --------------------------------------------------------------------------------------------------------
def test_reading_is_a_linear_probe(model, prompts):
    d = drawn(model, reader=torch.arange(model.d_model).float(), bias=0.5)
    run = model.run(prompts, read=[SITE])
    torch.testing.assert_close(d.read(run), run[SITE] @ torch.arange(model.d_model).float() + 0.5)
    assert d.read(run).shape == prompts.ids.shape
    assert dataclasses.replace(d, reader=None, bias=0.0).read(d.vector) == pytest.approx(float(d.vector @ d.vector))


def test_every_edit_is_its_formula_along_the_direction_and_nothing_beside(model, prompts):
    d = dataclasses.replace(drawn(model), scale=scale_along(drawn(model).vector, torch.randn(50, model.d_model) + 0.3))
    assert d.scale is not None
    v, length = d.unit_vector, float(d.vector.norm())
    x = model.run(prompts, read=[SITE], logits=None)[SITE]
    along, other = x @ v, model.run(prompts[[1, 0]].padded_left(), read=[SITE], logits=None)
    cases = [
        (d.add(2.0), along + 2 * length),
        (d.add(-1.0, "norm"), along - d.scale.norm),
        (d.add(3.0, "sd"), along + 3 * d.scale.sd),
        (d.add(0.5, "max"), along + 0.5 * d.scale.largest),
        (d.ablate(), torch.zeros_like(along)),
        (d.ablate(to="mean"), torch.full_like(along, d.scale.mean)),
        (d.set(1.5, "sd"), torch.full_like(along, 1.5 * d.scale.sd)),
        (d.scale_by(-2.0), -2 * along),
        (d.cap(0.1, "max"), along.clamp(max=0.1 * d.scale.largest)),
        ((-d).cap(-0.1, "sd"), along.clamp(min=0.1 * d.scale.sd)),
    ]
    for edit, wanted in cases:
        new = read_after(model, prompts, edit)
        torch.testing.assert_close((new @ v)[prompts.mask], wanted[prompts.mask], atol=1e-4, rtol=1e-4)
        rest = (new - x) - ((new - x) @ v)[..., None] * v
        assert rest[prompts.mask].abs().max() < 1e-5
    swapped = read_after(model, prompts, d.swap(other, at=-1))
    assert torch.allclose((swapped @ v)[:, -1], (other[SITE] @ v)[:, -1], atol=1e-4)


def test_clamping_removes_negative_readings_too(model, prompts):
    """A clamp that first takes away relu(x·v) leaves a negative reading where it was."""
    d = drawn(model)
    x = model.run(prompts, read=[SITE], logits=None)[SITE]
    assert (x @ d.vector)[prompts.mask].min() < 0 < (x @ d.vector)[prompts.mask].max()
    new = read_after(model, prompts, d.set(0.7)) @ d.unit_vector
    assert torch.allclose(new[prompts.mask], torch.tensor(0.7 * float(d.vector.norm())), atol=1e-4)


def test_steering_is_the_same_alone_padded_and_with_a_kv_cache(model):
    prompts = model.tokens(["Mary gave the book to John", "Where is the key"])
    edit = drawn(model).add(0.4, at=slice(3, None))
    made = model.generate(prompts, max_new_tokens=6, edits=[edit], logits=True, stop_at=None)
    plain = model.generate(prompts, max_new_tokens=6, logits=True, stop_at=None)
    assert (made.logits[:, 1:] - plain.logits[:, 1:]).abs().max() > 0.1, "new tokens are steered too"
    for row in range(2):
        whole = made.tokens.ids[row][made.tokens.mask[row]][None]
        single = model.run(whole[:, :-1], edits=[edit]).logits[0, -6:]
        torch.testing.assert_close(single, made.logits[row], atol=2e-4, rtol=1e-4)


def test_a_head_has_directions_of_its_own(model, prompts):
    d = drawn(model, site="layers.2.attn.z[1]", width=model.d_head)
    run = model.run(prompts, read=["layers.2.attn.z"], edits=[d.ablate()])
    assert d.read(run)[prompts.mask].abs().max() < 1e-4
    plain = model.run(prompts, read=["layers.2.attn.z"])
    assert torch.equal(run["layers.2.attn.z"][:, :, 0], plain["layers.2.attn.z"][:, :, 0])


def test_ablating_everywhere_leaves_no_trace_of_the_direction(model, prompts):
    d = drawn(model)
    sites = ("layers.*.resid_pre", "layers.*.attn.out", "layers.*.mlp.out")
    run = model.run(prompts, read=["layers.*.resid_post"], edits=[d.ablate(site=site) for site in sites])
    assert (run["layers.*.resid_post"] @ d.unit_vector)[:, prompts.mask].abs().max() < 1e-4


# -- units -----------------------------------------------------------------------------------------------------------
def test_scale_is_measured_without_the_bos(model, prompts):
    d = measured(drawn(model), model, prompts)
    keep = prompts.mask & (prompts.ids != model.tokenizer.bos_token_id)
    x = model.run(prompts, read=[SITE], logits=None)[SITE][keep].double()
    assert d.scale is not None
    assert d.scale.rows == len(x) < int(prompts.mask.sum())
    assert d.scale.norm == pytest.approx(float(x.norm(dim=1).mean()))
    along = x @ (d.vector / d.vector.norm()).double()
    wanted = (along.mean(), along.std(correction=0), along.min(), along.max())
    found = (d.scale.mean, d.scale.sd, d.scale.smallest, d.scale.largest)
    assert found == pytest.approx([float(x) for x in wanted], rel=1e-5)


def test_units_that_were_not_measured_and_units_that_are_none(model):
    d = drawn(model)
    with pytest.raises(BadInput, match=r"(?s)units of norm.*measured"):
        d.add(1.0, "norm")
    with pytest.raises(BadInput, match="The mean along"):
        d.ablate(to="mean")
    with pytest.raises(BadInput, match=r"(?s)'sigma' is no unit.*raw, norm, sd, max"):
        d.add(1.0, "sigma")


# -- algebra and subspaces -------------------------------------------------------------------------------------------
def test_algebra(model):
    a, b = drawn(model), drawn(model, seed=1)
    torch.testing.assert_close((a - 2 * b).vector, a.vector - 2 * b.vector)
    assert a.cos(a) == pytest.approx(1)
    assert a.cos(-a) == pytest.approx(-1)
    assert abs(a.without(b).cos(b)) < 1e-6
    scaled = dataclasses.replace(a, scale=scale_along(a.vector, torch.randn(20, model.d_model)))
    turned = -scaled
    assert scaled.scale is not None and turned.scale is not None
    assert turned.scale.largest == -scaled.scale.smallest
    assert turned.amount(1.0, "max") == -scaled.scale.smallest
    with pytest.raises(BadInput, match="no part beside"):
        a.without(2 * a)
    with pytest.raises(BadInput, match=r"(?s)one site.*moved"):
        a.cos(b.moved(site="layers.0.resid_post"))


def test_a_subspace_of_one_direction_is_the_direction(model, prompts):
    d = drawn(model)
    space = Subspace.of([d])
    for mine, its in ((space.ablate(), d.ablate()), (space.scale_by(3.0), d.scale_by(3.0))):
        torch.testing.assert_close(read_after(model, prompts, mine), read_after(model, prompts, its))
    torch.testing.assert_close(space.read(d.vector[None])[0, 0], d.vector.norm())


def test_coordinates_of_a_subspace_are_set_and_exchanged_from_its_mean(model, prompts):
    mean = torch.randn(model.d_model, generator=torch.Generator().manual_seed(5))
    space = dataclasses.replace(Subspace.of([drawn(model), drawn(model, seed=1)]), mean=mean)
    assert torch.allclose(space.basis @ space.basis.T, torch.eye(2), atol=1e-6)
    new = read_after(model, prompts, space.set(torch.tensor([1.0, -2.0])))
    torch.testing.assert_close(space.read(new)[prompts.mask][0], torch.tensor([1.0, -2.0]), atol=1e-4, rtol=1e-4)
    gone = read_after(model, prompts, space.ablate())
    assert space.read(gone)[prompts.mask].abs().max() < 1e-4, "the mean stays, so coordinates are zero"
    source = model.run(prompts[[1, 0]].padded_left(), read=[SITE], logits=None)
    got = space.read(read_after(model, prompts, space.swap(source, at=-1)))[:, -1]
    torch.testing.assert_close(got, space.read(source)[:, -1], atol=1e-4, rtol=1e-4)
    angles = Subspace.of([space.direction(0)]).angles(space)
    assert float(angles[0]) < 0.1


def test_the_unembedding_direction_reads_the_logit_difference(model, prompts):
    words = ["John", "Mary"]
    one, other = (model.tokens([word], special=False).ids[0, 0] for word in words)
    d = token_direction(model, words[0], against=words[1])
    last = f"layers.{model.n_layers - 1}.resid_post"
    run = model.run(prompts, read=[last, "final.norm.scale"])
    predicted = d.read(run) / run["final.norm.scale"][..., 0]
    actual = run.logits[..., one] - run.logits[..., other]
    torch.testing.assert_close(predicted[prompts.mask], actual[prompts.mask], atol=1e-3, rtol=1e-3)
    with pytest.raises(BadInput, match="is not one token"):
        token_direction(model, "John Mary")


# -- bad input -------------------------------------------------------------------------------------------------------
def test_a_direction_of_another_model_or_width_is_refused(model):
    other = untrained(model, seed=3)
    d = drawn(model)
    d.check(model)
    with pytest.raises(BadInput, match=r"(?s)whose weights are not those.*moved\(model=model\)"):
        d.check(other)
    d.moved(model=other).check(other)
    with pytest.raises(ShapeMismatch, match=f"7 numbers, {model.d_model} there"):
        drawn(model, width=7).check(model)
    with pytest.raises(ShapeMismatch, match="activations"):
        d.read(torch.zeros(3, 7))
    with pytest.raises(ShapeMismatch):
        model.run(model.tokens(["Mary"]), edits=[drawn(model, width=7).add(1.0)])


def test_vectors_that_are_none(model):
    made = record("drawn")
    for vector, error in (
        (torch.zeros(4), BadInput),
        (torch.tensor([1.0, float("nan")]), NotFinite),
    ):
        with pytest.raises(error):
            Direction(site=digsite.Site.parse(SITE), vector=vector, provenance=made)
    with pytest.raises(BadInput, match="names several sites"):
        drawn(model, site="layers.*.resid_post")


# -- files -----------------------------------------------------------------------------------------------------------
def test_saved_directions_come_back_as_they_were(model, tmp_path):
    whole = torch.randn(50, 200, model.d_model)
    one = dataclasses.replace(
        drawn(model, reader=torch.ones(model.d_model), bias=-1.5, name="fémale"),
        scale=scale_along(whole[0, 0], whole[0]),
        vector=whole[3, 7],
    )
    space = Subspace.of([drawn(model), drawn(model, seed=2)], name="plane")
    save([one, space], tmp_path / "d")
    again, plane = load(tmp_path / "d")
    assert isinstance(again, Direction) and isinstance(plane, Subspace)
    for name in ("site", "bias", "scale", "name", "how", "provenance"):
        assert getattr(again, name) == getattr(one, name)
    assert torch.equal(again.vector, whole[3, 7]) and again.reader is not None
    assert torch.equal(plane.basis, space.basis) and plane.mean is None
    size = (tmp_path / "d" / "directions.safetensors").stat().st_size
    assert size < 4 * 4 * model.d_model + 1000, "a view is written as the vector, not as what it was cut from"
    with pytest.raises(LoadError, match="does not hold one direction"):
        load_direction(tmp_path / "d")


def test_broken_files_say_what_is_wrong(model, tmp_path):
    folder = save(drawn(model), tmp_path / "d")
    told = json.loads((folder / "directions.json").read_text())
    (folder / "directions.json").write_text(json.dumps(told | {"format": "digsite.directions/9"}))
    with pytest.raises(LoadError, match=r"(?s)digsite\.directions/9.*Update digsite"):
        load(folder)
    (folder / "directions.json").write_text(json.dumps(told | {"items": []}))
    with pytest.raises(LoadError, match=r"(?s)left over.*0\.vector"):
        load(folder)
    (folder / "directions.json").write_text(json.dumps(told | {"items": told["items"] * 2}))
    with pytest.raises(LoadError, match=r"(?s)broken.*1\.vector"):
        load(folder)
    (folder / "directions.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(LoadError, match="broken"):
        load(folder)
    with pytest.raises(LoadError, match="no such folder"):
        load(tmp_path / "nowhere")
