"""`python -m benchmarks.exchange.saebench`: SAEBench on a dictionary here, and on the same in SAELens.

1. A random TransformerLens model and random tokens stand in for a model and a data set, which SAEBench would download.
2. `run_evals` (all of its metrics) takes `saebench_view(dictionary)`, and SAELens' reading of the same dictionary.
3. Both must give the same numbers, and SAEBench must be able to save ours.
"""

import sys
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from benchmarks.exchange.saelens import load

from digsite.dictionaries import TopK, initialise, sae, saebench_view, write_dictionary

WIDTH, CONTEXT = 32, 32
EVERYTHING = (
    "compute_kl",
    "compute_ce_loss",
    "compute_l2_norms",
    "compute_sparsity_metrics",
    "compute_variance_metrics",
    "compute_featurewise_density_statistics",
    "compute_featurewise_weight_based_metrics",
)


class _Tokenizer:
    """What SAEBench asks a tokenizer for."""

    bos_token_id, eos_token_id, pad_token_id, sep_token_id = 0, 1, 2, None
    name_or_path, padding_side = "tiny", "right"


def evaluated(model: Any, which: Any, tokens: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """All metrics of SAEBench's core evaluation."""
    from sae_bench.evals.core import main as core
    from sae_bench.evals.core.eval_config import CoreEvalConfig
    from sae_lens.training.activations_store import ActivationsStore

    store = ActivationsStore(
        model=model,
        dataset=tokens,
        d_in=WIDTH,
        hook_name=which.cfg.hook_name,
        hook_head_index=None,
        context_size=CONTEXT,
        prepend_bos=False,
        streaming=False,
        store_batch_size_prompts=8,
        train_batch_size_tokens=64,
        n_batches_in_buffer=4,
        total_training_tokens=10**6,
        normalize_activations="none",
        device=torch.device("cpu"),
        dtype="float32",
    )
    config = CoreEvalConfig(
        model_name="tiny",
        batch_size_prompts=4,
        n_eval_reconstruction_batches=2,
        n_eval_sparsity_variance_batches=2,
        context_size=CONTEXT,
        dataset="none",
        llm_dtype="float32",
        **dict.fromkeys(EVERYTHING, True),
    )
    numbers, features = core.run_evals(which, store, model, config, ignore_tokens={0, 1, 2})
    numbers["misc_metrics"] = core.calculate_misc_metrics(features)
    if hasattr(which, "dictionary"):
        with tempfile.TemporaryDirectory() as place:
            result = {
                "eval_cfg": config,
                "metrics": numbers,
                "feature_metrics": features,
                "sae_id": "a",
                "sae_set": "b",
            }
            core.save_single_eval_result(result, "id", "version", "hash", str(Path(place) / "a.json"), which)
    return {name: value for group in numbers.values() for name, value in group.items()}, features


def main() -> None:
    """Print both; fail where they differ."""
    warnings.simplefilter("ignore")
    import datasets
    from sae_bench.sae_bench_utils.general_utils import load_and_format_sae
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    torch.manual_seed(0)
    model = HookedTransformer(
        HookedTransformerConfig(
            n_layers=2, d_model=WIDTH, n_ctx=CONTEXT, d_head=8, n_heads=4, d_vocab=50, act_fn="relu", seed=0
        )
    )
    fake: Any = _Tokenizer()
    model.tokenizer = fake
    tokens = datasets.Dataset.from_dict({"tokens": torch.randint(3, 50, (64, CONTEXT)).tolist()})
    dictionary = initialise(sae({"layers.1.resid_post": WIDTH}, 128, TopK(k=4)), seed=0).eval()
    dictionary.config = replace(dictionary.config, origin={"model": "tiny"})
    view = saebench_view(dictionary, model_name="tiny")
    load_and_format_sae("ours", view, "cpu")  # what SAEBench does first with an object
    with tempfile.TemporaryDirectory() as place:
        peer = load(write_dictionary(dictionary, Path(place) / "d", "saelens"))
    load_and_format_sae("theirs", peer, "cpu")
    ours, features = evaluated(model, view.to(device="cpu", dtype=torch.float32), tokens)
    theirs, their_features = evaluated(model, peer, tokens)
    for name, value in ours.items():
        print(f"{name:36} {value:12.5f} {theirs[name]:12.5f}")
    apart = max(abs(value - theirs[name]) / max(1.0, abs(theirs[name])) for name, value in ours.items())
    per_latent = max(
        float((torch.tensor(x) - torch.tensor(their_features[name])).abs().max()) for name, x in features.items()
    )
    print(f"largest difference: {apart:.1e}, of a latent's metrics: {per_latent:.1e}")
    sys.exit(None if max(apart, per_latent) < 1e-4 else "the numbers differ")


if __name__ == "__main__":
    main()
