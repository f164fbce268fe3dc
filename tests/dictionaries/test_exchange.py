"""Dictionaries of other libraries mean here what they mean there.

The folders in fixtures/ were written by the libraries themselves, with latents and outputs as they computed them
(`python -m benchmarks.exchange`, whose page names their versions).
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml
from safetensors import safe_open

from dictionaries.zoo import FAMILIES, filled, rows_for
from digsite._core.errors import BadInput, LoadError, ShapeMismatch, Unsupported
from digsite.dictionaries import (
    BatchTopK,
    Column,
    Dictionary,
    GroupMax,
    JumpReLU,
    Relu,
    TopK,
    crosscoder,
    initialise,
    sae,
    transcoder,
)
from digsite.dictionaries.exchange import FORMATS, folded, read_dictionary, saebench_view, write_dictionary
from digsite.store import Rows

FIXTURES = Path(__file__).parent / "fixtures"
NAMES = sorted(folder.name for folder in FIXTURES.iterdir())
SITE = "layers.3.resid_post"


def expected(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, torch.Tensor]]]:
    """What a fixture's library computed, and what is to be given to read it."""
    kinds: dict[str, dict[str, torch.Tensor]] = {"rows": {}, "latents": {}, "outputs": {}}
    with safe_open(folder / "expected.safetensors", framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - no mapping
            kind, _, rest = name.partition(".")
            kinds[kind][rest] = file.get_tensor(name)
        return dict(file.metadata()), kinds


def outcome(dictionary: Dictionary, rows: Any) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    latents = dictionary.encode(rows)
    return [one.dense() for one in latents], dictionary.decode(latents, rows)


def assert_same(
    dictionary: Dictionary, rows: Any, latents: list[torch.Tensor], outputs: dict[str, torch.Tensor]
) -> None:
    """Equal to 1e-5 of the largest number."""
    found, made = outcome(dictionary, rows)
    assert made.keys() == outputs.keys()
    for a, b in [*zip(found, latents, strict=True), *((made[name], x) for name, x in outputs.items())]:
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * max(1.0, float(b.detach().abs().max())))


def fixture(name: str, tmp_path: Path) -> Path:
    """A copy of a fixture's files, to spoil."""
    meta, _ = expected(FIXTURES / name)
    to = tmp_path / name / meta["inside"]
    for file in (FIXTURES / name / meta["inside"]).iterdir():
        to.mkdir(parents=True, exist_ok=True)
        (to / file.name).write_bytes(file.read_bytes())
    return to


# -- truth -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_another_library_computes_what_it_computes_there(name):
    meta, kinds = expected(FIXTURES / name)
    dictionary = read_dictionary(FIXTURES / name / meta.pop("inside"), **meta)
    latents = [kinds["latents"][str(i)] for i in range(len(kinds["latents"]))]
    assert all(0 < float((x != 0).float().mean()) < 0.9 for x in latents)
    assert_same(dictionary, kinds["rows"], latents, kinds["outputs"])
    assert dictionary.config.origin["format"] in FORMATS


def test_there_is_a_file_of_every_library_and_kind():
    kinds = {name.removeprefix(one) for name in NAMES for one in ("saelens-",) if name.startswith(one)}
    assert kinds >= {
        "standard",
        "topk",
        "jumprelu",
        "gated",
        "batchtopk",
        "matryoshka",
        "transcoder",
        "skip-transcoder",
    }
    assert len(NAMES) >= 42


@pytest.mark.parametrize("name", FAMILIES)
def test_without_scales_it_is_the_same_dictionary(name):
    dictionary = filled(name)
    columns = {column: replace(one, scale=3.0) for column, one in dictionary.config.columns.items()}
    scaled = Dictionary(replace(dictionary.config, columns=columns)).eval()
    scaled.load_state_dict(dictionary.state_dict())
    rows = Rows(rows_for(scaled), ids=torch.tensor([0, 1, 2, 3, 4, 5, 6, 0, 1]))
    plain = folded(scaled)
    assert {column.scale for column in plain.config.columns.values()} == {1.0}
    assert {column.scale for column in scaled.config.columns.values()} == {3.0}
    assert_same(plain, rows, *outcome(scaled, rows))


