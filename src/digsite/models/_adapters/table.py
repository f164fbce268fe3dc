"""The table: one small entry an architecture. What depends on an instance's config is decided from that config."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from digsite.models._adapters.layouts import CONCAT, GROUPS, PER_HEAD, QUARTERS, THIRDS
from digsite.models._adapters.spec import Arch

LLAMA = Arch()
SANDWICH = replace(
    LLAMA,
    attn_out="post_attention_layernorm",
    norm2="pre_feedforward_layernorm",
    mlp_out="post_feedforward_layernorm",
)
OUTPUT_NORMS = replace(
    LLAMA,
    norm1=None,
    norm2=None,
    attn_out="post_attention_layernorm",
    mlp_out="post_feedforward_layernorm",
)
GRANITE = replace(LLAMA, multiplier="residual_multiplier", embed_multiplier="embedding_multiplier")
SHARED_NORM = replace(LLAMA, norm2=None, parallel=True)
GPT2 = Arch(
    blocks="transformer.h",
    embed="transformer.wte",
    pos_embed="transformer.wpe",
    final_norm="transformer.ln_f",
    norm1="ln_1",
    attn="attn",
    qkv="c_attn",
    layout=THIRDS,
    o="c_proj",
    norm2="ln_2",
    gate=None,
    up="mlp.c_fc",
    down="mlp.c_proj",
)
FUSED_BLOOM = Arch(
    blocks="transformer.h",
    embed="transformer.word_embeddings",
    embed_out="transformer.word_embeddings_layernorm",
    final_norm="transformer.ln_f",
    attn="self_attention",
    qkv="query_key_value",
    layout=PER_HEAD,
    o="dense",
    gate=None,
    up="mlp.dense_h_to_4h",
    down="mlp.dense_4h_to_h",
    tapped=True,
)
GATED_QUERY = "its query projection also carries an output gate"
LATENT = "its queries, keys and values are compressed (multi-head latent attention)"
MAMBA = Arch(
    blocks="backbone.layers",
    embed="backbone.embeddings",
    final_norm="backbone.norm_f",
    norm1="norm",
    attn=None,
    norm2=None,
    mlp=None,
    gate=None,
    up=None,
    down=None,
    heads_in="its blocks are state-space mixers",
)


def _gpt2(config: Any) -> Arch:
    # With this flag the model leaves the attention interface for a method of its own.
    return replace(GPT2, tapped=True) if config.reorder_and_upcast_attn else GPT2


def _gpt_neox(config: Any) -> Arch:
    return Arch(
        blocks="gpt_neox.layers",
        embed="gpt_neox.embed_in",
        final_norm="gpt_neox.final_layer_norm",
        attn="attention",
        qkv="query_key_value",
        layout=PER_HEAD,
        o="dense",
        gate=None,
        up="mlp.dense_h_to_4h",
        down="mlp.dense_4h_to_h",
        parallel=config.use_parallel_residual,
    )


def _falcon(config: Any) -> Arch:
    grouped = config.new_decoder_architecture
    two_norms = grouped and config.num_ln_in_parallel_attn == 2
    parallel = grouped or config.parallel_attn
    return replace(
        FUSED_BLOOM,
        layout=GROUPS if grouped else CONCAT if config.multi_query else PER_HEAD,
        norm1="ln_attn" if two_norms else "input_layernorm",
        norm2="ln_mlp" if two_norms else None if parallel else "post_attention_layernorm",
        parallel=parallel,
    )


def _opt(config: Any) -> Arch:
    return Arch(
        blocks="model.decoder.layers",
        embed="model.decoder.embed_tokens",
        embed_out="model.decoder.project_in",
        pos_embed="model.decoder.embed_positions",
        final_norm="model.decoder.final_layer_norm" if config.do_layer_norm_before else None,
        norm1="self_attn_layer_norm" if config.do_layer_norm_before else None,
        o="out_proj",
        norm2="final_layer_norm" if config.do_layer_norm_before else None,
        mlp=None,
        gate=None,
        up="fc1",
        down="fc2",
        mlp_out="fc2",
        post_norm=not config.do_layer_norm_before,
    )


def _stablelm(config: Any) -> Arch:
    return SHARED_NORM if config.use_parallel_residual else LLAMA


def _gpt_bigcode(config: Any) -> Arch:
    return replace(GPT2, layout=CONCAT if config.multi_query else PER_HEAD)


_NEO = replace(GPT2, qkv=None, layout=None, o="out_proj", tapped=True)

ARCHITECTURES: dict[str, Arch | Callable[[Any], Arch]] = {
    **dict.fromkeys(
        ["llama", "mistral", "ministral", "qwen2", "qwen3", "gemma", "smollm3", "olmo", "arcee", "seed_oss", "helium"],
        LLAMA,
    ),
    **dict.fromkeys(["cwm", "internlm3", "iquestcoder", "ministral3", "ernie4_5", "hunyuan_v1_dense"], LLAMA),
    **dict.fromkeys(["mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss", "olmoe", "phimoe"], LLAMA),
    "llama4_text": replace(
        LLAMA,
        mlp="feed_forward",
        gate="feed_forward.gate_proj",
        up="feed_forward.up_proj",
        down="feed_forward.down_proj",
    ),
    "granite": GRANITE,
    "granitemoe": replace(GRANITE, mlp="block_sparse_moe"),
    **dict.fromkeys(["gemma2", "gemma3_text"], SANDWICH),
    "vaultgemma": replace(LLAMA, norm2="pre_feedforward_layernorm"),
    **dict.fromkeys(["olmo2", "olmo3", "flex_olmo", "exaone4"], OUTPUT_NORMS),
    "glm": replace(LLAMA, gate=None, up=None, gate_up="mlp.gate_up_proj"),
    "glm4": replace(
        LLAMA,
        attn_out="post_self_attn_layernorm",
        gate=None,
        up=None,
        gate_up="mlp.gate_up_proj",
        mlp_out="post_mlp_layernorm",
    ),
    **dict.fromkeys(["nemotron", "jais2"], replace(LLAMA, gate=None)),
    "apertus": replace(LLAMA, norm1="attention_layernorm", norm2="feedforward_layernorm", gate=None),
    "persimmon": replace(
        LLAMA,
        final_norm="model.final_layernorm",
        qkv="query_key_value",
        layout=PER_HEAD,
        o="dense",
        gate=None,
        up="mlp.dense_h_to_4h",
        down="mlp.dense_4h_to_h",
    ),
    **dict.fromkeys(["cohere", "cohere2"], SHARED_NORM),
    "stablelm": _stablelm,
    "starcoder2": replace(LLAMA, gate=None, up="mlp.c_fc", down="mlp.c_proj"),
    "phi": replace(SHARED_NORM, o="dense", gate=None, up="mlp.fc1", down="mlp.fc2", final_norm="model.final_layernorm"),
    "phi3": replace(LLAMA, qkv="qkv_proj", layout=CONCAT, gate=None, up=None, gate_up="mlp.gate_up_proj"),
    "gpt2": _gpt2,
    "gptj": replace(_NEO, pos_embed=None, norm2=None, parallel=True, up="mlp.fc_in", down="mlp.fc_out"),
    "codegen": replace(
        _NEO,
        pos_embed=None,
        norm2=None,
        parallel=True,
        qkv="qkv_proj",
        layout=QUARTERS,
        up="mlp.fc_in",
        down="mlp.fc_out",
    ),
    "gpt_bigcode": _gpt_bigcode,
    "gpt_neo": replace(_NEO, attn="attn.attention"),
    "gpt_neox": _gpt_neox,
    "bloom": replace(FUSED_BLOOM, mlp_out="mlp.dense_4h_to_h"),
    "falcon": _falcon,
    "mpt": Arch(
        blocks="transformer.blocks",
        embed="transformer.wte",
        final_norm="transformer.norm_f",
        norm1="norm_1",
        attn="attn",
        qkv="Wqkv",
        layout=THIRDS,
        o="out_proj",
        norm2="norm_2",
        mlp="ffn",
        gate=None,
        up="ffn.up_proj",
        down="ffn.down_proj",
        mlp_out="ffn.down_proj",
        tapped=True,
    ),
    "opt": _opt,
    **dict.fromkeys(["deepseek_v2", "deepseek_v3"], replace(LLAMA, q=None, k=None, v=None, heads_in=LATENT)),
    **dict.fromkeys(["qwen3_next", "qwen3_5_text"], replace(LLAMA, q=None, k=None, v=None, heads_in=GATED_QUERY)),
    "falcon_h1": replace(
        LLAMA,
        embed_multiplier="embedding_multiplier",
        final_norm="model.final_layernorm",
        attn=None,
        norm2="pre_ff_layernorm",
        mlp="feed_forward",
        gate="feed_forward.gate_proj",
        up="feed_forward.up_proj",
        down="feed_forward.down_proj",
        heads_in="attention and a state-space mixer share its block",
    ),
    **dict.fromkeys(["mamba", "mamba2", "falcon_mamba"], MAMBA),
}


def known() -> list[str]:
    """Model types with an entry of their own."""
    return sorted(ARCHITECTURES)


def architecture(hf: Any) -> tuple[Arch, bool]:
    """The entry for a model, and whether its type is in the table (else Llama's paths are tried)."""
    config = hf.config.get_text_config()
    entry = ARCHITECTURES.get(config.model_type, LLAMA)
    arch = entry(config) if callable(entry) else entry
    if hasattr(getattr(hf, "model", None), "language_model"):  # the decoder of a model that also sees or hears
        inner = {name: getattr(arch, name) for name in ("blocks", "embed", "embed_out", "pos_embed", "final_norm")}
        paths = {name: path.replace("model.", "model.language_model.", 1) for name, path in inner.items() if path}
        arch = replace(arch, **paths)
    return arch, config.model_type in ARCHITECTURES
