"""Files of sparsify, dictionary_learning, OpenAI's library and circuit-tracer, written and computed by each."""

import json
from pathlib import Path
from typing import Any

import torch
from benchmarks.exchange.case import LATENTS, Case, D, Maker, drawn, rows

SITE = "layers.3.resid_post"
LAYERS = 3


def _sparsify(hook: str, **more: Any) -> Maker:
    def make(folder: Path) -> Case:
        from sparsify import SparseCoder, SparseCoderConfig

        made = drawn(SparseCoder(D, SparseCoderConfig(num_latents=LATENTS, k=3, **more)))
        made.save_to_disk(folder / hook)
        (folder / "config.json").write_text(json.dumps({"model": "tiny"}))
        x, again = rows(), SparseCoder.load_from_disk(folder / hook)
        values, indices, _ = again.encode(x)
        latents = torch.zeros(len(x), LATENTS).scatter(1, indices, values)
        reads, writes = ("layers.3.mlp.norm", "layers.3.mlp.out") if more.get("transcode") else (SITE, SITE)
        return Case({reads: x}, [latents], {writes: again(x).sae_out}, inside=hook)

    return make


def _learnt(name: str, *more: Any, loading: dict[str, Any] | None = None, **config: Any) -> Maker:
    def make(folder: Path) -> Case:
        from dictionary_learning import dictionary
        from dictionary_learning.trainers import batch_top_k, matryoshka_batch_top_k, top_k

        homes = (dictionary, batch_top_k, top_k, matryoshka_batch_top_k)
        cls = next(getattr(home, name) for home in homes if hasattr(home, name))
        made = drawn(cls(D, LATENTS, *more))
        torch.save(made.state_dict(), folder / "ae.pt")  # noqa: TID251 - what this library's training does
        place = {"submodule_name": "resid_post_layer_3", "lm_name": "tiny"}
        sizes = {"dict_class": name, "activation_dim": D, "dict_size": LATENTS}
        (folder / "config.json").write_text(json.dumps({"trainer": {**sizes, **place, **config}}))
        again, x = cls.from_pretrained(folder / "ae.pt", **loading or {}), rows()
        return Case({SITE: x}, [again.encode(x)], {SITE: again(x)})

    return make


def _openai(activation: str) -> Maker:
    def make(folder: Path) -> Case:
        from sparse_autoencoder import model

        top = activation == "TopK"
        acts = model.TopK(3) if top else torch.nn.ReLU()
        made = drawn(model.Autoencoder(LATENTS, D, activation=acts, normalize=top))
        held = {key: x for key, x in made.state_dict().items() if not key.startswith("activation.")}
        torch.save(held, folder / "sae.pt")  # noqa: TID251 - as in the published files, which its loader reads
        again = model.Autoencoder.from_state_dict(torch.load(folder / "sae.pt", weights_only=True))
        x = rows()
        _, latents, out = again(x)
        return Case({SITE: x}, [latents], {SITE: out}, given={"column": SITE}, inside="sae.pt")

    return make


def _layers(activation: str, *, skip: bool = False) -> Maker:
    """circuit-tracer's transcoders of single layers."""

    def make(folder: Path) -> Case:
        from circuit_tracer.transcoder import activation_functions, single_layer_transcoder
        from circuit_tracer.transcoder.single_layer_transcoder import SingleLayerTranscoder, TranscoderSet

        made = {}
        for layer in range(LAYERS):
            kinds = {
                "relu": lambda: torch.relu,
                "jumprelu": lambda: activation_functions.JumpReLU(torch.zeros(LATENTS), 0.1),
                "topk": lambda: activation_functions.TopK(3),
            }
            one = SingleLayerTranscoder(
                D, LATENTS, kinds[activation](), layer, skip_connection=skip, dtype=torch.float32
            )
            made[layer] = drawn(one, seed=layer)
        hooks = {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "hook_mlp_out"}
        TranscoderSet(made, **hooks).to_safetensors(str(folder))
        more = {"activation": "topk", "k": 3} if activation == "topk" else {}
        _config(folder, model_kind="transcoder_set", **hooks, **more)
        if activation != "topk":  # circuit-tracer's loader has no topk
            paths = {layer: str(folder / f"layer_{layer}.safetensors") for layer in made}
            made = dict(enumerate(single_layer_transcoder.load_transcoder_set(paths, "", **hooks)))
        x = {layer: rows(seed=layer) for layer in made}
        latents = [one.encode(x[layer]) for layer, one in made.items()]
        if activation == "topk":
            latents = [f.clamp_min(0) for f in latents]  # its TopK has no relu; digsite's latents are positive
        outputs = {f"layers.{n}.mlp.out": one.decode(latents[n], x[n]) for n, one in made.items()}
        return Case({f"layers.{n}.mlp.norm": x[n] for n in x}, latents, outputs)

    return make


def _crossing(activation: str) -> Maker:
    """circuit-tracer's cross-layer transcoder."""

    def make(folder: Path) -> Case:
        from circuit_tracer.transcoder.cross_layer_transcoder import CrossLayerTranscoder, load_clt

        kinds = {"relu": "relu", "jumprelu": "jump_relu"}
        made = CrossLayerTranscoder(
            LAYERS, LATENTS, D, activation_function=kinds[activation], lazy_decoder=False, dtype=torch.float32
        )
        drawn(made).to_safetensors(str(folder))
        hooks = {"feature_input_hook": "hook_resid_mid", "feature_output_hook": "hook_mlp_out"}
        _config(folder, model_kind="cross_layer_transcoder", **hooks)
        again = load_clt(str(folder), lazy_decoder=False, dtype=torch.float32, **hooks)
        return _across(again, "resid_mid")

    return make