def test_columns_of_several_scales_are_folded_where_that_can_be():
    columns = {"base:embed": Column(width=6, scale=2.0), "tuned:embed": Column(width=6, scale=5.0)}
    for activation, shared, refused in (
        (Relu(), 0, ""),
        (Relu(), 4, "write one row"),
        (TopK(k=3, by_norm=True), 0, "length"),
    ):
        made = crosscoder({"base:embed": 6, "tuned:embed": 6}, 12, activation, shared=shared)
        scaled = initialise(Dictionary(replace(made.config, columns=columns)), seed=0).eval()
        if refused:
            with pytest.raises(Unsupported, match=f"{refused}.*columns of several scales\\.\nFound: scales"):
                folded(scaled)
        else:
            assert_same(folded(scaled), rows_for(scaled), *outcome(scaled, rows_for(scaled)))


@pytest.mark.parametrize("each_row", ["layer norm", "length"])
def test_a_norm_of_each_row_is_taken_off_and_put_back(each_row):
    made = initialise(sae({"embed": 6}, 12, TopK(k=12)), seed=0)
    normed = Dictionary(replace(made.config, columns={"embed": Column(width=6, scale=2.0, each_row=each_row)})).eval()
    normed.load_state_dict(made.state_dict())
    x = rows_for(made)["embed"]
    mean = x.mean(1, keepdim=True) if each_row == "layer norm" else 0.0
    size = x.std(1, keepdim=True) if each_row == "layer norm" else x.norm(dim=1, keepdim=True) / 6**0.5
    inside = made({"embed": (x - mean) / size / 2})["embed"]
    torch.testing.assert_close(normed({"embed": x})["embed"], inside * 2 * size + mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(normed.run({"embed": x}).targets["embed"] * 2 * size + mean, x, rtol=1e-4, atol=1e-4)
    with pytest.raises(BadInput, match=r"goes back to each row's own mean and length\.\nFound: no rows of it"):
        normed.decode(normed.encode({"embed": x}))


# -- there and back ----------------------------------------------------------------------------------------------------
SAELENS = ["relu", "topk", "topk by norm", "batchtopk", "matryoshka", "jumprelu", "gated", "abstopk"]


@pytest.mark.parametrize("name", SAELENS)
def test_what_is_written_for_saelens_comes_back(name, tmp_path):
    dictionary = filled(name)
    column = {"layers.0.mlp.norm": Column(width=6, scale=2.0)}
    dictionary.config = replace(dictionary.config, columns=column)
    again = read_dictionary(write_dictionary(dictionary, tmp_path / "d", "saelens"))
    latents, outputs = outcome(dictionary, rows_for(dictionary))
    if name == "topk by norm":  # the length of the decoder is in SAELens' latents
        latents = [latents[0] * folded(dictionary).blocks[0].norms()]
    assert_same(again, rows_for(dictionary), latents, outputs)


@pytest.mark.parametrize("activation", [Relu(), JumpReLU(), BatchTopK(k=3, by_norm=True)])
@pytest.mark.parametrize("skip", [False, True])
def test_transcoders_written_for_saelens_and_circuit_tracer_come_back(activation, skip, tmp_path):
    made = initialise(transcoder({"layers.0.resid_mid": 6}, {"layers.0.mlp.out": 6}, 12, activation, skip=skip), seed=0)
    with torch.no_grad():
        for name, x in [*made.named_parameters(), *made.named_buffers()]:
            x.add_(0.3 if "threshold" in name else torch.randn(x.shape, generator=torch.Generator().manual_seed(1)))
    made.eval()
    for format in ("saelens", "circuit-tracer"):
        again = read_dictionary(write_dictionary(made, tmp_path / format, format))
        assert (again.reads, again.writes) == (made.reads, made.writes)
        assert_same(again, rows_for(made), *outcome(made, rows_for(made)))


@pytest.mark.parametrize("name", ["clt low rank", "clt per source"])
def test_tied_cross_layer_transcoders_are_written_as_free_ones(name, tmp_path):
    dictionary = filled(name)
    again = read_dictionary(write_dictionary(dictionary, tmp_path / "d", "circuit-tracer"))
    assert [block.decoder.kind for block in again.config.blocks] == ["free"] * 3
    assert_same(again, rows_for(dictionary), *outcome(dictionary, rows_for(dictionary)))


def test_a_dictionary_that_replaces_a_larger_one_has_none_of_its_layers(tmp_path):
    one = initialise(transcoder({"layers.0.resid_mid": 6}, {"layers.0.mlp.out": 6}, 12, Relu()), seed=0)
    for dictionary in (filled("clt low rank"), one):
        again = read_dictionary(write_dictionary(dictionary, tmp_path / "d", "circuit-tracer"))
        assert (again.reads, again.writes) == (dictionary.reads, dictionary.writes)


def test_the_native_format_goes_through_the_same_door(tmp_path):
    dictionary = filled("molt")
    again = read_dictionary(write_dictionary(dictionary, tmp_path / "d", "digsite"))
    assert again.config == dictionary.config
    with pytest.raises(BadInput, match="says itself what it reads and writes"):
        read_dictionary(tmp_path / "d", column="embed")


# -- names -------------------------------------------------------------------------------------------------------------
def test_what_is_given_wins_over_what_the_file_says():
    found = read_dictionary(FIXTURES / "saelens-standard", column="blocks.5.hook_resid_pre", model="gpt2")
    assert found.reads == found.writes == ("layers.5.resid_pre",) and found.config.origin["model"] == "gpt2"
    layers = read_dictionary(FIXTURES / "circuit-tracer-relu", reads="layers.*.resid_mid")
    assert layers.reads == ("layers.0.resid_mid", "layers.1.resid_mid", "layers.2.resid_mid")
    one = read_dictionary(FIXTURES / "circuit-tracer-relu" / "layer_2.safetensors")
    assert one.writes == ("layers.2.mlp.out",)


def test_gemma_scope_says_its_site_and_model_in_its_path(tmp_path):
    archive = next((FIXTURES / "gemma-scope").rglob("params.npz")).read_bytes()

    def read(place: str, **given: str) -> Dictionary:
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "params.npz").write_bytes(archive)
        return read_dictionary(tmp_path / place, **given)

    heads = read("gemma-scope-9b-it-att/layer_20/width_16k/average_l0_71")
    assert heads.reads == ("layers.20.attn.z",) and heads.config.origin["model"] == "google/gemma-2-9b-it"
    embedding = read("models--google--gemma-scope-2b-pt-res/snapshots/1a/embedding/width_4k/average_l0_6")
    assert embedding.reads == ("embed",) and embedding.config.columns["embed"].scale == 6**0.5
    with pytest.raises(BadInput, match="does not say what it reads") as caught:
        read("gemma-scope-2b-pt-transcoders/layer_3/width_16k/average_l0_5")
    assert "ln2.hook_normalized" in str(caught.value) and "divide W_enc by the gain" in str(caught.value)
    with pytest.raises(BadInput, match="no name"):
        read("elsewhere")
    assert read("somewhere", column="layers.1.mlp.out", model="mine").config.origin["model"] == "mine"


