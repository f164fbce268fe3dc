"""What loading a model costs in memory, beside Hugging Face's own `from_pretrained`.

1. A model of GPT-2 small's shape (0.5 GB in float32) is saved into a temporary folder.
2. Every variant loads it in a process of its own, which first imports torch and transformers, and says how far its peak
   resident memory rises above the moment after those imports. Importing the library itself counts as its own.
3. Twice: after loading, and after a first pass over 4 × 128 tokens. The second is what one needs to work with a model,
   and what digsite is held to. The first says little: transformers maps a safetensors file into memory and lets the
   first pass read it, while digsite looks at every weight (is it finite?) before it hands the model over.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
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
    """From a folder to something that is called with ids."""
    needs: str | None = None
    target: float | None = None


def _hugging_face(folder: str) -> Any:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    return partial(model, use_cache=False)  # what an analysis needs; the others keep no KV cache either


def _digsite(folder: str, *, verify: bool) -> Any:
    import digsite

    model = digsite.load(folder, verify=verify)
    return lambda ids: model.run(ids)


def _hooked_transformer(folder: str, *, processed: bool) -> Any:
    from .peers import hooked_transformer

    return hooked_transformer(_hugging_face(folder).func, CONFIG, processed=processed)


def _bridge(folder: str) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(folder, device="cpu")


def _nnsight(folder: str) -> Any:
    from nnsight import LanguageModel

    model = LanguageModel(folder, dispatch=True, attn_implementation="eager")

    def traced(ids: Any) -> Any:
        with model.trace(ids, use_cache=False):
            logits = model.output.logits.save()
        return logits

    return traced


def _interp_engine(folder: str) -> Any:
    from interp_engine import capture, load_model

    model = load_model(folder, backend="eager", device="cpu", dtype="float32")
    return lambda ids: capture(model, ids, [])


LOADERS = {
    "huggingface": Loader("Hugging Face", "from_pretrained, model and tokenizer", _hugging_face),
    "digsite": Loader("digsite", "load, verify=False", lambda folder: _digsite(folder, verify=False), None, TARGET),
    "digsite-verified": Loader(
        "digsite", "load, contracts measured", lambda folder: _digsite(folder, verify=True), None, TARGET
    ),
    "hooked": Loader(
        "HookedTransformer",
        "no weight processing",
        lambda folder: _hooked_transformer(folder, processed=False),
        "transformer_lens",
    ),
    "hooked-processed": Loader(
        "HookedTransformer",
        "default weight processing",
        lambda folder: _hooked_transformer(folder, processed=True),
        "transformer_lens",
    ),
    "bridge": Loader("TransformerBridge", "boot_transformers", _bridge, "transformer_lens"),
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
        peaks: dict[str, list[tuple[float, float]]] = {name: [] for name in wanted}
        for _ in range(repeats):
            for name in wanted:
                peaks[name].append(_in_own_process(name, folder))
    rows = [
        _row(setting, which, wanted[name], found, peaks["huggingface"])
        for which, setting in enumerate(("loading alone", "loading and a first pass over 4 × 128 tokens"))
        for name, found in peaks.items()
    ]
    return Table(
        name="memory",
        question="How much memory does loading take, above torch and transformers alone?",
        unit="MB",
        spread="range",
        rows=rows,
        conditions=conditions(rounds=repeats, model="12 layers × 768, 0.5 GB float32"),
        left_out=[f"{needs} (not installed)" for needs in missing],
    )


def _row(setting: str, which: int, loader: Loader, found: list[tuple[float, float]], reference: list[Any]) -> Row:
    values = [pair[which] for pair in found]
    base = statistics.median(pair[which] for pair in reference)
    return Row(
        setting=setting,
        who=loader.who,
        name=loader.name,
        value=statistics.median(values),
        ratio=statistics.median(values) / base,
        low=min(values) / base,
        high=max(values) / base,
        target=loader.target if which else None,
    )


def _save_tokenizer(folder: Path) -> None:
    from .peers import tokenizer

    tokenizer(folder)


def _in_own_process(name: str, folder: str) -> tuple[float, float]:
    """How far loading, and then a first pass, push the peak above the imports, in 10^6 bytes."""
    # An empty cache, so that contracts that passed before are measured again.
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.speed.memory", name, folder],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "DIGSITE_CACHE": cache},
        )
    loaded, passed = done.stdout.split()[-2:]
    return float(loaded), float(passed)


def peak() -> float:
    """Peak resident memory; not `ru_maxrss`, in which a child process starts with what its parent had."""
    return _status("VmHWM")


def resident() -> float:
    """Resident memory now."""
    return _status("VmRSS")


def _status(entry: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(entry)) * 1024 / 1e6


if __name__ == "__main__":
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel  # noqa: F401

    torch.set_num_threads(1)
    before = peak()
    model = LOADERS[sys.argv[1]].load(sys.argv[2])
    loaded = peak()
    with torch.no_grad():
        model(torch.zeros(4, 128, dtype=torch.long))
    print(loaded - before, peak() - before)
