"""Tiny random models of every architecture: no downloads, no trivial norm, bias or multiplier."""

from functools import lru_cache
from typing import Any

import torch
import transformers as T

VOCAB = 97

_SPECIAL = dict(bos_token_id=1, eos_token_id=2)
_BASE = dict(
    vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0, **_SPECIAL,
)  # fmt: skip
_GPT2 = dict(vocab_size=VOCAB, n_embd=64, n_layer=3, n_head=4, n_positions=64, **_SPECIAL)
_NEOX = dict(
    vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
    max_position_embeddings=64, **_SPECIAL,
)  # fmt: skip
_OPT = dict(
    vocab_size=VOCAB, hidden_size=64, ffn_dim=96, num_hidden_layers=3, num_attention_heads=4,
    max_position_embeddings=64, word_embed_proj_dim=64,
)  # fmt: skip
_FALCON = dict(vocab_size=VOCAB, hidden_size=64, num_hidden_layers=3, num_attention_heads=4)
_SLIDING = dict(head_dim=24, sliding_window=4, query_pre_attn_scalar=16)
_EXPERTS = dict(num_experts_per_tok=2)

CONFIGS: dict[str, Any] = {
    "gpt2": lambda: T.GPT2Config(**_GPT2),
    "gpt2_upcast": lambda: T.GPT2Config(**_GPT2, reorder_and_upcast_attn=True),
    "gptj": lambda: T.GPTJConfig(**_GPT2, rotary_dim=8),
    "gpt_neox": lambda: T.GPTNeoXConfig(**_NEOX),
    "gpt_neox_sequential": lambda: T.GPTNeoXConfig(**_NEOX, use_parallel_residual=False),
    "gpt_neo": lambda: T.GPTNeoConfig(
        vocab_size=VOCAB, hidden_size=64, num_layers=4, attention_types=[[["global", "local"], 2]], num_heads=4,
        max_position_embeddings=64, intermediate_size=96, window_size=4,
    ),
    "opt": lambda: T.OPTConfig(**_OPT),
    "opt_post_norm": lambda: T.OPTConfig(**_OPT, do_layer_norm_before=False),
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
    "granite": lambda: T.GraniteConfig(
        **_BASE, residual_multiplier=0.22, embedding_multiplier=3.0, attention_multiplier=0.3, logits_scaling=2.0
    ),
    "stablelm": lambda: T.StableLmConfig(**_BASE),
    "stablelm_parallel": lambda: T.StableLmConfig(**_BASE, use_parallel_residual=True, qk_layernorm=True),
    "cohere": lambda: T.CohereConfig(**_BASE),
    "smollm3": lambda: T.SmolLM3Config(**_BASE),
    "starcoder2": lambda: T.Starcoder2Config(**_BASE),
    "phi3": lambda: T.Phi3Config(**_BASE),
    "qwen3": lambda: T.Qwen3Config(**_BASE, head_dim=24),
    "gemma": lambda: T.GemmaConfig(**_BASE, head_dim=24),
    "gemma2": lambda: T.Gemma2Config(**_BASE, **_SLIDING),
    "gemma3": lambda: T.Gemma3TextConfig(**_BASE, **_SLIDING),
    "gpt_oss": lambda: T.GptOssConfig(**_BASE, **_EXPERTS, head_dim=16, num_local_experts=4, sliding_window=4),
    "mixtral": lambda: T.MixtralConfig(**_BASE, **_EXPERTS, num_local_experts=4),
    "qwen3_moe": lambda: T.Qwen3MoeConfig(**_BASE, **_EXPERTS, head_dim=24, num_experts=4, moe_intermediate_size=32),
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
    "falcon_h1": lambda: T.FalconH1Config(
        **_BASE, mamba_d_ssm=64, mamba_n_heads=4, mamba_d_head=16, mamba_d_state=8, mamba_n_groups=1,
    ),
    "mamba": lambda: T.MambaConfig(vocab_size=VOCAB, hidden_size=64, num_hidden_layers=3, state_size=8),
}  # fmt: skip
"""Blocks of other kinds: stream, norm and MLP sites only."""

UNKNOWN: dict[str, Any] = {
    "hunyuan_v1_dense": lambda: T.HunYuanDenseV1Config(**_BASE, head_dim=16),
    "ernie4_5": lambda: T.Ernie4_5Config(**_BASE),
    "glm4": lambda: T.Glm4Config(**_BASE, head_dim=16),
}
"""Architectures without an entry: tried with Llama's paths, accepted only if every contract holds."""


@lru_cache(maxsize=4)
def tiny(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """A tiny random Hugging Face model in eval mode, eager attention."""
    config = {**CONFIGS, **OTHERS, **UNKNOWN}[name]()
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