def test_a_site_that_is_none_is_refused():
    with pytest.raises(KeyError, match=r"layer\.3\.resid_post"):
        read_dictionary(FIXTURES / "saelens-standard", column="layer.3.resid_post")
    with pytest.raises(BadInput, match="an SAE, which writes what it reads"):
        read_dictionary(FIXTURES / "saelens-standard", reads="embed", writes=SITE)
    with pytest.raises(BadInput, match="one column, or reads and writes"):
        read_dictionary(FIXTURES / "saelens-standard", column="embed", writes=SITE)
    with pytest.raises(
        BadInput, match=r"is one layer, and the file has 3\.\nDo: Write \* for the layer: layers\.\*\.resid_mid"
    ):
        read_dictionary(FIXTURES / "circuit-tracer-relu", reads="layers.0.resid_mid")


def test_rows_of_another_width_than_the_site_are_refused():
    with pytest.raises(ShapeMismatch, match="rows of 6 numbers"):
        read_dictionary(FIXTURES / "saelens-standard").encode({SITE: torch.zeros(3, 5)})


# -- what cannot be read -----------------------------------------------------------------------------------------------
def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    folder = fixture("dictionary-learning-relu", tmp_path)
    (folder / "ae.pt").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(LoadError, match=r"ae\.pt is a pickle that would run code of its own") as caught:
        read_dictionary(folder)
    assert "Do: Write its tensors anew with the library that made it" in str(caught.value)
    (tmp_path / "sae.pt").write_bytes((folder / "ae.pt").read_bytes())
    with pytest.raises(LoadError, match=r"sae\.pt is a pickle that would run code of its own"):
        read_dictionary(tmp_path / "sae.pt", column=SITE)


