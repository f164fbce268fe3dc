"""A dictionary computes what its formula says, for every family and activation; a dense reference says so."""

from dataclasses import replace
from typing import Any

import pytest
import safetensors.torch
import torch

from dictionaries.zoo import FAMILIES, filled, rows_for
from digsite._core.errors import BadInput, LoadError, NotFinite, ShapeMismatch
from digsite.dictionaries import (
    BlockConfig,
    Column,
    Dictionary,
    DictionaryConfig,
    JumpReLU,
    Relu,
    TopK,
    Transforms,
    clt,
    initialise,
    load,
    molt,
    sae,
    save,
)
from digsite.store import Rows

IDS = torch.tensor([0, 1, 2, 3, 4, 5, 6, 0, 1])


def rows_of(dictionary):
    return Rows(rows_for(dictionary), ids=IDS)


def dense_latents(block, x):
    """The formulas of the activations, on whole matrices."""
    pre = sum(a @ W.T for a, W in zip(x, block.W_enc, strict=True)) + block.b_enc
    activation, norms = block.config.activation, block.norms()
    match activation.kind:
        case "relu":
            return torch.relu(pre)
        case "topk":
            gate = pre * norms if activation.by_norm else pre
            kth = gate.sort(1, descending=True).values[:, activation.k - 1 : activation.k]
            return torch.relu(pre) * (gate >= kth)
        case "batchtopk":
            return torch.relu(pre) * (pre > block.threshold)
        case "jumprelu":
            return pre * (pre > block.threshold)
        case "gated":
            return (pre > 0) * torch.relu(block.r_mag.exp() * (pre - block.b_enc) + block.b_mag)
        case "abstopk":
            kth = pre.abs().sort(1, descending=True).values[:, activation.k - 1 : activation.k]
            return pre * (pre.abs() >= kth)
        case "groupmax":
            groups = pre.unflatten(1, (activation.k, -1))
            return (torch.relu(groups) * (groups == groups.amax(2, keepdim=True))).flatten(1)
    raise AssertionError(activation.kind)


