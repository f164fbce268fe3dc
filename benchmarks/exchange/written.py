"""What digsite writes, as SAELens and circuit-tracer read it."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from benchmarks.exchange import saelens
from benchmarks.exchange.case import LATENTS, D, apart, drawn, rows

from digsite.dictionaries import (
    AbsTopK,
    BatchTopK,
    Dictionary,
    Gated,
    JumpReLU,
    LowRank,
    PerSource,
    Relu,
    TopK,
    clt,
    sae,
    transcoder,
)
from digsite.dictionaries.config import Column
from digsite.dictionaries.exchange import write_dictionary

SITE, LAYERS = {"layers.3.resid_post": D}, 3
READS = {f"layers.{n}.mlp.norm": D for n in range(LAYERS)}
WRITES = {f"layers.{n}.mlp.out": D for n in range(LAYERS)}


def _scaled(dictionary: Dictionary, **column: Any) -> Dictionary:
    """The same dictionary with other columns."""
    columns = {name: Column(width=one.width, **column) for name, one in dictionary.config.columns.items()}
    return Dictionary(replace(dictionary.config, columns=columns))


def _across(activation: Any, **more: Any) -> Dictionary:
    return clt(READS, WRITES, LATENTS, activation, **more)


def _single(activation: Any, *, skip: bool = False) -> Dictionary:
    """Transcoders of single layers, in one dictionary."""
    parts = [transcoder({a: D}, {b: D}, LATENTS, activation, skip=skip) for a, b in zip(READS, WRITES, strict=True)]
    columns = {name: Column(width=D, scale=2.0) for name in (*READS, *WRITES)}
    blocks = tuple(part.config.blocks[0] for part in parts)
    return Dictionary(replace(parts[0].config, family="transcoders", columns=columns, blocks=blocks))


def _one(activation: Any, **more: Any) -> Dictionary:
    return sae(SITE, LATENTS, activation, **more)


def _over(activation: Any, *, skip: bool = False) -> Dictionary:
    return transcoder({"layers.3.mlp.norm": D}, {"layers.3.mlp.out": D - 1}, LATENTS, activation, skip=skip)


FOR_SAELENS = {
    "relu": _one(Relu()),
    "relu scaled": _scaled(_one(Relu()), scale=3.0),
    "relu layer norm": _scaled(_one(Relu()), each_row="layer norm"),
    "relu length scaled": _scaled(_one(Relu()), each_row="length", scale=0.5),
    "topk": _one(TopK(k=3)),
    "topk by norm": _scaled(_one(TopK(k=3, by_norm=True)), scale=3.0),
    "abstopk": _one(AbsTopK(k=3)),
    "batchtopk": _one(BatchTopK(k=3)),
    "batchtopk by norm": _scaled(_one(BatchTopK(k=3, by_norm=True)), scale=3.0),
    "matryoshka": _one(BatchTopK(k=3), prefixes=(4, 12)),
    "jumprelu": _one(JumpReLU()),
    "gated": _scaled(_one(Gated()), scale=3.0),
    "transcoder": _over(Relu()),
    "skip transcoder": _scaled(_over(Relu(), skip=True), scale=3.0),
    "jumprelu transcoder": _over(JumpReLU()),
    "jumprelu skip transcoder": _over(BatchTopK(k=3), skip=True),
}
FOR_CIRCUIT_TRACER = {
    "relu": _single(Relu()),
    "jumprelu": _single(JumpReLU()),
    "batchtopk": _single(BatchTopK(k=3, by_norm=True)),
    "skip": _single(JumpReLU(), skip=True),
    "clt": _across(Relu()),
    "clt jumprelu": _scaled(_across(JumpReLU()), scale=3.0),
    "clt low rank": _across(BatchTopK(k=3), decoder=LowRank(rank=2)),
    "clt per source": _across(Relu(), decoder=PerSource()),
}


def read_by_them() -> Iterator[tuple[str, float]]:
    """The largest difference between our latents and outputs and theirs, dictionary by dictionary."""
    for name, dictionary in FOR_SAELENS.items():
        yield f"saelens {name}", _saelens(_filled(dictionary))
    for name, dictionary in FOR_CIRCUIT_TRACER.items():
        yield f"circuit-tracer {name}", _circuit_tracer(_filled(dictionary))


def _filled(dictionary: Dictionary) -> Any:
    return drawn(dictionary).eval()


def _saelens(dictionary: Any) -> float:
    with tempfile.TemporaryDirectory() as place, torch.no_grad():
        made, x = saelens.load(write_dictionary(dictionary, Path(place) / "d", "saelens")), rows()
        (latents,) = dictionary.encode({dictionary.reads[0]: x})
        ours, theirs = latents.dense(), made.encode(x)
        if getattr(dictionary.config.blocks[0].activation, "by_norm", False) and "topk" in made.cfg.architecture():
            theirs = theirs / made.W_dec.norm(dim=1)  # SAELens' latents are ours times the length of the decoder
        (out,) = dictionary({dictionary.reads[0]: x}).values()
        return max(apart(ours, theirs), apart(out, made(x)))


def _circuit_tracer(dictionary: Any) -> float:
    from circuit_tracer.transcoder.cross_layer_transcoder import load_clt
    from circuit_tracer.transcoder.single_layer_transcoder import load_transcoder_set

    with tempfile.TemporaryDirectory() as place, torch.no_grad():
        folder = write_dictionary(dictionary, Path(place) / "d", "circuit-tracer")
        config = yaml.safe_load((folder / "config.yaml").read_text())
        hooks = {key: config[key] for key in ("feature_input_hook", "feature_output_hook")}
        if config["model_kind"] == "transcoder_set":
            paths = {n: str(folder / f"layer_{n}.safetensors") for n in range(LAYERS)}
            made = load_transcoder_set(paths, "", lazy_encoder=False, lazy_decoder=False, **hooks)
        else:
            made = load_clt(str(folder), dtype=torch.float32, lazy_decoder=False, **hooks)
        x = torch.stack([rows(seed=n) for n in range(LAYERS)])
        ours = dictionary.encode(dict(zip(dictionary.reads, x, strict=True)))
        theirs = made.encode(x)
        out = dictionary(dict(zip(dictionary.reads, x, strict=True)))
        wanted = made.decode(theirs, x)
        latents = max(apart(a.dense(), b) for a, b in zip(ours, theirs, strict=True))
        return max(latents, *(apart(out[f"layers.{n}.mlp.out"], wanted[n]) for n in range(LAYERS)))
