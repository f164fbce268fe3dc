"""SAELens: `cfg.json` and `sae_weights.safetensors`.

1. W_enc is [d_in, latent], W_dec [latent, d_out], W_skip [d_out, d_in] (y += W_skip x).
2. An SAE's encoder reads x - b_dec where `apply_b_dec_to_input` says so; a transcoder's never does.
3. Thresholds are on the pre-activation, with a relu: a negative one is zero. BatchTopK and Matryoshka SAEs are saved as
   jumprelu, with one threshold for all latents.
4. `rescale_acts_by_decoder_norm` (topk) chooses by, and returns, pre-activation × length of the decoder row. Read, the
   length is in the encoder and the decoder has unit rows: latents and outputs are the same.
5. `normalize_activations`: `layer_norm` and `constant_norm_rescale` are `Column.each_row`; in a transcoder they are of
   what is read only. `expected_average_only_in` is a scale that SAELens folds when a training ends; in a checkpoint
   from before that it is `activation_scaler.json` and becomes `Column.scale`. Whitening that is not folded is refused.
6. `reshape_activations: hook_z`: heads are flattened, as digsite's rows of attn.z are.
7. Files from before SAELens 6 have other names in cfg.json; `finetuning_scaling_factor` is refused unless it is 1.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import safetensors.torch
from torch import Tensor

from digsite._core.errors import LoadError, Unsupported, explain
from digsite._core.files import whole_folder
from digsite.dictionaries.activations import AbsTopK, Activation, Gated, JumpReLU, Relu, TopK
from digsite.dictionaries.config import BlockConfig, Free
from digsite.dictionaries.dictionary import Block, Dictionary
from digsite.dictionaries.exchange.assembling import Part, assembled
from digsite.dictionaries.exchange.contents import agree, expect, json_of, safetensors_of
from digsite.dictionaries.exchange.folding import folded, thresholds
from digsite.dictionaries.exchange.names import Given, from_hook, to_hook
from digsite.sites import Site

CONFIG, WEIGHTS, _SCALER = "cfg.json", "sae_weights.safetensors", "activation_scaler.json"
_KINDS = {
    "standard": "relu",
    "topk": "topk",
    "abstopk": "abstopk",
    "jumprelu": "jumprelu",
    "gated": "gated",
    "transcoder": "relu",
    "skip_transcoder": "relu",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}
_ROWS = {"layer_norm": "layer norm", "constant_norm_rescale": "length"}
_OLD_NAMES = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}


class _Said(NamedTuple):
    """What cfg.json says, in one form for all versions."""

    architecture: str
    k: int
    by_norm: bool
    centred: bool
    normalize: str
    reads: str
    writes: str
    model: str | None
    d_in: int | None
    d_sae: int | None


def recognises(path: Path) -> bool:
    """Whether this is a folder of SAELens."""
    return (path / CONFIG).is_file() and (path / WEIGHTS).is_file()


def read(path: Path, given: Given) -> Dictionary:
    """Read a folder of SAELens; see the module for what is taken as what."""
    raw, where = json_of(path / CONFIG), str(path)
    said, held = _said(raw, where), safetensors_of(path / WEIGHTS)
    for name in ("scaling_factor", "finetuning_scaling_factor"):
        if name in held and bool((held.pop(name) != 1).any()):
            _refuse(where, "it scales latents after training (finetuning_scaling_factor)")
    kind, skip = _KINDS[said.architecture], "skip" in said.architecture
    own = {"gated": ("r_mag", "b_mag"), "jumprelu": ("threshold",)}.get(kind, ())
    bias = "b_gate" if kind == "gated" else "b_enc"
    expect(held, ["W_enc", "W_dec", "b_dec", bias, *own, *(["W_skip"] if skip else [])], where)
    W_enc, W_dec, b_enc = held["W_enc"].float().T, held["W_dec"].float(), held[bias].float()
    agree(where, d_in=(said.d_in, W_enc.shape[1]), d_sae=(said.d_sae, W_enc.shape[0]))
    if said.by_norm:
        norms = W_dec.norm(dim=1).clamp_min(1e-30)
        W_enc, b_enc, W_dec = W_enc * norms[:, None], b_enc * norms, W_dec / norms[:, None]
    sae = "transcoder" not in said.architecture
    reads, writes = (given.column(said.reads, where),) * 2 if sae else given.columns(said.reads, said.writes, where)
    part = Part(
        reads=reads,
        writes=(writes,),
        W_enc=W_enc,
        b_enc=b_enc,
        W_dec=[W_dec],
        activation=_activation(kind, said.k),
        own={name: held[name].clamp_min(0) if name == "threshold" else held[name] for name in own},
        W_skip=[held["W_skip"]] if skip else [],
        centred=said.centred,
    )
    if skip and said.normalize in _ROWS:
        _refuse(where, f"its skip reads rows without the norm that its encoder sees ({said.normalize})")
    origin = {"format": "saelens", "model": given.model or said.model, "config": raw}
    each_row: Any = _ROWS.get(said.normalize, "as it is")
    scale = _scale(path, said, where)
    return assembled(
        "sae" if sae else "transcoder", [part], {writes: held["b_dec"]}, where, origin, scale=scale, each_row=each_row
    )


def write(dictionary: Dictionary, folder: Path) -> None:
    """Write one SAE or transcoder as a folder that `sae_lens.SAE.load_from_disk` reads.

    Scales are folded; batchtopk becomes jumprelu. Of a dictionary that chooses by the length of the decoder
    (`TopK(by_norm=True)`) SAELens' latents are ours times that length.
    """
    dictionary = folded(dictionary)
    block = dictionary.blocks[0]
    architecture, config, tensors = _written(dictionary, block)
    held = {name: x.detach().cpu().contiguous() for name, x in tensors.items()}
    reads, writes = dictionary.reads[0], dictionary.writes[0]
    metadata: dict[str, Any] = {"sae_lens_version": "6.0.0", "hook_name": to_hook(reads)}
    head = _head(reads)
    metadata |= {"hook_head_index": head} if head is not None else {}
    metadata |= {"hook_name_out": to_hook(writes)} if reads != writes else {}
    metadata |= {"model_name": dictionary.config.origin.get("model"), "written_by": "digsite"}
    plain = {
        "architecture": architecture,
        "d_in": tensors["W_enc"].shape[0],
        "d_sae": tensors["W_enc"].shape[1],
        "dtype": str(tensors["W_enc"].dtype).removeprefix("torch."),
        "device": "cpu",
        "reshape_activations": "hook_z" if metadata["hook_name"].endswith("hook_z") and head is None else "none",
        **config,
        "metadata": metadata,
    }
    with whole_folder(folder, marker=CONFIG) as new:
        (new / WEIGHTS).write_bytes(safetensors.torch.save(held))
        (new / CONFIG).write_text(json.dumps(plain, indent=1), encoding="utf-8")


# -- reading -----------------------------------------------------------------------------------------------------------
def _said(raw: dict[str, Any], where: str) -> _Said:
    inner = raw.get("metadata") if isinstance(raw.get("metadata"), dict) else {}
    flat = {**(inner or {}), **{name: value for name, value in raw.items() if name != "metadata"}}
    flat = {_OLD_NAMES.get(name, name): value for name, value in flat.items()}
    architecture = flat.get("architecture", "standard")
    k = flat.get("k") or (flat.get("activation_fn_kwargs") or {}).get("k")
    if flat.get("activation_fn", "relu") == "topk" and architecture in ("standard", "topk"):
        architecture = "topk"
    elif flat.get("activation_fn", "relu") not in ("relu", "topk"):
        _refuse(where, f"its activation is {flat['activation_fn']}")
    if architecture not in _KINDS:
        do = "Save a training checkpoint for inference: save_inference_model, in SAELens"
        raise Unsupported(explain(f"{where} is a {architecture} SAE, which has no equal here", possible=_KINDS, do=do))
    if _KINDS[architecture].endswith("topk") and not isinstance(k, int):
        raise LoadError(explain(f"{where} does not say its k", found=f"k={k} in {CONFIG}"))
    normalize = flat.get("normalize_activations") or "none"
    normalize = "expected_average_only_in" if normalize is True else normalize
    hook, head, out = flat.get("hook_name") or "", flat.get("hook_head_index"), flat.get("hook_name_out")
    reads = from_hook(hook)
    reads = f"{reads}[{head}]" if head is not None else reads
    sae = "transcoder" not in architecture
    return _Said(
        architecture=architecture,
        k=k or 0,
        by_norm=bool(flat.get("rescale_acts_by_decoder_norm")) and _KINDS[architecture].endswith("topk"),
        centred=bool(flat.get("apply_b_dec_to_input", True)) and sae,
        normalize=normalize,
        reads=reads,
        writes=reads if sae else from_hook(out or ""),
        model=flat.get("model_name"),
        d_in=flat.get("d_in"),
        d_sae=flat.get("d_sae"),
    )


def _activation(kind: str, k: int) -> Activation:
    plain: dict[str, Activation] = {"relu": Relu(), "jumprelu": JumpReLU(), "gated": Gated()}
    return plain.get(kind) or (TopK(k=k) if kind == "topk" else AbsTopK(k=k))


def _scale(path: Path, said: _Said, where: str) -> float:
    """Activations are divided by it (5)."""
    if said.normalize in ("none", *_ROWS):
        return 1.0
    if said.normalize != "expected_average_only_in":
        _refuse(where, f"{said.normalize} is not folded into its weights", do="Fold it in SAELens and save it again")
    if not (path / _SCALER).is_file():
        _refuse(
            where,
            f"its weights are for activations times a factor that no file holds ({said.normalize})",
            do=f"Put {_SCALER} of the training beside it, or fold the factor in SAELens "
            "(fold_activation_norm_scaling_factor) and save it again",
        )
    if "transcoder" in said.architecture:
        _refuse(where, f"what its factor means for what a transcoder writes is not said ({said.normalize})")
    held = json_of(path / _SCALER)
    if held.get("has_whitening") or not held.get("scaling_factor"):
        _refuse(where, f"{_SCALER} holds no plain factor", do="Fold it in SAELens and save it again")
    return 1 / held["scaling_factor"]


def _refuse(where: str, why: str, do: str = "") -> NoReturn:
    raise Unsupported(explain(f"{where} cannot be an equal dictionary here", found=why, do=do))


# -- writing -----------------------------------------------------------------------------------------------------------
def _written(dictionary: Dictionary, block: Block) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """Architecture, its own configuration, tensors."""
    config = block.config
    _one_plain_block(dictionary, config)
    sae, kind = config.reads == config.writes, config.activation.kind
    kind = "jumprelu" if kind == "batchtopk" else kind
    names = (
        {"relu": "standard"}.get(kind, kind)
        if sae
        else {"relu": "transcoder", "jumprelu": "jumprelu_transcoder"}.get(kind)
    )
    if config.skip and names:
        names = None if sae else names.replace("transcoder", "skip_transcoder")
    if names not in _KINDS:
        _cannot(f"{'an SAE' if sae else 'a transcoder'} with {kind}{' and a skip' * config.skip}")
    column = dictionary.config.columns[config.reads[0]]
    rows = {ours: theirs for theirs, ours in _ROWS.items()}
    if column.each_row != "as it is" and config.skip:
        _cannot("a skip beside a norm of each row")
    extra: dict[str, Any] = {
        "apply_b_dec_to_input": config.centred and sae,
        "normalize_activations": rows.get(column.each_row, "none"),
    }
    tensors = {"W_enc": block.W_enc[0].T, "W_dec": block.W_dec(config.writes[0]), "b_dec": dictionary.b_dec[0]}
    tensors["b_gate" if kind == "gated" else "b_enc"] = block.b_enc
    if kind == "gated":
        tensors |= {"r_mag": block.own("r_mag"), "b_mag": block.own("b_mag")}
    if kind == "jumprelu":
        tensors["threshold"] = thresholds(block).to(block.b_enc.dtype)
        if bool((tensors["threshold"] < 0).any()):
            _cannot("a threshold below zero, which SAELens' relu would not follow")
    if kind.endswith("topk"):
        extra |= {"k": getattr(config.activation, "k", 0)}
        extra |= {"rescale_acts_by_decoder_norm": getattr(config.activation, "by_norm", False)}
    if not sae:
        extra["d_out"] = dictionary.config.columns[config.writes[0]].width
        if dictionary.config.columns[config.writes[0]].each_row != "as it is":
            _cannot("a transcoder whose target has a norm of each row")
    if block.W_skip is not None:
        tensors["W_skip"] = block.W_skip[0]
    return str(names), extra, tensors


def _one_plain_block(dictionary: Dictionary, config: BlockConfig) -> None:
    if len(dictionary.blocks) != 1 or len(config.reads) != 1 or len(config.writes) != 1:
        _cannot(
            f"{len(dictionary.blocks)} blocks, {len(dictionary.reads)} columns read, {len(dictionary.writes)} written"
        )
    if dictionary.tokens is not None:
        _cannot("a table of tokens")
    if config.decoder != Free():
        _cannot(f"a decoder of the kind {config.decoder.kind}")


def _cannot(what: str) -> NoReturn:
    possible = "SAEs with relu, topk, abstopk, batchtopk, jumprelu, gated; transcoders with relu, batchtopk, jumprelu"
    raise Unsupported(explain("SAELens has no form for this dictionary", found=what, possible=possible))


def _head(column: str) -> int | None:
    site = Site.parse(column.rpartition(":")[2])
    return site.head if isinstance(site.head, int) else None
