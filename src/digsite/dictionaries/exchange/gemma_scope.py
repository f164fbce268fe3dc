"""Gemma Scope 1: `params.npz` with W_enc, W_dec, b_enc, b_dec, threshold, and no configuration.

1. W_enc is [d, latent], W_dec [latent, d]. b_dec is *not* subtracted before encoding. Latents are π where π > threshold
   and π > 0.
2. Model, layer and site are in the path: `gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71/params.npz`.
3. SAEs of the embedding were trained on the stream divided by √d: `Column.scale` is √d (also for b_dec).
4. Transcoders read the normalised stream before the norm's gain, for which digsite has no site (see `names`); they
   write mlp.out.
"""

import math
import re
from pathlib import Path

from digsite.dictionaries.activations import JumpReLU
from digsite.dictionaries.dictionary import Dictionary
from digsite.dictionaries.exchange.assembling import Part, assembled
from digsite.dictionaries.exchange.contents import expect, npz_of
from digsite.dictionaries.exchange.names import Given, from_hook

_RELEASE = re.compile(r"gemma-scope-(\d+b)-(pt|it)-(res|mlp|att|transcoders)")
_HOOKS = {
    "res": ("hook_resid_post", "hook_resid_post"),
    "mlp": ("hook_mlp_out", "hook_mlp_out"),
    "att": ("attn.hook_z", "attn.hook_z"),
    "transcoders": ("ln2.hook_normalized", "hook_mlp_out"),
}
_NEEDED = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")


def recognises(path: Path) -> bool:
    """Whether this is an archive of Gemma Scope, or a folder with one."""
    return _archive(path).suffix == ".npz" and _archive(path).is_file()


def read(path: Path, given: Given) -> Dictionary:
    """Read an archive of Gemma Scope; see the module for what is taken as what."""
    archive = _archive(path)
    held, where = npz_of(archive), str(archive)
    expect(held, _NEEDED, where)
    release = _RELEASE.search(archive.resolve().as_posix()) or _RELEASE.search(archive.as_posix())
    layer = re.search(r"layer_(\d+)", where)
    told = ("", "")
    embedding = "/embedding/" in archive.as_posix()
    if release and embedding:
        told = ("embed", "embed")
    elif release and layer:
        hooks = _HOOKS[release[3]]
        told = (from_hook(f"blocks.{layer[1]}.{hooks[0]}"), from_hook(f"blocks.{layer[1]}.{hooks[1]}"))
    model = release and f"google/gemma-2-{release[1]}{'-it' * (release[2] == 'it')}"
    reads, writes = given.columns(*told, where)
    part = Part(
        reads=reads,
        writes=(writes,),
        W_enc=held["W_enc"].T,
        b_enc=held["b_enc"],
        W_dec=[held["W_dec"]],
        activation=JumpReLU(),
        own={"threshold": held["threshold"].clamp_min(0)},
    )
    origin = {"format": "gemma-scope", "model": given.model or model}
    scale = math.sqrt(held["W_enc"].shape[0]) if embedding else 1.0
    family = "sae" if reads == writes else "transcoder"
    return assembled(family, [part], {writes: held["b_dec"]}, where, origin, scale=scale)


def _archive(path: Path) -> Path:
    return path / "params.npz" if path.is_dir() else path
