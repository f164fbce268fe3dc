"""circuit-tracer: `config.yaml` and safetensors; transcoders of single layers (PLT), or a cross-layer one (CLT).

1. PLT: `layer_<n>.safetensors` with W_enc and W_dec [latent, d] (SAELens' W_enc is the transpose), b_enc, b_dec;
   `activation_function.threshold` where it is jumprelu (no relu beside it), else relu; W_skip [d_out, d_in]
   (y += W_skip x).
2. CLT: `W_enc_<n>.safetensors` with W_enc_<n> [latent, d], b_enc_<n>, b_dec_<n> and for jumprelu threshold_<n>;
   `W_dec_<n>.safetensors` with W_dec_<n> [latent, layers - n, d], in the order of the layers from n on.
3. Encoders read x as it is; b_dec is never subtracted.
4. config.yaml names the hooks inside a layer (`mlp.hook_in`, `hook_resid_mid`, `hook_mlp_out` …), and topk with its k.
5. circuit-tracer's own loader has relu and jumprelu, wants every layer from 0 on, and has no skip in a CLT's files.
   What it would misread is not written. Its topk has no relu beside it: a negative pre-activation among the k largest
   is a latent there, and none here.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import safetensors.torch
import torch
import yaml
from torch import Tensor

from digsite._core.errors import LoadError, Unsupported, explain
from digsite._core.files import whole_folder
from digsite.dictionaries.activations import Activation, JumpReLU, Relu, TopK
from digsite.dictionaries.dictionary import Block, Dictionary
from digsite.dictionaries.exchange.assembling import Part, assembled
from digsite.dictionaries.exchange.contents import expect, names_in, safetensors_of, yaml_of
from digsite.dictionaries.exchange.folding import folded, thresholds
from digsite.dictionaries.exchange.names import Given, at_layers, from_hook, layer_of, to_hook

CONFIG = "config.yaml"
_LAYER, _ENCODER = re.compile(r"layer_(\d+)\.safetensors"), re.compile(r"W_enc_(\d+)\.safetensors")
_THRESHOLD = "activation_function.threshold"


def recognises(path: Path) -> bool:
    """Whether this is a folder of circuit-tracer, or one layer's file of a PLT."""
    files = _numbered(path, _LAYER).values() if path.is_dir() else [path] * bool(_LAYER.fullmatch(path.name))
    return bool(path.is_dir() and _numbered(path, _ENCODER)) or any("W_enc" in names_in(file) for file in files)


