"""SAELens' own files, and its reading of ours."""

import warnings
from pathlib import Path
from typing import Any

import torch
from benchmarks.exchange.case import LATENTS, Case, D, Maker, drawn, rows

SITE = "layers.3.resid_post"
META = {"model_name": "tiny", "hook_name": "blocks.3.hook_resid_post"}
OUT = {"hook_name": "blocks.3.mlp.hook_in", "hook_name_out": "blocks.3.hook_mlp_out", "model_name": "tiny"}


def _inference(name: str, **more: Any) -> Maker:
    """An SAE or transcoder of an inference class, saved and loaded again by SAELens."""

    def make(folder: Path) -> Case:
        import sae_lens

        transcoder = "Transcoder" in name
        config = getattr(sae_lens, f"{name}Config")
        meta = sae_lens.saes.sae.SAEMetadata(**(OUT if transcoder else META) | more.pop("metadata", {}))
        options = {"d_out": D - 1, "apply_b_dec_to_input": False} if transcoder else {}
        made = getattr(sae_lens, name)(config(d_in=D, d_sae=LATENTS, metadata=meta, **options | more))
        drawn(made).save_model(folder)
        return _seen(folder, transcoder=transcoder)

    return make


def _training(name: str, **more: Any) -> Maker:
    """An SAE of a training class, saved for inference."""

    def make(folder: Path) -> Case:
        import sae_lens

        config = getattr(sae_lens, f"{name}Config")
        meta = sae_lens.saes.sae.SAEMetadata(**META)
        made = drawn(getattr(sae_lens, name)(config(d_in=D, d_sae=LATENTS, metadata=meta, **more)))
        made.topk_threshold = made.topk_threshold.abs() * 0 + 0.4
        made.save_inference_model(str(folder))
        return _seen(folder)

    return make


def _unfolded(folder: Path) -> Case:
    """A checkpoint from before the factor of the norm was folded; SAELens folds it, digsite reads the factor."""
    import sae_lens

    meta = sae_lens.saes.sae.SAEMetadata(**META)
    config = sae_lens.StandardSAEConfig(
        d_in=D, d_sae=LATENTS, metadata=meta, normalize_activations="expected_average_only_in"
    )
    made = drawn(sae_lens.StandardSAE(config))
    made.save_model(folder)
    (folder / "activation_scaler.json").write_text('{"scaling_factor": 0.25, "has_whitening": false}')
    made.fold_activation_norm_scaling_factor(0.25)
    x = rows()
    return Case({SITE: x}, [made.encode(x)], {SITE: made(x)})


def _heads(folder: Path) -> Case:
    import sae_lens

    meta = sae_lens.saes.sae.SAEMetadata(model_name="tiny", hook_name="blocks.3.attn.hook_z")
    config = sae_lens.StandardSAEConfig(d_in=D, d_sae=LATENTS, metadata=meta, reshape_activations="hook_z")
    made, z = drawn(sae_lens.StandardSAE(config)), rows(2, 3)
    made.save_model(folder)
    site = "layers.3.attn.z"
    return Case({site: z.flatten(1)}, [made.encode(z)], {site: made(z).flatten(1)})


def _seen(folder: Path, *, transcoder: bool = False) -> Case:
    """What SAELens computes from a folder of its own."""
    made, x = load(folder), rows()
    if not transcoder:
        return Case({SITE: x}, [made.encode(x)], {SITE: made(x)})
    return Case({"layers.3.mlp.norm": x}, [made.encode(x)], {"layers.3.mlp.out": made(x)})


def load(folder: Path) -> Any:
    """A folder as SAELens reads it."""
    import sae_lens

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sae_lens.SAE.load_from_disk(folder)


def _gemma(folder: Path) -> Case:
    """Gemma Scope's archive, as SAELens' loader reads it where its download gives the local file."""
    import numpy as np
    import sae_lens
    from sae_lens.loading import pretrained_sae_loaders as loaders

    inside = Path("gemma-scope-2b-pt-res") / "layer_3" / "width_16k" / "average_l0_5"
    (folder / inside).mkdir(parents=True)
    g = torch.Generator().manual_seed(0)
    held = {"W_enc": (D, LATENTS), "W_dec": (LATENTS, D), "b_enc": (LATENTS,), "b_dec": (D,), "threshold": (LATENTS,)}
    numbers = {name: torch.randn(shape, generator=g) for name, shape in held.items()}
    numbers["threshold"] = numbers["threshold"].abs() * 0.3
    arrays: Any = {name: x.numpy() for name, x in numbers.items()}
    np.savez(folder / inside / "params.npz", **arrays)
    before = loaders.hf_hub_download
    loaders.hf_hub_download = lambda **_: folder / inside / "params.npz"
    try:
        config, state, _ = loaders.gemma_2_sae_huggingface_loader(
            "google/gemma-scope-2b-pt-res", str(inside), cfg_overrides={"d_in": D, "d_sae": LATENTS}
        )
    finally:
        loaders.hf_hub_download = before
    made = sae_lens.JumpReLUSAE(
        sae_lens.JumpReLUSAEConfig(d_in=D, d_sae=LATENTS, apply_b_dec_to_input=config["apply_b_dec_to_input"])
    )
    made.load_state_dict(state)
    x = rows()
    return Case({SITE: x}, [made.encode(x)], {SITE: made(x)}, inside=str(inside))


CASES: dict[str, Maker] = {
    "saelens-standard": _inference("StandardSAE"),
    "saelens-not-centred": _inference("StandardSAE", apply_b_dec_to_input=False),
    "saelens-layer-norm": _inference("StandardSAE", normalize_activations="layer_norm"),
    "saelens-length": _inference("StandardSAE", normalize_activations="constant_norm_rescale"),
    "saelens-unfolded": _unfolded,
    "saelens-heads": _heads,
    "saelens-topk": _inference("TopKSAE", k=3),
    "saelens-topk-by-norm": _inference("TopKSAE", k=3, rescale_acts_by_decoder_norm=True),
    "saelens-abstopk": _inference("AbsTopKSAE", k=3),
    "saelens-jumprelu": _inference("JumpReLUSAE"),
    "saelens-gated": _inference("GatedSAE"),
    "saelens-batchtopk": _training("BatchTopKTrainingSAE", k=3),
    "saelens-matryoshka": _training("MatryoshkaBatchTopKTrainingSAE", k=3, matryoshka_widths=[4, 8]),
    "saelens-transcoder": _inference("Transcoder"),
    "saelens-transcoder-layer-norm": _inference("Transcoder", normalize_activations="layer_norm"),
    "saelens-skip-transcoder": _inference("SkipTranscoder"),
    "saelens-jumprelu-transcoder": _inference("JumpReLUTranscoder"),
    "saelens-jumprelu-skip-transcoder": _inference("JumpReLUSkipTranscoder"),
    "gemma-scope": _gemma,
}
