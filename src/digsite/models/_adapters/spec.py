"""What digsite needs to know about an architecture: module paths, with Llama's as defaults."""

from dataclasses import dataclass

from digsite.models._adapters.layouts import Layout


@dataclass(frozen=True, kw_only=True)
class Arch:
    """Where the parts of one architecture are. Block parts are paths inside a block; q, k, v, o inside `attn`."""

    blocks: str = "model.layers"
    embed: str = "model.embed_tokens"
    embed_out: str | None = None
    """The module whose output enters the stream, where something follows the embedding (and is there)."""
    embed_multiplier: str | None = None
    """Name of the config field by which embeddings are multiplied on their way into the stream."""
    pos_embed: str | None = None
    """Learned positions; None where positions are rotary or a bias."""
    final_norm: str | None = "model.norm"
    unembed: str = "lm_head"

    norm1: str | None = "input_layernorm"
    """None where the projections read the raw stream."""
    attn: str | None = "self_attn"
    """None where no layer has attention."""
    q: str | None = "q_proj"
    """None where there is no per-head projection (latent attention, gated queries); q, k and v are then refused."""
    k: str | None = "k_proj"
    v: str | None = "v_proj"
    o: str | None = "o_proj"
    qkv: str | None = None
    """One fused projection, split by `layout`."""
    layout: Layout | None = None
    attn_out: str | None = None
    """The module whose output is added to the stream, where that is not `o` (post-norms)."""
    tapped: bool = False
    """Attention that is not on transformers' attention interface; its forward is tapped instead."""

    norm2: str | None = "post_attention_layernorm"
    """The MLP's own norm; None where it reads the attention's norm or the raw stream."""
    mlp: str | None = "mlp"
    """None where the MLP's layers sit directly in the block."""
    gate: str | None = "mlp.gate_proj"
    up: str | None = "mlp.up_proj"
    gate_up: str | None = None
    """One fused projection: gate in the first half, up in the second."""
    down: str | None = "mlp.down_proj"
    mlp_out: str | None = None
    """The module whose output is added to the stream, where that is not `mlp`."""

    parallel: bool = False
    """Attention and MLP read the same stream; there is no resid_mid."""
    post_norm: bool = False
    """The stream itself passes through norms inside the block, so resid_pre + attn.out + mlp.out is not resid_post."""
    multiplier: str | None = None
    """Name of the config field by which attn.out and mlp.out are multiplied before they are added."""
    heads_in: str = ""
    """Why there are no per-head sites, where there are none."""
