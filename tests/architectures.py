"""Tiny random models of every architecture: no downloads, no trivial norm, bias or multiplier."""
# ruff: noqa: C408 - configs read as calls

from functools import lru_cache
from typing import Any

import torch
import transformers as T

VOCAB = 97

_SPECIAL: dict[str, Any] = dict(bos_token_id=1, eos_token_id=2)
_BASE: dict[str, Any] = dict(
    vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0, **_SPECIAL,
)  # fmt: skip
_GPT2: dict[str, Any] = dict(vocab_size=VOCAB, n_embd=64, n_layer=3, n_head=4, n_positions=64, **_SPECIAL)
_NEOX: dict[str, Any] = dict(
    vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
    max_position_embeddings=64, **_SPECIAL,
)  # fmt: skip
_OPT: dict[str, Any] = dict(
    vocab_size=VOCAB, hidden_size=64, ffn_dim=96, num_hidden_layers=3, num_attention_heads=4,
    max_position_embeddings=64, word_embed_proj_dim=64,
)  # fmt: skip
_FALCON: dict[str, Any] = dict(vocab_size=VOCAB, hidden_size=64, num_hidden_layers=3, num_attention_heads=4)
_SLIDING: dict[str, Any] = dict(head_dim=24, sliding_window=4, query_pre_attn_scalar=16)
_EXPERTS: dict[str, Any] = dict(num_experts_per_tok=2)
_MULTIPLIERS: dict[str, Any] = dict(
    residual_multiplier=0.22, embedding_multiplier=3.0, attention_multiplier=0.3, logits_scaling=2.0
)

CONFIGS: dict[str, Any] = {
    "gpt2": lambda: T.GPT2Config(**_GPT2),
    "gpt2_upcast": lambda: T.GPT2Config(**_GPT2, reorder_and_upcast_attn=True),
    "gptj": lambda: T.GPTJConfig(**_GPT2, rotary_dim=8),
    "gpt_neox": lambda: T.GPTNeoXConfig(**_NEOX),
    "gpt_neox_sequential": lambda: T.GPTNeoXConfig(**_NEOX, use_parallel_residual=False),
    "codegen": lambda: T.CodeGenConfig(**_GPT2, rotary_dim=8),
    "gpt_bigcode": lambda: T.GPTBigCodeConfig(**_GPT2),
    "gpt_bigcode_many": lambda: T.GPTBigCodeConfig(**_GPT2, multi_query=False),
    "gpt_neo": lambda: T.GPTNeoConfig(
        vocab_size=VOCAB, hidden_size=64, num_layers=4, attention_types=[[["global", "local"], 2]], num_heads=4,
        max_position_embeddings=64, intermediate_size=96, window_size=4,
    ),
    "opt": lambda: T.OPTConfig(**_OPT),
    "opt_post_norm": lambda: T.OPTConfig(**_OPT, do_layer_norm_before=False),
    "opt_projected": lambda: T.OPTConfig(
        **{**_OPT, "word_embed_proj_dim": 32}, do_layer_norm_before=False, pad_token_id=0, **_SPECIAL
    ),
    "bloom": lambda: T.BloomConfig(vocab_size=VOCAB, hidden_size=64, n_layer=3, n_head=4),
    "falcon": lambda: T.FalconConfig(**_FALCON),
    "falcon_grouped": lambda: T.FalconConfig(**_FALCON, new_decoder_architecture=True, num_kv_heads=2),
    "falcon_sequential": lambda: T.FalconConfig(**_FALCON, multi_query=False, parallel_attn=False, alibi=True),
    "mpt": lambda: T.MptConfig(vocab_size=VOCAB, d_model=64, n_layers=3, n_heads=4, max_seq_len=64),
    "llama": lambda: T.LlamaConfig(**_BASE),
    "mistral": lambda: T.MistralConfig(**_BASE),
    "mistral_sliding": lambda: T.MistralConfig(**_BASE, sliding_window=4),
    "qwen2": lambda: T.Qwen2Config(**_BASE),
    "phi": lambda: T.PhiConfig(**_BASE),
    "olmo": lambda: T.OlmoConfig(**_BASE),
    "olmo2": lambda: T.Olmo2Config(**_BASE),
    "olmo3": lambda: T.Olmo3Config(**_BASE),
    "granite": lambda: T.GraniteConfig(**_BASE, **_MULTIPLIERS),
    "granitemoe": lambda: T.GraniteMoeConfig(**_BASE, **_MULTIPLIERS, **_EXPERTS, num_local_experts=4),
    "stablelm": lambda: T.StableLmConfig(**_BASE),
    "stablelm_parallel": lambda: T.StableLmConfig(**_BASE, use_parallel_residual=True, qk_layernorm=True),
    "cohere": lambda: T.CohereConfig(**_BASE),
    "smollm3": lambda: T.SmolLM3Config(**_BASE),
    "starcoder2": lambda: T.Starcoder2Config(**_BASE),
    "phi3": lambda: T.Phi3Config(**_BASE),
    "glm": lambda: T.GlmConfig(**_BASE, head_dim=16),
    "glm4": lambda: T.Glm4Config(**_BASE, head_dim=16),
    "exaone4": lambda: T.Exaone4Config(**_BASE, sliding_window=4),
    "nemotron": lambda: T.NemotronConfig(**_BASE),
    "apertus": lambda: T.ApertusConfig(**_BASE),
    "persimmon": lambda: T.PersimmonConfig(**_BASE),
    "vaultgemma": lambda: T.VaultGemmaConfig(**_BASE, **_SLIDING),
    "llama4": lambda: T.Llama4TextConfig(
        **_BASE, num_local_experts=2, interleave_moe_layer_step=2, attention_chunk_size=4,
        intermediate_size_mlp=96,
    ),
    "qwen3": lambda: T.Qwen3Config(**_BASE, head_dim=24),
    "gemma": lambda: T.GemmaConfig(**_BASE, head_dim=24),
    "gemma2": lambda: T.Gemma2Config(**_BASE, **_SLIDING),
    "gemma3": lambda: T.Gemma3TextConfig(**_BASE, **_SLIDING),
    "gemma3_multimodal": lambda: T.Gemma3Config(
        text_config={**_BASE, **_SLIDING}, mm_tokens_per_image=1,
        vision_config=dict(
            hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28,
            patch_size=14,
        ),
    ),
    "gpt_oss": lambda: T.GptOssConfig(**_BASE, **_EXPERTS, head_dim=16, num_local_experts=4, sliding_window=4),
    "mixtral": lambda: T.MixtralConfig(**_BASE, **_EXPERTS, num_local_experts=4),
    "qwen3_moe": lambda: T.Qwen3MoeConfig(
        **{**_BASE, "head_dim": 24}, **_EXPERTS, num_experts=4, moe_intermediate_size=32
    ),
    "deepseek_v3": lambda: T.DeepseekV3Config(
        **{**_BASE, "num_key_value_heads": 4}, **_EXPERTS, n_routed_experts=4, n_group=2, topk_group=1,
        moe_intermediate_size=32, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=16,
        v_head_dim=16, n_shared_experts=1, first_k_dense_replace=1,
    ),
}  # fmt: skip
"""Architectures whose attention can be read inside."""

