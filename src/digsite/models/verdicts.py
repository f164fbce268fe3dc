"""Verdicts of contracts that were checked before, so that a model is verified once and not at every load.

A verdict belongs to everything that could change it: the architecture's table entry, the config apart from sizes and
names, dtype, kind of device, attention, adapters, and the versions of digsite, transformers and torch.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers

from digsite._core.files import write_whole
from digsite._core.version import __version__

_SIZES_AND_NAMES = {
    "_name_or_path", "name_or_path", "transformers_version", "architectures", "auto_map", "dtype", "torch_dtype",
    "use_cache", "initializer_range", "task_specific_params", "id2label", "label2id",
    "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id",
    "vocab_size", "hidden_size", "n_embd", "d_model", "intermediate_size", "moe_intermediate_size", "ffn_dim",
    "n_inner", "num_hidden_layers", "n_layer", "n_layers", "num_layers",
    "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len",
}  # fmt: skip


def key(model: Any) -> str:
    """Sixteen hex digits over everything that a verdict depends on."""
    config = model.hf.config.get_text_config()
    facts = {name: _steady(value) for name, value in config.to_dict().items() if name not in _SIZES_AND_NAMES}
    entry = {name: _steady(value) for name, value in asdict(model.anatomy.arch).items() if name != "layout"}
    layout = model.anatomy.arch.layout
    parts = {
        "config": facts,
        "entry": entry,
        "layout": None if layout is None else layout.name,
        "class": type(model.hf).__name__,
        "modules": sorted({f"{type(module).__module__}.{type(module).__name__}" for module in model.hf.modules()}),
        "attention": model.attention,
        "dtype": str(model.dtype),
        "device": model.device.type,
        "versions": [__version__, transformers.__version__, torch.__version__],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def passed(key: str) -> list[str] | None:
    """The sites to snapshot in a model that passed before; None where no verdict is known."""
    known = _read().get(key)
    return known["snapshots"] if isinstance(known, dict) and isinstance(known.get("snapshots"), list) else None


def remember(key: str, snapshots: Iterable[str]) -> None:
    """Keeps a passed verdict. A place that cannot be written only means that the next load verifies again."""
    try:
        write_whole(_place(), json.dumps({**_read(), key: {"snapshots": list(snapshots)}}, indent=1, sort_keys=True))
    except OSError:
        return


def _place() -> Path:
    own = os.environ.get("DIGSITE_CACHE")
    if own:
        return Path(own) / "contracts.json"
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "digsite" / "contracts.json"


def _read() -> dict[str, Any]:
    try:
        found = json.loads(_place().read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _steady(value: Any) -> Any:
    """A value that does not depend on how many layers there are, as JSON."""
    if isinstance(value, list | tuple):
        return sorted({json.dumps(_steady(item), sort_keys=True) for item in value})
    if isinstance(value, dict):
        return {str(name): _steady(item) for name, item in value.items()}
    return value if isinstance(value, str | int | float | bool | None) else str(value)
