"""Gemma Scope 2: `config.json` and `params.safetensors`; of a cross-layer transcoder `layer_<n>.safetensors` instead.

1. w_enc is [d_in, latent], w_dec [latent, d_out]; affine_skip_connection is [d_in, d_out] (y += x A). b_dec is *not*
   subtracted before encoding. Latents are π where π > threshold and π > 0.
2. config.json says `architecture: jump_relu` and the sites as modules of the Hugging Face model: hf_hook_point_in,
   hf_hook_point_out (none for an SAE).
3. In a cross-layer transcoder w_dec is [latent, layer, d]: layer l's latents write to layers l and later, what is in
   earlier layers is not used; each file's b_dec is that of its own layer.
"""

import re
from pathlib import Path
from typing import Any

import torch

from digsite._core.errors import LoadError, Unsupported, explain
from digsite.dictionaries.activations import JumpReLU
from digsite.dictionaries.dictionary import Dictionary
from digsite.dictionaries.exchange.assembling import Part, assembled
from digsite.dictionaries.exchange.contents import agree, expect, json_of, names_in, safetensors_of
from digsite.dictionaries.exchange.names import Given, at_layers, from_module

_NEEDED, _SKIP = ("w_enc", "w_dec", "b_enc", "b_dec", "threshold"), "affine_skip_connection"


def recognises(path: Path) -> bool:
    """Whether this is a folder of Gemma Scope 2."""
    files = [path / "params.safetensors", path / "layer_0.safetensors"]
    return any(file.is_file() and names_in(file) >= set(_NEEDED) for file in files)


def read(path: Path, given: Given) -> Dictionary:
    """Read a folder of Gemma Scope 2; see the module for what is taken as what."""
    config = json_of(path / "config.json") if (path / "config.json").is_file() else {}
    if config.get("architecture", "jump_relu") != "jump_relu":
        asked = f"{path} is of Gemma Scope 2, with an architecture that is not known"
        raise Unsupported(explain(asked, found=config["architecture"], possible="jump_relu"))
    origin = {"format": "gemma-scope-2", "model": given.model or config.get("model_name"), "config": config}
    if not (path / "params.safetensors").is_file():
        return _cross_layer(path, given, config, origin)
    held, where = safetensors_of(path / "params.safetensors"), str(path)
    expect(held, _NEEDED, where, allowed=(_SKIP,))
    agree(where, affine_connection=(config.get("affine_connection"), _SKIP in held))
    into, out = from_module(config.get("hf_hook_point_in", ""), end=1), from_module(_out(config), end=1)
    reads, writes = given.columns(into, out, where)
    part = Part(
        reads=reads,
        writes=(writes,),
        W_dec=[held["w_dec"]],
        W_skip=[held[_SKIP].T] if _SKIP in held else [],
        **_rest(held),
    )
    return assembled("sae" if reads == writes else "transcoder", [part], {writes: held["b_dec"]}, where, origin)


def _cross_layer(path: Path, given: Given, config: dict[str, Any], origin: dict[str, Any]) -> Dictionary:
    layers, where = len(list(path.glob("layer_*.safetensors"))), str(path)
    point_in, point_out = config.get("hf_hook_point_in", ""), _out(config)
    told = given.columns(_every(point_in), _every(point_out), where)
    reads, writes = (at_layers(column, range(layers)) for column in told)
    parts, b_dec = [], {}
    for layer in range(layers):
        file = path / f"layer_{layer}.safetensors"
        held = safetensors_of(file)
        expect(held, _NEEDED, str(file), allowed=(_SKIP,))
        if _SKIP in held:
            raise Unsupported(explain(f"{file} has a skip, of which it is not known to which layers it writes"))
        if held["w_dec"].ndim != 3 or held["w_dec"].shape[1] != layers:
            found = f"w_dec {list(held['w_dec'].shape)}, and {layers} files"
            raise LoadError(explain(f"{file} is not [latent, layer, d] for all layers", found=found))
        W_dec = [held["w_dec"][:, to].contiguous() for to in range(layer, layers)]
        parts.append(Part(reads=reads[layer], writes=tuple(writes[layer:]), W_dec=W_dec, **_rest(held)))
        b_dec[writes[layer]] = held["b_dec"]
    return assembled("clt", parts, b_dec, where, origin)


def _rest(held: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What all kinds have."""
    own = {"threshold": held["threshold"].clamp_min(0)}
    return {"W_enc": held["w_enc"].T, "b_enc": held["b_enc"], "activation": JumpReLU(), "own": own}


def _out(config: dict[str, Any]) -> str:
    return config.get("hf_hook_point_out") or config.get("hf_hook_point_in", "")


def _every(point: str) -> str:
    """The column of a point in all layers: the configuration names one of them, or `{layer}`."""
    column = from_module(point.replace("{layer}", "0"), end=1)
    return re.sub(r"^layers\.\d+\.", "layers.*.", column)