def dense(dictionary, rows):
    """What the dictionary should write: dense latents times matrices, column by column."""
    config, out = dictionary.config, {name: dictionary.bias(name).expand(9, -1) for name in dictionary.writes}
    if config.tokens:
        out = {name: x + dictionary.tokens[i][rows.ids] for i, (name, x) in enumerate(out.items())}
    for block in dictionary.blocks:
        x = [rows[name] / config.columns[name].scale for name in block.config.reads]
        if block.config.centred:
            x = [x[0] - dictionary.bias(block.config.reads[0])]
        f = dense_latents(block, x)
        raw = rows[block.config.reads[0]]
        for target, name in enumerate(block.config.writes):
            if block.config.decoder.kind == "transforms":
                maps = [
                    (U[t] @ V[t])
                    for U, V in zip(block.decoder.U[target], block.decoder.V, strict=True)
                    for t in range(len(V))
                ]
                out[name] = out[name] + sum(f[:, i : i + 1] * (raw @ M.T) for i, M in enumerate(maps))
            else:
                out[name] = out[name] + f @ block.W_dec(name)
            if block.W_skip is not None:
                out[name] = out[name] + raw @ block.W_skip[target].T
    return out


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_its_formula(name):
    dictionary = filled(name)
    rows = rows_of(dictionary)
    found, wanted = dictionary(rows), dense(dictionary, rows)
    assert found.keys() == wanted.keys()
    for column in wanted:
        torch.testing.assert_close(found[column], wanted[column], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_dictionary_comes_back_bit_for_bit(name, tmp_path):
    dictionary = filled(name)
    again = load(save(dictionary, tmp_path / "d"))
    assert again.config == dictionary.config
    rows = rows_of(dictionary)
    for column, x in dictionary(rows).items():
        assert torch.equal(again(rows)[column], x)


@pytest.mark.parametrize("name", FAMILIES)
def test_all_pre_activations_kept_or_not_the_latents_are_the_same(name):
    dictionary = filled(name)
    rows = rows_of(dictionary)
    for whole, sparse in zip(dictionary.run(rows, pre=True).latents, dictionary.encode(rows), strict=True):
        torch.testing.assert_close(whole.dense(), sparse.dense())


def test_tied_decoders_are_written_once_and_stay_tied(tmp_path):
    per_target = filled("clt per target")
    again: Any = load(save(per_target, tmp_path / "d"))
    assert again.blocks[0].decoder.W[2] is again.blocks[2].decoder.W[0]
    numbers = sum(x.numel() for x in per_target.parameters())
    assert numbers == 3 * (12 * 6 + 12) + 3 * (12 * 6) + 3 * 6


def test_scale_changes_the_unit_and_nothing_else():
    dictionary = initialise(sae({"embed": 6}, 12, TopK(k=12)), seed=0)
    rows = rows_for(dictionary)
    scaled = Dictionary(replace(dictionary.config, columns={"embed": Column(width=6, scale=4.0)}))
    scaled.load_state_dict(dictionary.state_dict())
    torch.testing.assert_close(scaled({"embed": rows["embed"] * 4})["embed"], dictionary(rows)["embed"] * 4)


def test_a_latent_begins_along_what_it_writes():
    dictionary = initialise(sae({"embed": 6}, 12, Relu()), seed=3)
    torch.testing.assert_close(dictionary.blocks[0].W_enc[0], dictionary.blocks[0].W_dec("embed"))
    torch.testing.assert_close(dictionary.blocks[0].norms(), torch.ones(12))


def test_what_is_no_dictionary_says_why():
    with pytest.raises(BadInput, match="k=20 of 12 latents"):
        sae({"embed": 6}, 12, TopK(k=20))
    with pytest.raises(BadInput, match="ranks"):
        block = BlockConfig(
            reads=("a",), writes=("a",), latents=5, activation=Relu(), decoder=Transforms(ranks=((2, 2),))
        )
        DictionaryConfig(family="molt", columns={"a": Column(width=3)}, blocks=(block,))
    with pytest.raises(BadInput, match="prefixes"):
        sae({"embed": 6}, 12, Relu(), prefixes=(6, 3))


def test_rows_of_another_width_or_without_the_column_are_refused():
    dictionary = filled("topk")
    with pytest.raises(ShapeMismatch, match="rows of 6 numbers"):
        dictionary.encode({"layers.0.mlp.norm": torch.zeros(3, 5)})
    with pytest.raises(BadInput, match="needs the column"):
        dictionary.encode({"embed": torch.zeros(3, 6)})
    tokenized = filled("tokenized")
    with pytest.raises(BadInput, match="tokens of the rows"):
        tokenized(rows_for(tokenized))
    maps = molt({"a": 6}, {"b": 5}, [(2, 2)], Relu())
    with pytest.raises(BadInput, match="decodes with what it has read"):
        maps.decode(maps.encode({"a": torch.ones(3, 6)}))


def test_a_file_that_lacks_a_tensor_or_has_one_too_many_is_refused(tmp_path):
    dictionary = filled("clt")
    save(dictionary, tmp_path / "d")
    file = tmp_path / "d" / "dictionary.safetensors"
    tensors = safetensors.torch.load(file.read_bytes())
    kept = tensors.pop("blocks.0.b_enc")
    file.write_bytes(safetensors.torch.save({**tensors, "more": kept}))
    with pytest.raises(LoadError, match=r"blocks\.0\.b_enc is missing; more is left over"):
        load(tmp_path / "d")
    (tmp_path / "d" / "dictionary.json").write_text("{}")
    with pytest.raises(LoadError, match="not of the format"):
        load(tmp_path / "d")


def test_a_dictionary_with_nan_is_not_written(tmp_path):
    dictionary = filled("topk")
    with torch.no_grad():
        dictionary.blocks[0].b_enc[0] = torch.nan
    with pytest.raises(NotFinite, match=r"blocks\.0\.b_enc"):
        save(dictionary, tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_jump_gradients_are_those_of_the_paper():
    dictionary = sae({"embed": 4}, 8, JumpReLU(start=0.5, bandwidth=0.4))
    initialise(dictionary, seed=0)
    dictionary.train()
    rows = {"embed": torch.randn(50, 4, generator=torch.Generator().manual_seed(0))}
    block, weights = dictionary.blocks[0], torch.randn(8, generator=torch.Generator().manual_seed(1))
    found = dictionary.run(rows, pre=True)
    (pre,) = found.pre
    assert pre is not None
    (found.latents[0].dense() * weights).sum().backward()
    window = ((pre - 0.5).abs() < 0.2).float()
    torch.testing.assert_close(block.own("threshold").grad, (-(0.5 / 0.4) * window * weights).sum(0))
    grad = (pre > 0.5) * weights
    torch.testing.assert_close(block.W_enc[0].grad, grad.T @ rows["embed"])


def test_thresholds_keep_their_precision(tmp_path):
    dictionary = filled("jumprelu")
    again: Any = load(save(dictionary, tmp_path / "d", dtype=torch.float16))
    assert torch.equal(again.blocks[0].threshold, dictionary.blocks[0].threshold)
    half: Any = load(tmp_path / "d", dtype=torch.bfloat16)
    assert half.blocks[0].threshold.dtype == torch.float32 and half.blocks[0].b_enc.dtype == torch.bfloat16


def test_clt_writes_to_its_own_and_later_layers():
    reads, writes = {"layers.0.mlp.norm": 4, "layers.1.mlp.norm": 4}, {"layers.0.mlp.out": 4, "layers.1.mlp.out": 4}
    made = clt(reads, writes, 8, Relu())
    assert [block.config.writes for block in made.blocks] == [tuple(writes), ("layers.1.mlp.out",)]
    assert "2 blocks, 16 latents" in repr(made)