def test_what_is_no_dictionary_says_what_was_seen(tmp_path):
    with pytest.raises(LoadError, match="no such file or folder"):
        read_dictionary(tmp_path / "none")
    (tmp_path / "layers.3").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(LoadError) as caught:
        read_dictionary(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} is of no format that digsite knows.\n"
        "Found: a folder with layers.3/, notes.txt.\n"
        "Possible: digsite (dictionary.json); saelens (cfg.json, sae_weights.safetensors); gemma-scope (params.npz); "
        "gemma-scope-2 (config.json, params.safetensors); sparsify (cfg.json, sae.safetensors); "
        "dictionary-learning (config.json, ae.pt); openai (one .pt file); circuit-tracer (config.yaml, "
        "layer_0.safetensors … or W_enc_0.safetensors, W_dec_0.safetensors …).\n"
        "Do: Name the folder that holds one dictionary."
    )
    with pytest.raises(LoadError, match="Found: a file of 5 bytes"):
        read_dictionary(tmp_path / "notes.txt")
    with pytest.raises(BadInput, match="did you mean saelens"):
        read_dictionary(tmp_path, format="saelense")


def test_a_folder_of_two_formats_must_be_named(tmp_path):
    folder = fixture("saelens-standard", tmp_path)
    (folder / "sae.safetensors").write_bytes((FIXTURES / "sparsify-sae/layers.3/sae.safetensors").read_bytes())
    with pytest.raises(LoadError, match=r"of several formats\.\nFound: saelens, sparsify;"):
        read_dictionary(folder)
    assert read_dictionary(folder, format="saelens").width == 12


def test_a_cut_off_file_is_broken(tmp_path):
    for name, file in (
        ("saelens-standard", "sae_weights.safetensors"),
        ("gemma-scope", "params.npz"),
        ("dictionary-learning-relu", "ae.pt"),
        ("circuit-tracer-clt-relu", "W_dec_1.safetensors"),
    ):
        path = fixture(name, tmp_path) / file
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(LoadError, match=f"{file} is broken"):
            read_dictionary(path.parent)


def test_a_tensor_that_is_missing_or_unknown_is_named(tmp_path):
    folder = fixture("saelens-jumprelu", tmp_path)
    held = safetensors.torch.load_file(folder / "sae_weights.safetensors")
    held["extra"] = held.pop("threshold")
    safetensors.torch.save_file(held, folder / "sae_weights.safetensors")
    with pytest.raises(
        LoadError, match=r"is not as its format says\.\nFound: threshold is missing; extra is not known"
    ):
        read_dictionary(folder)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_configuration_that_contradicts_the_tensors_is_refused(tmp_path):
    folder = fixture("saelens-standard", tmp_path)
    edit(folder / "cfg.json", d_in=7)
    with pytest.raises(LoadError, match="d_in is 7 in the configuration and 6 in the tensors"):
        read_dictionary(folder)
    folder = fixture("sparsify-sae", tmp_path)
    edit(folder / "cfg.json", num_latents=0, expansion_factor=4)
    with pytest.raises(LoadError, match="num_latents is 24 in the configuration and 12 in the tensors"):
        read_dictionary(folder)
    folder = fixture("dictionary-learning-topk", tmp_path)
    edit(folder / "config.json", trainer={"dict_class": "AutoEncoderTopK", "k": 5})
    with pytest.raises(LoadError, match="k is 5 in the configuration and 3 in the tensors"):
        read_dictionary(folder)
    folder = fixture("circuit-tracer-relu", tmp_path)
    (folder / "config.yaml").write_text("model_kind: cross_layer_transcoder\n")
    with pytest.raises(LoadError, match="contradicts itself"):
        read_dictionary(folder)
    folder = fixture("circuit-tracer-clt-relu", tmp_path)
    (folder / "W_enc_2.safetensors").unlink()
    with pytest.raises(LoadError, match=r"is not \[latent, layers from 0 on, d\]\.\nFound: \[12, 3, 6\], and 2 layers"):
        read_dictionary(folder)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"architecture": "temporal"}, "is a temporal SAE, which has no equal here"),
        ({"architecture": "batchtopk"}, "save_inference_model"),
        ({"activation_fn_str": "tanh-relu"}, "its activation is tanh-relu"),
        ({"normalize_activations": "covariance_whitening"}, "covariance_whitening is not folded"),
        ({"normalize_activations": "expected_average_only_in"}, "for activations times a factor that no file holds"),
    ],
)
def test_what_saelens_can_and_digsite_cannot_says_why(changes, why, tmp_path):
    folder = fixture("saelens-standard", tmp_path)
    edit(folder / "cfg.json", **changes)
    with pytest.raises(Unsupported, match=why):
        read_dictionary(folder)


