"""A direction comes back from a file as it was, and files of other programs mean here what they mean there."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import digsite
from architectures import tiny
from digsite._core.errors import BadInput, LoadError, MissingExtra, NotFinite, ShapeMismatch, Unsupported
from digsite._core.provenance import record
from digsite.directions import Direction
from digsite.directions.exchange import read_control_vector, read_steering_vectors, write_control_vector

FIXTURES = Path(__file__).parent / "fixtures"
IDS = torch.tensor([[5, 9, 20, 31]])


@pytest.fixture(scope="module")
def model():
    return digsite.load(tiny("llama"), verify=False)


@pytest.fixture(scope="module")
def gguf():
    return pytest.importorskip("gguf", reason="gguf is not installed")


def drawn(model, site, seed=0):
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(seed))
    made = record("drawn", weights=model.fingerprint)
    return Direction(site=digsite.Site.parse(site), vector=vector, name="drawn", provenance=made)


def written(gguf, path, tensors, *, arch="controlvector", hint="llama", count=None):
    """A file as another program might write it, wrong where it is told to be."""
    writer = gguf.GGUFWriter(path, arch)
    writer.add_string("controlvector.model_hint", hint)
    writer.add_uint32("controlvector.layer_count", len(tensors) if count is None else count)
    for name, x in tensors.items():
        writer.add_tensor(name, x)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def hooked(model, vectors):
    """The logits where a vector is added to what each block gives, by plain hooks on the blocks."""

    def added(vector):
        return lambda module, args, out: out + vector if isinstance(out, torch.Tensor) else (out[0] + vector, *out[1:])

    hooks = [model.hf.model.layers[k].register_forward_hook(added(x)) for k, x in vectors.items()]
    with torch.no_grad():
        logits = model.hf(IDS, use_cache=False).logits
    for hook in hooks:
        hook.remove()
    return logits


# -- there and back --------------------------------------------------------------------------------------------------
def test_a_direction_that_was_written_and_read_steers_as_before(model, gguf, tmp_path):
    there = [drawn(model, "layers.1.resid_post"), drawn(model, "layers.2.resid_post", 1)]
    back = read_control_vector(write_control_vector(there, tmp_path / "two.gguf", model), model)
    assert [one.site for one in back] == [one.site for one in there]
    assert all(torch.equal(a.vector, b.vector) for a, b in zip(there, back, strict=True))
    steered = [model.run(IDS, edits=[one.add(2.0) for one in some]).logits for some in (there, back)]
    assert torch.equal(*steered) and (steered[0] - model.run(IDS).logits).abs().max() > 0.1
    assert back[0].provenance.weights == model.fingerprint and back[0].name == "two"


def test_what_a_block_reads_is_written_as_what_the_block_before_gives(model, gguf, tmp_path):
    there = drawn(model, "layers.2.resid_pre")
    (back,) = read_control_vector(write_control_vector(there, tmp_path / "one.gguf", model), model)
    assert str(back.site) == "layers.1.resid_post"
    torch.testing.assert_close(
        model.run(IDS, edits=[there.add(3.0)]).logits, model.run(IDS, edits=[back.add(3.0)]).logits
    )


def test_the_file_is_what_llama_cpp_reads(model, gguf, tmp_path):
    reader = gguf.GGUFReader(write_control_vector(drawn(model, "layers.2.resid_post"), tmp_path / "one.gguf", model))
    assert reader.fields["general.architecture"].contents() == "controlvector"
    assert reader.fields["controlvector.model_hint"].contents() == "llama"
    assert reader.fields["controlvector.layer_count"].contents() == 1
    assert [(x.name, x.tensor_type.name, x.shape.tolist()) for x in reader.tensors] == [("direction.2", "F32", [64])]


# -- files that the other libraries wrote ------------------------------------------------------------------------------
def vectors_of_others():
    drawn = np.random.default_rng(0)
    return {layer: torch.from_numpy(np.round(drawn.normal(size=64), 2).astype(np.float32)) for layer in (2, 1)}


@pytest.mark.parametrize("name", ["repeng.gguf", "steering_vectors.pt"])
def test_files_of_others_hold_the_vectors_that_were_put_in_at_the_blocks_they_were_meant_for(model, request, name):
    if name == "repeng.gguf":
        request.getfixturevalue("gguf")
    read = read_control_vector if name == "repeng.gguf" else read_steering_vectors
    directions = read(FIXTURES / name, model)
    wanted = vectors_of_others()
    assert [str(one.site) for one in directions] == ["layers.1.resid_post", "layers.2.resid_post"]
    for layer, one in zip((1, 2), directions, strict=True):
        assert torch.equal(one.vector, wanted[layer])
    ours = model.run(IDS, edits=[one.add(1.5) for one in directions]).logits
    theirs = hooked(model, {layer: 1.5 * x for layer, x in wanted.items()})
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert (ours - model.run(IDS).logits).abs().max() > 0.5


def test_vectors_saved_alone_or_as_fields_are_read_too_and_at_their_place(model, tmp_path):
    held = vectors_of_others()
    torch.save(held, tmp_path / "alone.pt")  # noqa: TID251
    torch.save({"layer_activations": held, "layer_type": "mlp"}, tmp_path / "fields.pt")  # noqa: TID251
    alone, fields = (read_steering_vectors(tmp_path / name, model) for name in ("alone.pt", "fields.pt"))
    assert [str(one.site) for one in alone] == ["layers.1.resid_post", "layers.2.resid_post"]
    assert [str(one.site) for one in fields] == ["layers.1.mlp.out", "layers.2.mlp.out"]
    assert all(torch.equal(a.vector, b.vector) for a, b in zip(alone, fields, strict=True))


# -- bad input -------------------------------------------------------------------------------------------------------
def test_what_llama_cpp_cannot_steer_is_not_written(model, gguf, tmp_path):
    for site in ("layers.0.resid_post", "layers.1.resid_pre", "layers.1.mlp.out", "embed"):
        with pytest.raises(Unsupported, match="does not steer"):
            write_control_vector(drawn(model, site), tmp_path / "no.gguf", model)
    with pytest.raises(BadInput, match="one direction a place"):
        twice = [drawn(model, "layers.1.resid_post"), drawn(model, "layers.2.resid_pre")]
        write_control_vector(twice, tmp_path / "no.gguf", model)
    with pytest.raises(BadInput, match="one direction or more"):
        write_control_vector([], tmp_path / "no.gguf", model)
    with pytest.raises(BadInput, match="whose weights are not those"):
        other = digsite.load(tiny("mistral"), verify=False)
        write_control_vector(drawn(model, "layers.1.resid_post"), tmp_path / "no.gguf", other)
    assert not list(tmp_path.iterdir())


ONE = {"direction.1": np.ones(64, np.float32)}
BAD = [
    ({"arch": "llama"}, ONE, LoadError, "no control vector.*\nFound: GGUF of the architecture llama"),
    ({"hint": "qwen2"}, ONE, LoadError, "another type.*\nFound: made for qwen2, the model is llama"),
    ({"count": 2}, ONE, LoadError, "says that it has 2 vectors.\nFound: 1"),
    ({}, {"direction.7": np.ones(64, np.float32)}, LoadError, "other layers.\nFound: layers 7.\nPossible: 0 to 2"),
    ({}, {"direction.1": np.ones(48, np.float32)}, ShapeMismatch, r"another width.*\nFound: layer 1: shape \[48\]"),
    ({}, {"direction.1": np.ones(64, np.float16)}, LoadError, "direction.1 in .* is not float32.\nFound: F16"),
    ({}, {"token_embd": np.ones(64, np.float32)}, LoadError, "a tensor that is no direction.\nFound: token_embd"),
    ({}, {"direction.x": np.ones(64, np.float32)}, LoadError, "no direction.\nFound: direction.x"),
    ({}, {}, LoadError, "holds no vector"),
    ({}, {"direction.1": np.full(64, np.nan, np.float32)}, NotFinite, "the vector of a direction at layers.1"),
]  # fmt: skip


@pytest.mark.parametrize(("said", "tensors", "error", "message"), BAD)
def test_a_control_vector_that_is_not_for_this_model_says_so(model, gguf, tmp_path, said, tensors, error, message):
    with pytest.raises(error, match=message):
        read_control_vector(written(gguf, tmp_path / "bad.gguf", tensors, **said), model)


def test_an_unknown_version_or_a_broken_file_is_an_error(model, gguf, tmp_path):
    whole = (FIXTURES / "repeng.gguf").read_bytes()
    for name, content in (("version", whole[:4] + b"\x63" + whole[5:]), ("text", b"hello"), ("cut", whole[:120])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(LoadError, match=r"cannot be read as GGUF(.|\n)*version 2 or 3"):
            read_control_vector(tmp_path / name, model)
    with pytest.raises(LoadError, match="no such file"):
        read_control_vector(tmp_path / "missing", model)


def test_without_the_package_the_error_names_the_extra(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtra, match=r"needs the package gguf.*digsite\[exchange\]"):
        write_control_vector(drawn(model, "layers.1.resid_post"), tmp_path / "no.gguf", model)


class Code:
    def __reduce__(self):
        return print, ("this must never be printed",)


def test_no_code_of_a_file_ever_runs(model, tmp_path, capsys):
    torch.save({"layer_activations": {1: torch.ones(64)}, "layer_type": Code()}, tmp_path / "code.pt")  # noqa: TID251
    with pytest.raises(LoadError, match="cannot be read without running it"):
        read_steering_vectors(tmp_path / "code.pt", model)
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("held", "error", "message"),
    [
        ([1, 2], LoadError, "does not hold a steering vector.\nFound: list"),
        ({"layer_activations": {1: 3.0}}, LoadError, "does not hold a steering vector"),
        ({"layer_activations": {1: torch.ones(64)}, "version": 2}, LoadError, "Found: fields version"),
        ({"layer_activations": {1: torch.ones(64)}, "layer_type": "input_layernorm"}, Unsupported, "no equal for"),
        ({9: torch.ones(64)}, LoadError, "other layers.\nFound: layers 9"),
        ({1: torch.ones(48)}, ShapeMismatch, "another width"),
    ],
)
def test_other_things_saved_with_torch_are_refused(model, tmp_path, held, error, message):
    torch.save(held, tmp_path / "bad.pt")  # noqa: TID251
    with pytest.raises(error, match=message):
        read_steering_vectors(tmp_path / "bad.pt", model)
    with pytest.raises(LoadError, match="no such file"):
        read_steering_vectors(tmp_path / "missing.pt", model)
