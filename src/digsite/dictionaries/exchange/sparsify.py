"""sparsify (EleutherAI): `<hookpoint>/cfg.json` and `<hookpoint>/sae.safetensors`.

1. encoder.weight and W_dec are [latent, d], W_skip [d, d] (y += W_skip x).
2. An SAE's encoder reads x - b_dec, always; a transcoder's (`transcode`) reads x.
3. `activation` is topk or groupmax; `num_latents`, or `expansion_factor` × d_in.
4. The folder is named after the module of the Hugging Face model: an SAE is of what comes out of it, a transcoder goes
   from what goes in to what comes out. Some runs add a seed to the name, which then must be given.
"""

from pathlib import Path

from digsite._core.errors import Unsupported, explain
from digsite.dictionaries.activations import GroupMax, TopK
from digsite.dictionaries.dictionary import Dictionary
from digsite.dictionaries.exchange.assembling import Part, assembled
from digsite.dictionaries.exchange.contents import agree, expect, json_of, safetensors_of
from digsite.dictionaries.exchange.names import Given, from_module

_NEEDED = ("encoder.weight", "encoder.bias", "W_dec", "b_dec")


def recognises(path: Path) -> bool:
    """Whether this is a folder of sparsify."""
    return (path / "cfg.json").is_file() and (path / "sae.safetensors").is_file()


def read(path: Path, given: Given) -> Dictionary:
    """Read a folder of sparsify; see the module for what is taken as what."""
    config, held, where = json_of(path / "cfg.json"), safetensors_of(path / "sae.safetensors"), str(path)
    skip, transcode = bool(config.get("skip_connection")), bool(config.get("transcode"))
    expect(held, [*_NEEDED, *(["W_skip"] if skip else [])], where)
    d_in, latents = config.get("d_in"), config.get("num_latents") or None
    if latents is None and d_in and config.get("expansion_factor"):
        latents = d_in * config["expansion_factor"]
    W = held["encoder.weight"]
    agree(where, d_in=(d_in, W.shape[1]), num_latents=(latents, W.shape[0]))
    kinds = {"topk": TopK, "groupmax": GroupMax}
    kind = config.get("activation", "topk")
    if kind not in kinds:
        raise Unsupported(explain(f"{where} has an activation that is not known", found=kind, possible=list(kinds)))
    into, out = from_module(path.name, end=0), from_module(path.name, end=1)
    reads, writes = given.columns(into, out, where) if transcode else (given.column(out, where),) * 2
    part = Part(
        reads=reads,
        writes=(writes,),
        W_enc=W,
        b_enc=held["encoder.bias"],
        W_dec=[held["W_dec"]],
        activation=kinds[kind](k=config.get("k", 32)),
        W_skip=[held["W_skip"]] if skip else [],
        centred=not transcode,
    )
    run = path.parent / "config.json"
    model = json_of(run).get("model") if run.is_file() else None
    origin = {"format": "sparsify", "model": given.model or model, "config": config}
    return assembled("transcoder" if transcode else "sae", [part], {writes: held["b_dec"]}, where, origin)