def read(path: Path, given: Given) -> Dictionary:
    """Read a folder of circuit-tracer; see the module for what is taken as what."""
    folder = path if path.is_dir() else path.parent
    config = yaml_of(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    crossing = path.is_dir() and bool(_numbered(path, _ENCODER))
    kind = "cross_layer_transcoder" if crossing else "transcoder_set"
    if config.get("model_kind", kind) != kind:
        found = f"model_kind {config['model_kind']} in {CONFIG}, and the files of a {kind}"
        raise LoadError(explain(f"{path} contradicts itself", found=found))
    origin = {"format": "circuit-tracer", "model": given.model or config.get("model_name"), "config": config}
    reads, writes = (_hook(config, f"feature_{end}_hook") for end in ("input", "output"))
    told = given.columns(reads, writes, str(path))
    if crossing:
        return _read_crossing(path, told, config, origin)
    match = _LAYER.fullmatch(path.name)
    files = {int(match[1]): path} if match else _numbered(path, _LAYER)
    parts, b_dec = [], {}
    for column, target, file in zip(at_layers(told[0], files), at_layers(told[1], files), files.values(), strict=True):
        held = safetensors_of(file)
        expect(held, ("W_enc", "W_dec", "b_enc", "b_dec"), str(file), allowed=(_THRESHOLD, "W_skip", "k"))
        activation, own = _activation(held.get(_THRESHOLD), held.get("k"), config, str(file))
        part = Part(
            reads=column,
            writes=(target,),
            W_enc=held["W_enc"],
            b_enc=held["b_enc"],
            W_dec=[held["W_dec"]],
            activation=activation,
            own=own,
            W_skip=[held["W_skip"]] if "W_skip" in held else [],
        )
        parts.append(part)
        b_dec[target] = held["b_dec"]
    return assembled("transcoder" if len(parts) == 1 else "transcoders", parts, b_dec, str(path), origin)


def write(dictionary: Dictionary, folder: Path) -> None:
    """Write transcoders of single layers, or a cross-layer one, as a folder that circuit-tracer reads.

    Scales are folded; batchtopk becomes jumprelu; tied decoders are written as free ones.
    """
    dictionary = folded(dictionary)
    crossing = any(len(block.config.writes) > 1 for block in dictionary.blocks)
    layers = _layers(dictionary, crossing=crossing)
    hooks = [{to_hook(name).partition(f"blocks.{layer_of(name)}.")[2] for name in names} for names in layers]
    if any(len(names) != 1 or "" in names for names in hooks):
        _cannot(f"it reads {', '.join(layers[0])} and writes {', '.join(layers[1])}")
    config = {
        "model_name": dictionary.config.origin.get("model"),
        "model_kind": "cross_layer_transcoder" if crossing else "transcoder_set",
        "feature_input_hook": hooks[0].pop(),
        "feature_output_hook": hooks[1].pop(),
        "scan": dictionary.config.origin.get("scan"),
    }
    files: dict[str, dict[str, Tensor]] = {}
    for layer, block in enumerate(dictionary.blocks):
        files |= _crossing_files(dictionary, block, layer) if crossing else _layer_file(dictionary, block, layer)
    with whole_folder(folder, marker=CONFIG, parts=("W_*", "layer_*")) as new:
        for name, tensors in files.items():
            held = {key: x.detach().cpu().contiguous() for key, x in tensors.items()}
            (new / name).write_bytes(safetensors.torch.save(held))
        (new / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


# -- reading -----------------------------------------------------------------------------------------------------------
def _read_crossing(path: Path, told: Sequence[str], config: dict[str, Any], origin: dict[str, Any]) -> Dictionary:
    found = _numbered(path, _ENCODER)
    if list(found) != list(range(len(found))):
        raise LoadError(explain(f"{path} lacks layers", found=f"W_enc of layers {', '.join(map(str, found))}"))
    reads, writes = (at_layers(column, found) for column in told)
    parts, b_dec = [], {}
    for n, file in found.items():
        held = safetensors_of(file)
        needed = (f"W_enc_{n}", f"b_enc_{n}", f"b_dec_{n}")
        expect(held, needed, str(file), allowed=(f"threshold_{n}",))
        decoder = path / f"W_dec_{n}.safetensors"
        rows = safetensors_of(decoder)
        expect(rows, [f"W_dec_{n}"], str(decoder))
        W = rows[f"W_dec_{n}"]
        if W.ndim != 3 or W.shape[1] != len(found) - n:
            asked = f"{decoder} is not [latent, layers from {n} on, d]"
            raise LoadError(explain(asked, found=f"{list(W.shape)}, and {len(found)} layers"))
        activation, own = _activation(held.get(f"threshold_{n}"), None, config, str(file))
        part = Part(
            reads=reads[n],
            writes=tuple(writes[n:]),
            W_enc=held[f"W_enc_{n}"],
            b_enc=held[f"b_enc_{n}"],
            W_dec=[W[:, to].contiguous() for to in range(W.shape[1])],
            activation=activation,
            own=own,
        )
        parts.append(part)
        b_dec[writes[n]] = held[f"b_dec_{n}"]
    return assembled("clt", parts, b_dec, str(path), origin)


def _hook(config: dict[str, Any], key: str) -> str:
    """The column of all layers that a hook of one layer means."""
    hook = config.get(key) or ""
    return from_hook(f"blocks.*.{hook}") if hook else ""


def _activation(
    threshold: Tensor | None, k: Tensor | None, config: dict[str, Any], where: str
) -> tuple[Activation, dict[str, Tensor]]:
    name = str(config.get("activation") or config.get("activation_function") or "").lower()
    if threshold is not None:
        return JumpReLU(), {"threshold": threshold.flatten()}
    if k is not None or name == "topk":
        number = config.get("k") if k is None else int(k)
        if not isinstance(number, int):
            raise LoadError(explain(f"{where} is topk and does not say its k", do=f"Write k: <number> in {CONFIG}"))
        return TopK(k=number), {}
    if name not in ("", "relu"):
        raise LoadError(explain(f"{where} has no threshold", found=f"the activation {name} in {CONFIG}"))
    return Relu(), {}


def _numbered(path: Path, pattern: re.Pattern[str]) -> dict[int, Path]:
    """Files by the number in their name, in order."""
    matches = ((pattern.fullmatch(file.name), file) for file in path.iterdir())
    return dict(sorted((int(match[1]), file) for match, file in matches if match))


# -- writing -----------------------------------------------------------------------------------------------------------
def _layers(dictionary: Dictionary, *, crossing: bool) -> tuple[list[str], list[str]]:
    """The column that each layer reads, and the one that it writes; every layer from 0 on."""
    blocks = dictionary.blocks
    reads, writes = [block.config.reads[0] for block in blocks], [block.config.writes[0] for block in blocks]
    kinds = {block.config.activation.kind for block in blocks} - {"relu", "jumprelu", "batchtopk"}
    if kinds:
        _cannot(f"the activation {', '.join(sorted(kinds))}")
    if dictionary.tokens is not None or any(block.config.decoder.kind == "transforms" for block in blocks):
        _cannot(f"it is a {dictionary.config.family}")
    if any(
        len(block.config.reads) > 1 or (block.config.centred and set(block.config.reads) & set(dictionary.writes))
        for block in blocks
    ):
        _cannot("an encoder that reads several columns, or takes off b_dec")
    if any(column.each_row != "as it is" for column in dictionary.config.columns.values()):
        _cannot("a norm of each row")
    if len({block.config.latents for block in blocks}) > 1:
        _cannot("layers with several numbers of latents")
    for names in (reads, writes):
        if [layer_of(name) for name in names] != list(range(len(blocks))):
            _cannot(f"its layers are {', '.join(str(layer_of(name)) for name in names)}, not every one from 0 on")
    if crossing and any(block.config.writes != tuple(writes[i:]) for i, block in enumerate(blocks)):
        _cannot("a block that does not write to its own and all later layers")
    if crossing and any(block.W_skip is not None for block in blocks):
        _cannot("a cross-layer transcoder with a skip")
    return reads, writes


def _layer_file(dictionary: Dictionary, block: Block, layer: int) -> dict[str, dict[str, Tensor]]:
    (target,) = block.config.writes
    held = {"W_enc": block.W_enc[0], "b_enc": block.b_enc, "W_dec": block.W_dec(target)}
    held["b_dec"] = dictionary.bias(target)
    if block.config.activation.kind != "relu":
        held[_THRESHOLD] = thresholds(block)
    if block.W_skip is not None:
        held["W_skip"] = block.W_skip[0]
    return {f"layer_{layer}.safetensors": held}


def _crossing_files(dictionary: Dictionary, block: Block, n: int) -> dict[str, dict[str, Tensor]]:
    targets = block.config.writes
    held = {f"W_enc_{n}": block.W_enc[0], f"b_enc_{n}": block.b_enc, f"b_dec_{n}": dictionary.bias(targets[0])}
    if block.config.activation.kind != "relu":
        held[f"threshold_{n}"] = thresholds(block)
    rows = torch.stack([block.W_dec(target) for target in targets], dim=1)
    return {f"W_enc_{n}.safetensors": held, f"W_dec_{n}.safetensors": {f"W_dec_{n}": rows}}


def _cannot(what: str) -> NoReturn:
    possible = "transcoders of every layer from 0 on, or a cross-layer one; relu, jumprelu or batchtopk"
    raise Unsupported(explain("circuit-tracer would not read this dictionary as it is", found=what, possible=possible))
