"""The same passes through the libraries that people use today; one that is not installed is left out, and said so.

Each gets the same random weights, float32, eager attention, no weight processing, and the fastest call that its own
documentation gives for the job.
"""

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import AutoTokenizer, GPT2Config, LlamaConfig, PreTrainedTokenizerFast

from .access import Seen, Variant, plain

Found = tuple[list[Variant], list[str]]


def found(config: GPT2Config, ids: Tensor) -> Found:
    """The variants of every peer that can be imported, and the names of those that cannot, with the reason."""
    variants, left_out = [], []
    for name, make in PEERS.items():
        try:
            variants += make(config, ids)
        except ImportError as error:
            left_out.append(f"{name} ({error})")
    return variants, left_out


def tokenizer(folder: Path) -> Any:
    """A tokenizer of two words, saved and loaded: some peers refuse a model without one."""
    words = Tokenizer(models.WordLevel({"<eos>": 0, "a": 1}, unk_token="<eos>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    special = dict.fromkeys(("eos_token", "bos_token", "pad_token"), "<eos>")
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def hooked_transformer(hf: Any, config: GPT2Config, *, processed: bool = False) -> Any:
    """TransformerLens' own implementation with the weights of a Hugging Face GPT-2."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions.gpt2 import convert_gpt2_weights

    shape = HookedTransformerConfig(
        n_layers=config.n_layer,
        d_model=config.n_embd,
        n_heads=config.n_head,
        d_head=config.n_embd // config.n_head,
        d_mlp=4 * config.n_embd,
        n_ctx=config.n_positions,
        d_vocab=config.vocab_size,
        act_fn=config.activation_function,
        normalization_type="LNPre" if processed else "LN",
        eps=config.layer_norm_epsilon,
        original_architecture="GPT2LMHeadModel",
        device="cpu",
    )
    model = HookedTransformer(shape)
    model.load_and_process_state_dict(
        convert_gpt2_weights(hf, shape),
        fold_ln=processed,
        center_writing_weights=processed,
        center_unembed=processed,
        fold_value_biases=processed,
    )
    return model.eval().requires_grad_(requires_grad=False)


def hooked_llama(hf: Any, config: LlamaConfig) -> Any:
    """TransformerLens' own implementation with the weights of a Hugging Face Llama: every query head reads its keys and
    values for itself, which EAP-IG needs."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions.llama import convert_llama_weights

    d_head = config.hidden_size // config.num_attention_heads
    shape = HookedTransformerConfig(
        n_layers=config.num_hidden_layers,
        d_model=config.hidden_size,
        n_heads=config.num_attention_heads,
        n_key_value_heads=config.num_key_value_heads,
        ungroup_grouped_query_attention=True,
        d_head=d_head,
        d_mlp=config.intermediate_size,
        n_ctx=1024,
        d_vocab=config.vocab_size,
        act_fn=config.hidden_act,
        gated_mlp=True,
        normalization_type="RMS",
        final_rms=True,
        eps=config.rms_norm_eps,
        positional_embedding_type="rotary",
        rotary_dim=d_head,
        rotary_base=10_000,
        original_architecture="LlamaForCausalLM",
        device="cpu",
    )
    model = HookedTransformer(shape)
    model.load_and_process_state_dict(
        convert_llama_weights(hf, shape),
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    return model.eval().requires_grad_(requires_grad=False)


def _transformer_lens(who: str, model: Any, ids: Tensor) -> list[Variant]:
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(model.cfg.n_layers)]

    def cached(wanted: Callable[[str], bool] | None) -> Seen:
        logits, cache = model.run_with_cache(ids, names_filter=wanted)
        return Seen(logits, [cache[name] for name in names])

    wanted = set(names)
    sites = len(model.run_with_cache(ids)[1])
    return [
        Variant(who, "forward", lambda: Seen(model(ids))),
        Variant(who, "cache resid_post", lambda: cached(wanted.__contains__)),
        Variant(who, f"cache all ({sites} entries)", lambda: cached(None)),
    ]


def _hooked_transformer(config: GPT2Config, ids: Tensor) -> list[Variant]:
    return _transformer_lens("HookedTransformer", hooked_transformer(plain(config), config), ids)


def _bridge(config: GPT2Config, ids: Tensor) -> list[Variant]:
    from transformer_lens.model_bridge import TransformerBridge

    with tempfile.TemporaryDirectory() as folder:
        words = tokenizer(Path(folder))
        model = TransformerBridge.boot_transformers(folder, hf_model=plain(config), tokenizer=words, device="cpu")
    return _transformer_lens("TransformerBridge", model, ids)


def _nnsight(config: GPT2Config, ids: Tensor) -> list[Variant]:
    import nnsight

    model = nnsight.NNsight(plain(config))

    def streams() -> Seen:
        with model.trace(ids, use_cache=False):
            stream = nnsight.save([block.output for block in model.transformer.h])
            logits = model.output.logits.save()
        return Seen(logits, stream)

    def everything() -> Seen:
        with model.trace(ids, use_cache=False) as tracer:
            cache = tracer.cache()  # noqa: F841 - held until the call ends, as a user would
            logits = model.output.logits.save()
        return Seen(logits)

    return [
        Variant("nnsight", "trace resid_post", streams),
        Variant("nnsight", "cache all modules", everything),
    ]


def _interp_engine(config: GPT2Config, ids: Tensor) -> list[Variant]:
    from interp_engine import Address, EagerModel, capture

    with tempfile.TemporaryDirectory() as folder:
        words = tokenizer(Path(folder))
    hf = copy.deepcopy(plain(config))
    model = EagerModel("gpt2-shaped", hf_model=hf, tokenizer=words, device="cpu")
    points = [Address("resid_post", layer) for layer in range(config.n_layer)]

    def streams() -> Seen:
        cache = capture(model, ids, points)
        return Seen(cache.output.logits, [cache[point] for point in points])  # pyright: ignore[reportAttributeAccessIssue]

    return [Variant("interp-engine", "capture resid_post", streams)]


PEERS: dict[str, Callable[[GPT2Config, Tensor], list[Variant]]] = {
    "HookedTransformer": _hooked_transformer,
    "TransformerBridge": _bridge,
    "nnsight": _nnsight,
    "interp-engine": _interp_engine,
}
