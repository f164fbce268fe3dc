"""OpenAI's sparse_autoencoder: one .pt file.

1. encoder.weight is [latent, d], decoder.weight [d, latent]. The encoder reads x - pre_bias; pre_bias is added again.
2. `activation` is ReLU or TopK, its k (and a relu on the chosen) in `activation_state_dict`.
3. Of a TopK file each row is layer-normed first, and brought back at the end (`Column.each_row`); the file does not say
   so, its library infers it from the activation in the same way.
4. The file does not say its site: it must be given.
"""

from pathlib import Path

from digsite._core.errors import LoadError, Unsupported, explain
from digsite.dictionaries.activations import Activation, Relu, TopK
from digsite.dictionaries.dictionary import Dictionary
from digsite.dictionaries.exchange.assembling import Part, assembled
from digsite.dictionaries.exchange.contents import checkpoint_of, expect
from digsite.dictionaries.exchange.names import Given

_NEEDED = ("encoder.weight", "decoder.weight", "pre_bias", "latent_bias")
_UNUSED = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")
_TWICE = ("activation.k", "activation.postact_fn")
"""A file that was saved by the library at its last commit says these twice, and its own loader then refuses it."""


def recognises(path: Path) -> bool:
    """Whether this is a .pt file of OpenAI's library."""
    if path.suffix != ".pt" or not path.is_file() or path.name == "ae.pt":
        return False
    try:
        return {"pre_bias", "latent_bias"} <= checkpoint_of(path).keys()
    except LoadError:
        return True  # reading says what is wrong with it


def read(path: Path, given: Given) -> Dictionary:
    """Read a .pt file of OpenAI's library; see the module for what is taken as what."""
    held, where = checkpoint_of(path), str(path)
    name, own = held.pop("activation", "ReLU"), dict(held.pop("activation_state_dict", {}))
    expect(held, _NEEDED, where, allowed=_UNUSED + _TWICE)
    activation = _activation(name, own, where)
    column = given.column("", where)
    part = Part(
        reads=column,
        writes=(column,),
        W_enc=held["encoder.weight"],
        b_enc=held["latent_bias"],
        W_dec=[held["decoder.weight"].T],
        activation=activation,
        centred=True,
    )
    origin = {"format": "openai", "model": given.model}
    each_row = "layer norm" if name == "TopK" else "as it is"
    return assembled("sae", [part], {column: held["pre_bias"]}, where, origin, each_row=each_row)


def _activation(name: object, own: dict[str, object], where: str) -> Activation:
    if name == "ReLU":
        return Relu()
    if name == "TopK" and own.get("postact_fn", "ReLU") == "ReLU" and isinstance(own.get("k"), int):
        return TopK(k=int(str(own["k"])))
    found = f"{name} {own}" if own else str(name)
    raise Unsupported(explain(f"{where} has an activation that has no equal here", found=found, possible="ReLU, TopK"))