OTHERS: dict[str, Any] = {
    "qwen3_next": lambda: T.Qwen3NextConfig(
        **_BASE, head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32,
        shared_expert_intermediate_size=32, linear_num_value_heads=4, linear_num_key_heads=2,
        linear_key_head_dim=16, linear_value_head_dim=16,
        layer_types=["linear_attention", "full_attention", "linear_attention"],
    ),
    "qwen3_5": lambda: T.Qwen3_5TextConfig(
        **_BASE, head_dim=16, linear_num_value_heads=4, linear_num_key_heads=2, linear_key_head_dim=16,
        linear_value_head_dim=16, layer_types=["linear_attention", "full_attention", "linear_attention"],
    ),
    "falcon_h1": lambda: T.FalconH1Config(
        **_BASE, mamba_d_ssm=64, mamba_n_heads=4, mamba_d_head=16, mamba_d_state=8, mamba_n_groups=1,
        mlp_multipliers=[0.8, 0.6], embedding_multiplier=2.0,
    ),
    "mamba": lambda: T.MambaConfig(vocab_size=VOCAB, hidden_size=64, num_hidden_layers=3, state_size=8),
}  # fmt: skip
"""Blocks of other kinds: stream, norm and MLP sites only."""

UNKNOWN: dict[str, Any] = {
    "aria_text": lambda: T.AriaTextConfig(**_BASE, moe_num_experts=4, moe_topk=2),
    "exaone_moe": lambda: T.ExaoneMoeConfig(
        **_BASE, **_EXPERTS, num_experts=4, moe_intermediate_size=32, n_group=1, topk_group=1
    ),
    "minimax_m2": lambda: T.MiniMaxM2Config(**_BASE, head_dim=16, num_local_experts=4, num_experts_per_tok=2),
}  # fmt: skip
"""Architectures without an entry, to which Llama's paths happen to apply: accepted because every contract holds."""

REFUSED: dict[str, tuple[Any, str]] = {
    "bitnet": (lambda: T.BitNetConfig(**_BASE), "mixing"),  # a norm between the heads and the output projection
    "diffllama": (lambda: T.DiffLlamaConfig(**_BASE), "mixing"),  # heads subtract from each other
    "doge": (lambda: T.DogeConfig(**_BASE), "stream"),  # the skip connection is multiplied
}
"""Architectures without an entry that Llama's paths would get wrong, and a contract that says so."""


@lru_cache(maxsize=4)
def tiny(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """A tiny random Hugging Face model in eval mode, eager attention."""
    config = {**CONFIGS, **OTHERS, **UNKNOWN, **{key: make for key, (make, _) in REFUSED.items()}}[name]()
    return randomised(config, dtype)


def randomised(config: Any, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    """A random model in which no norm, bias or multiplier is trivially zero or one."""
    torch.manual_seed(seed)
    model = T.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                parameter.mul_(3.0)
    return model.to(dtype).requires_grad_(False)
