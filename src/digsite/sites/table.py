"""The table of sites: every place in a decoder that can be read or edited, its axes and its TransformerLens name."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class SiteKind:
    """One kind of site: what the tensor there means and which axes it has.

    Attributes:
        name: The address without layer and head, such as `attn.z`.
        per_layer: Whether every layer has one.
        axes: The axis words in order; `1` is an axis of length one.
        transformer_lens: The name of TransformerLens' hook inside its block (or model), None where it has none.
            Names that differ in a gated MLP are in `GATED`.
        meaning: One line for a scientist.
    """

    name: str
    per_layer: bool
    axes: tuple[str, ...]
    transformer_lens: str | None
    meaning: str

    @property
    def head_axis(self) -> int | None:
        """Where the heads are counted, None for a site without heads."""
        return next((index for index, axis in enumerate(self.axes) if axis in ("head", "kv_head")), None)


_STREAM = ("batch", "pos", "d_model")
_SCALE = ("batch", "pos", "1")
_HEAD_STREAM = ("batch", "pos", "head", "d_model")
_KV_STREAM = ("batch", "pos", "kv_head", "d_model")
_HEAD = ("batch", "pos", "head", "d_head")
_KV = ("batch", "pos", "kv_head", "d_head")
_PAIRS = ("batch", "head", "dst", "src")
_MLP = ("batch", "pos", "d_mlp")

_LAYER: tuple[tuple[str, tuple[str, ...], str, str], ...] = (
    ("resid_pre", _STREAM, "hook_resid_pre", "the residual stream where the layer starts"),
    ("resid_mid", _STREAM, "hook_resid_mid", "the stream between attention and MLP: resid_pre + attn.out"),
    ("resid_post", _STREAM, "hook_resid_post", "the stream where the layer ends"),
    ("attn.norm", _STREAM, "ln1.hook_normalized", "the normalised stream that attention's projections consume"),
    ("attn.norm.scale", _SCALE, "ln1.hook_scale", "what attention's norm divides the stream by"),
    ("attn.q_in", _HEAD_STREAM, "hook_q_input", "the stream as each head's query reads it, before the norm"),
    ("attn.k_in", _KV_STREAM, "hook_k_input", "the stream as each head's key reads it, before the norm"),
    ("attn.v_in", _KV_STREAM, "hook_v_input", "the stream as each head's value reads it, before the norm"),
    ("attn.q", _HEAD, "attn.hook_q", "queries as projected, before any query norm and rotation"),
    ("attn.k", _KV, "attn.hook_k", "keys as projected, before any key norm and rotation"),
    ("attn.v", _KV, "attn.hook_v", "values as projected"),
    ("attn.q_rot", _HEAD, "attn.hook_rot_q", "queries as they meet the keys, after norm and rotation"),
    ("attn.k_rot", _KV, "attn.hook_rot_k", "keys as they meet the queries, after norm and rotation"),
    ("attn.scores", _PAIRS, "attn.hook_attn_scores", "attention logits after scale and mask, before the softmax"),
    ("attn.pattern", _PAIRS, "attn.hook_pattern", "attention weights: how much dst takes from src"),
    ("attn.z", _HEAD, "attn.hook_z", "each head's values mixed by its pattern, before W_O"),
    ("attn.result", _HEAD_STREAM, "attn.hook_result", "what each head contributes to attn.out: z @ W_O"),
    ("attn.out", _STREAM, "hook_attn_out", "what attention adds to the stream"),
    ("mlp.in", _STREAM, "hook_mlp_in", "the stream as the MLP reads it, before the norm"),
    ("mlp.norm", _STREAM, "ln2.hook_normalized", "the normalised stream that the MLP's projections consume"),
    ("mlp.norm.scale", _SCALE, "ln2.hook_scale", "what the MLP's norm divides the stream by"),
    ("mlp.gate", _MLP, "", "what the nonlinearity of a gated MLP is applied to"),
    ("mlp.up", _MLP, "mlp.hook_pre", "neurons before the nonlinearity; in a gated MLP the factor without one"),
    ("mlp.act", _MLP, "mlp.hook_post", "neurons as the down projection consumes them"),
    ("mlp.out", _STREAM, "hook_mlp_out", "what the MLP adds to the stream"),
)
_GLOBAL: tuple[tuple[str, tuple[str, ...], str, str], ...] = (
    ("embed", _STREAM, "hook_embed", "token embeddings as they enter the stream"),
    ("pos_embed", _STREAM, "hook_pos_embed", "learned position embeddings as they enter the stream"),
    ("final.norm", _STREAM, "ln_final.hook_normalized", "the normalised last stream that the unembedding consumes"),
    ("final.norm.scale", _SCALE, "ln_final.hook_scale", "what the final norm divides the last stream by"),
    ("logits", ("batch", "pos", "vocab"), "", "the model's output, after any final scale and softcap"),
)

SITES: Mapping[str, SiteKind] = MappingProxyType(
    {
        name: SiteKind(name, rows is _LAYER, axes, hook or None, meaning)
        for rows in (_LAYER, _GLOBAL)
        for name, axes, hook, meaning in rows
    }
)
"""Every kind of site by its name. A model may lack some; it says which and why."""

GATED: Mapping[str, str] = MappingProxyType({"mlp.gate": "mlp.hook_pre", "mlp.up": "mlp.hook_pre_linear"})
"""The hooks that TransformerLens names otherwise in a gated MLP: there `hook_pre` is the gate."""


def transformer_lens_hooks(*, gated: bool | None) -> dict[str, str]:
    """Site names and the hooks that TransformerLens has for them; hooks of a layer lack their `blocks.<layer>.`.

    Args:
        gated: Whether the model's MLPs are gated (SwiGLU, GeGLU); None where no model is known, and then the hooks
            whose meaning depends on it are left out.
    """
    plain = {name: kind.transformer_lens for name, kind in SITES.items() if kind.transformer_lens}
    if gated is None:
        return {name: hook for name, hook in plain.items() if name not in GATED}
    return {**plain, **GATED} if gated else plain