def _across(made: Any, site: str) -> Case:
    x = torch.stack([rows(seed=layer) for layer in range(LAYERS)])
    latents, out = made.encode(x), made(x)
    return Case(
        {f"layers.{n}.{site}": x[n] for n in range(LAYERS)},
        list(latents),
        {f"layers.{n}.mlp.out": out[n] for n in range(LAYERS)},
    )


def _gemma_2(*, skip: bool) -> Maker:
    """A transcoder of Gemma Scope 2, as circuit-tracer reads it."""

    def make(folder: Path) -> Case:
        from circuit_tracer.transcoder.single_layer_transcoder import load_gemma_scope_2_transcoder
        from safetensors.torch import save_file

        held = _gemma_numbers((LATENTS, D), seed=0) | ({"affine_skip_connection": rows(seed=9)[:D]} if skip else {})
        save_file(held, folder / "params.safetensors")
        points = {f"hf_hook_point_{end}": f"model.layers.3.{norm}_feedforward_layernorm.output" for end, norm in _ENDS}
        config = {"architecture": "jump_relu", "model_name": "tiny", "affine_connection": skip, **points}
        (folder / "config.json").write_text(json.dumps(config))
        made, x = load_gemma_scope_2_transcoder(str(folder / "params.safetensors"), 3), rows()
        latents = made.encode(x).clamp_min(0)
        return Case({"layers.3.mlp.norm": x}, [latents], {"layers.3.mlp.out": made.decode(latents, x)})

    return make


def _gemma_2_crossing(folder: Path) -> Case:
    """A cross-layer transcoder of Gemma Scope 2; circuit-tracer leaves out the last file, so one more is named."""
    from circuit_tracer.transcoder.cross_layer_transcoder import load_gemma_scope_2_clt
    from safetensors.torch import save_file

    paths = {layer: str(folder / f"layer_{layer}.safetensors") for layer in range(LAYERS)}
    for layer, path in paths.items():
        save_file(_gemma_numbers((LATENTS, LAYERS, D), seed=layer), path)
    points = {f"hf_hook_point_{end}": f"model.layers.0.{norm}_feedforward_layernorm.output" for end, norm in _ENDS}
    (folder / "config.json").write_text(json.dumps({"architecture": "jump_relu", "model_name": "tiny", **points}))
    return _across(load_gemma_scope_2_clt({**paths, LAYERS: ""}, dtype=torch.float32), "mlp.norm")


_ENDS = (("in", "pre"), ("out", "post"))


def _gemma_numbers(decoder: tuple[int, ...], seed: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    shapes = {"w_enc": (D, LATENTS), "w_dec": decoder, "b_enc": (LATENTS,), "b_dec": (D,), "threshold": (LATENTS,)}
    held = {name: torch.randn(shape, generator=g) for name, shape in shapes.items()}
    return held | {"threshold": held["threshold"].abs() * 0.3}


def _config(folder: Path, **more: Any) -> None:
    import yaml

    (folder / "config.yaml").write_text(yaml.safe_dump({"model_name": "tiny", "scan": "tiny", **more}))


CASES: dict[str, Maker] = {
    "sparsify-sae": _sparsify("layers.3"),
    "sparsify-groupmax": _sparsify("layers.3", activation="groupmax"),
    "sparsify-sae-with-skip": _sparsify("layers.3", skip_connection=True),
    "sparsify-transcoder": _sparsify("layers.3.mlp", transcode=True),
    "sparsify-skip-transcoder": _sparsify("layers.3.mlp", transcode=True, skip_connection=True),
    "dictionary-learning-relu": _learnt("AutoEncoder", loading={"normalize_decoder": False}),
    "dictionary-learning-relu-new": _learnt("AutoEncoderNew"),
    "dictionary-learning-gated": _learnt("GatedAutoEncoder"),
    "dictionary-learning-topk": _learnt("AutoEncoderTopK", 3, k=3),
    "dictionary-learning-batchtopk": _learnt("BatchTopKSAE", 3, k=3),
    "dictionary-learning-jumprelu": _learnt("JumpReluAutoEncoder"),
    "dictionary-learning-matryoshka": _learnt("MatryoshkaBatchTopKSAE", 3, [4, 8], k=3),
    "openai-relu": _openai("ReLU"),
    "openai-topk": _openai("TopK"),
    "circuit-tracer-relu": _layers("relu"),
    "circuit-tracer-jumprelu": _layers("jumprelu"),
    "circuit-tracer-topk": _layers("topk"),
    "circuit-tracer-skip": _layers("relu", skip=True),
    "circuit-tracer-clt-relu": _crossing("relu"),
    "circuit-tracer-clt-jumprelu": _crossing("jumprelu"),
    "gemma-scope-2-transcoder": _gemma_2(skip=False),
    "gemma-scope-2-skip": _gemma_2(skip=True),
    "gemma-scope-2-clt": _gemma_2_crossing,
}
