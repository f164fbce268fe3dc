"""dictionary_learning: `ae.pt` and `config.json`.

1. `trainer.dict_class` says which of two layouts ae.pt has: Linear layers (encoder.weight [latent, d], decoder.weight
   [d, latent]) or matrices (W_enc [d, latent], W_dec [latent, d]).
2. b_dec (`bias`, `decoder_bias`) is subtracted before encoding, but not by AutoEncoderNew and JumpReluAutoEncoder.
3. BatchTopKSAE and MatryoshkaBatchTopKSAE have one threshold for all latents, -1 where training ended before it was
   set: then every positive latent fires. AutoEncoderTopK has one too and does not use it.
4. Its own loader divides the decoder rows of an AutoEncoder by their length (and multiplies the latents) unless it is
   told not to; here they are as in the file.
5. Sites are names of its buffers (`resid_post_layer_3`); those of other forms must be given.
6. A norm of the data (`norm_factor`) is folded into the biases before saving.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from digsite._core.errors import LoadError, Unsupported, explain
from digsite.dictionaries.activations import Activation, BatchTopK, Gated, JumpReLU, Relu, TopK
from digsite.dictionaries.dictionary import Dictionary
from digsite.dictionaries.exchange.assembling import Part, assembled
from digsite.dictionaries.exchange.contents import agree, checkpoint_of, expect, json_of
from digsite.dictionaries.exchange.names import Given

_BUFFER = re.compile(r"resid_post_layer_(\d+)")


class _Class(NamedTuple):
    """How a class of dictionary_learning saves itself.

    Attributes:
        b_enc: The name of the encoder's bias.
        b_dec: Of the decoder's.
        activation: From k.
        linear: Whether matrices are those of Linear layers.
        centred: Whether b_dec is subtracted before encoding.
        own: What the activation learnt, and its name here.
        unused: What else may be there.
    """

    b_enc: str
    b_dec: str
    activation: Callable[[int], Activation]
    linear: bool = True
    centred: bool = True
    own: tuple[tuple[str, str], ...] = ()
    unused: tuple[str, ...] = ()


_ONE = (("threshold", "threshold"),)
_CLASSES = {
    "AutoEncoder": _Class("encoder.bias", "bias", lambda k: Relu()),
    "AutoEncoderNew": _Class("encoder.bias", "decoder.bias", lambda k: Relu(), centred=False),
    "GatedAutoEncoder": _Class(
        "gate_bias", "decoder_bias", lambda k: Gated(), own=(("r_mag", "r_mag"), ("mag_bias", "b_mag"))
    ),
    "AutoEncoderTopK": _Class("encoder.bias", "b_dec", lambda k: TopK(k=k), unused=("k", "threshold")),
    "BatchTopKSAE": _Class("encoder.bias", "b_dec", lambda k: BatchTopK(k=k), own=_ONE, unused=("k",)),
    "JumpReluAutoEncoder": _Class("b_enc", "b_dec", lambda k: JumpReLU(), linear=False, centred=False, own=_ONE),
    "MatryoshkaBatchTopKSAE": _Class(
        "b_enc", "b_dec", lambda k: BatchTopK(k=k), linear=False, own=_ONE, unused=("k", "group_sizes")
    ),
}


def recognises(path: Path) -> bool:
    """Whether this is a folder of dictionary_learning, or the ae.pt in one."""
    folder = _folder(path)
    return (folder / "ae.pt").is_file() and (folder / "config.json").is_file()


def read(path: Path, given: Given) -> Dictionary:
    """Read a folder of dictionary_learning; see the module for what is taken as what."""
    path = _folder(path)
    raw, where = json_of(path / "config.json"), str(path)
    config = raw.get("trainer") or {}
    name = config.get("dict_class")
    if name not in _CLASSES:
        raise Unsupported(explain(f"{where} is a {name}, which has no equal here", possible=list(_CLASSES)))
    kind, held = _CLASSES[name], checkpoint_of(path / "ae.pt")
    matrices = ("encoder.weight", "decoder.weight") if kind.linear else ("W_enc", "W_dec")
    expect(held, [*matrices, kind.b_enc, kind.b_dec, *(own for own, _ in kind.own)], where, allowed=kind.unused)
    W_enc, W_dec = (held[matrix] if kind.linear == (i == 0) else held[matrix].T for i, matrix in enumerate(matrices))
    k = _k(config, held, where) if "k" in kind.unused else 0
    agree(
        where,
        activation_dim=(config.get("activation_dim"), W_enc.shape[1]),
        dict_size=(config.get("dict_size"), len(W_enc)),
    )
    place = config.get("submodule_name") or ""
    buffer = _BUFFER.fullmatch(place)
    column = given.column(f"layers.{buffer[1]}.resid_post" if buffer else place, where)
    sizes = held["group_sizes"].tolist() if "group_sizes" in held else []
    part = Part(
        reads=column,
        writes=(column,),
        W_enc=W_enc,
        b_enc=held[kind.b_enc],
        W_dec=[W_dec],
        activation=kind.activation(k),
        own={ours: _own(held[theirs], ours, name) for theirs, ours in kind.own},
        centred=kind.centred,
        prefixes=tuple(sum(sizes[: i + 1]) for i in range(len(sizes))),
    )
    origin = {"format": "dictionary-learning", "model": given.model or config.get("lm_name"), "config": raw}
    return assembled("sae", [part], {column: held[kind.b_dec]}, where, origin)


def _own(x: Tensor, name: str, cls: str) -> Tensor:
    """What an activation learnt; JumpReluAutoEncoder has a relu, so a negative threshold is zero."""
    return x.clamp_min(0) if name == "threshold" and cls == "JumpReluAutoEncoder" else x


def _k(config: dict[str, Any], held: dict[str, Any], where: str) -> int:
    said, real = config.get("k"), int(held["k"]) if "k" in held else None
    if said is not None and real is not None:
        agree(where, k=(said, real))
    k = real if real is not None else said
    if not isinstance(k, int):
        raise LoadError(explain(f"{where} does not say its k", found="no k in config.json or ae.pt"))
    return k


def _folder(path: Path) -> Path:
    return path.parent if path.name == "ae.pt" else path