def test_files_from_before_saelens_6_are_read(tmp_path):
    folder = fixture("saelens-topk", tmp_path)
    old = {
        "d_in": 6,
        "d_sae": 12,
        "hook_point": "blocks.3.hook_resid_post",
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": 3},
        "normalize_activations": False,
        "model_name": "tiny",
    }
    (folder / "cfg.json").write_text(json.dumps(old))
    _, kinds = expected(FIXTURES / "saelens-topk")
    assert_same(read_dictionary(folder), kinds["rows"], [kinds["latents"]["0"]], kinds["outputs"])


# -- what cannot be written --------------------------------------------------------------------------------------------
def test_what_another_library_cannot_hold_is_not_written(tmp_path):
    A, B = {"layers.0.mlp.norm": 6}, {"layers.0.mlp.out": 6}
    for dictionary, format, why in (
        (sae(A, 12, GroupMax(k=3)), "saelens", "an SAE with groupmax"),
        (transcoder(A, B, 12, TopK(k=3)), "saelens", "a transcoder with topk"),
        (filled("clt"), "saelens", "3 blocks, 3 columns read, 3 written"),
        (filled("molt"), "saelens", "a decoder of the kind transforms"),
        (filled("tokenized"), "saelens", "a table of tokens"),
        (transcoder(A, B, 12, TopK(k=3)), "circuit-tracer", "the activation topk"),
        (sae(A, 12, Relu()), "circuit-tracer", "takes off b_dec"),
        (transcoder({"layers.1.mlp.norm": 6}, {"layers.1.mlp.out": 6}, 12, Relu()), "circuit-tracer", "layers are 1"),
    ):
        with pytest.raises(Unsupported, match=why):
            write_dictionary(dictionary, tmp_path / "d", format)
    assert not (tmp_path / "d").exists()
    with pytest.raises(
        BadInput, match=r"reads sparsify and does not write it\.\nPossible: digsite, saelens, circuit-tracer"
    ):
        write_dictionary(filled("relu"), tmp_path / "d", "sparsify")


def test_a_written_configuration_says_what_it_is(tmp_path):
    dictionary = initialise(sae({"layers.3.attn.z[2]": 6}, 12, Relu()), seed=0)
    folder = write_dictionary(dictionary, tmp_path / "s", "saelens")
    said = json.loads((folder / "cfg.json").read_text())
    assert said["metadata"]["hook_name"] == "blocks.3.attn.hook_z" and said["metadata"]["hook_head_index"] == 2
    assert said["reshape_activations"] == "none" and read_dictionary(folder).reads == ("layers.3.attn.z[2]",)
    folder = write_dictionary(filled("clt low rank"), tmp_path / "c", "circuit-tracer")
    said = yaml.safe_load((folder / "config.yaml").read_text())
    assert said["feature_input_hook"] == "mlp.hook_in" and said["feature_output_hook"] == "hook_mlp_out"
    assert said["model_kind"] == "cross_layer_transcoder"


# -- SAEBench ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", SAELENS)
def test_the_view_for_saebench_is_the_dictionary_made_dense(name):
    dictionary = filled(name)
    dictionary.config = replace(dictionary.config, columns={"layers.0.mlp.norm": Column(width=6, scale=2.0)})
    view = saebench_view(dictionary, model_name="tiny")
    x = rows_for(dictionary)["layers.0.mlp.norm"]
    batch = x.reshape(3, 3, 6)
    latents, outputs = outcome(dictionary, rows_for(dictionary))
    torch.testing.assert_close(view.encode(batch), latents[0].reshape(3, 3, 12), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(view(batch).reshape(9, 6), outputs["layers.0.mlp.norm"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(view.decode(view.encode(x)), view(x))
    assert view.W_enc.shape == (6, 12) and view.W_dec.shape == (12, 6) and view.cfg.hook_name == "blocks.0.mlp.hook_in"
    assert (view.cfg.d_in, view.cfg.d_sae, view.cfg.hook_layer, view.cfg.dtype) == (6, 12, 0, "float32")
    assert view.to(torch.float16).dtype == torch.float16


def test_saebench_takes_saes_alone():
    with pytest.raises(Unsupported, match="SAEBench takes SAEs"):
        saebench_view(filled("skip transcoder"), model_name="tiny")
    normed = replace(filled("relu").config, columns={"layers.0.mlp.norm": Column(width=6, each_row="layer norm")})
    with pytest.raises(Unsupported, match="without the rows they come from"):
        saebench_view(Dictionary(normed), model_name="tiny")
