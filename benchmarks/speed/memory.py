"""What loading a model costs in memory, beside Hugging Face's own `from_pretrained`.

1. A model of GPT-2 small's shape (0.5 GB in float32) is saved into a temporary folder.
2. Every variant loads it in a process of its own, which first imports torch and transformers, and reports its peak
   resident memory and how far that is above the moment after those imports.
3. The ratio is of the second number, so that imports of torch do not hide a difference; importing the library itself
   counts as its own.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from .access import SETTINGS, plain
from .table import Row, Table, conditions

TARGET = 1.05
CONFIG = SETTINGS[0].config


class Loader(NamedTuple):
    """One way to load a folder."""

    who: str
    name: str
    load: Callable[[str], Any]
    needs: str | None = None
    target: float | None = None


def _hugging_face(folder: str) -> Any:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)


def _digsite(folder: str, *, verify: bool) -> Any:
    import digsite

    return digsite.load(folder, verify=verify)


def _hooked_transformer(folder: str, *, processed: bool) -> Any:
    from .peers import hooked_transformer

    return hooked_transformer(_hugging_face(folder)[1], CONFIG, processed=processed)


def _bridge(folder: str) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(folder, device="cpu")


def _nnsight(folder: str) -> Any:
    from nnsight import LanguageModel

    return LanguageModel(folder, dispatch=True)


def _interp_engine(folder: str) -> Any:
    from interp_engine import load_model

    return load_model(folder, backend="eager", device="cpu", dtype="float32")


LOADERS = {
    "huggingface": Loader("Hugging Face", "from_pretrained, model and tokenizer", _hugging_face),
    "digsite": Loader("digsite", "load, verify=False", lambda folder: _digsite(folder, verify=False), None, TARGET),
    "digsite-verified": Loader(
        "digsite", "load, contracts measured", lambda folder: _digsite(folder, verify=True), None, TARGET
    ),
    "hooked": Loader(
        "TransformerLens HookedTransformer",
        "no weight processing",
        lambda folder: _hooked_transformer(folder, processed=False),
        "transformer_lens",
    ),
    "hooked-processed": Loader(
        "TransformerLens HookedTransformer",
        "default weight processing",
        lambda folder: _hooked_transformer(folder, processed=True),
        "transformer_lens",
    ),
    "bridge": Loader("TransformerLens TransformerBridge", "boot_transformers", _bridge, "transformer_lens"),
    "nnsight": Loader("nnsight", "LanguageModel(dispatch=True)", _nnsight, "nnsight"),
    "interp-engine": Loader("interp-engine", 'load_model(backend="eager")', _interp_engine, "interp_engine"),
}


def measure(*, peers: bool, rounds: int | None) -> Table:
    """Runs the benchmark."""
    wanted = {name: loader for name, loader in LOADERS.items() if peers or loader.needs is None}
    missing = sorted({loader.needs for loader in wanted.values() if loader.needs and find_spec(loader.needs) is None})
    wanted = {name: loader for name, loader in wanted.items() if loader.needs not in missing}
    repeats = rounds or 5
    with tempfile.TemporaryDirectory() as folder:
        plain(CONFIG).save_pretrained(folder)
        _save_tokenizer(Path(folder))
        peaks: dict[str, list[float]] = {name: [] for name in wanted}
        for _ in range(repeats):
            for name in wanted:
                peaks[name].append(_in_own_process(name, folder))
    reference = statistics.median(peaks["huggingface"])
    rows = []
    for name, loader in wanted.items():
        value = statistics.median(peaks[name])
        rows.append(
            Row(
                setting="12 layers × 768 (GPT-2 small), 0.5 GB of float32 weights in a folder",
                who=loader.who,
                name=loader.name,
                value=value,
                ratio=value / reference,
                low=min(peaks[name]) / reference,
                high=max(peaks[name]) / reference,
                target=loader.target,
            )
        )
    return Table(
        name="memory",
        question="How much memory does loading take, above torch and transformers alone?",
        unit="MB",
        spread="range",
        rows=rows,
        conditions=conditions(rounds=repeats, memory="peak resident set above the imports"),
        left_out=[f"{needs} (not installed)" for needs in missing],
    )


def _save_tokenizer(folder: Path) -> None:
    from .peers import tokenizer

    tokenizer(folder)


def _in_own_process(name: str, folder: str) -> float:
    """Peak resident memory of one load above the imports, in 10^6 bytes."""
    # An empty cache, so that contracts that passed before are measured again.
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.speed.memory", name, folder],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "XDG_CACHE_HOME": cache},
        )
    return float(done.stdout.split()[-1])


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel  # noqa: F401

    torch.set_num_threads(1)
    before = _peak()
    loaded = LOADERS[sys.argv[1]].load(sys.argv[2])
    print(_peak() - before)
