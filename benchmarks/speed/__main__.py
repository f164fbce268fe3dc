"""The command: `python -m benchmarks.speed NAME [--no-peers] [--json] [--save] [--rounds N] [--shape d,m,k,B]`."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import warnings
from importlib import import_module
from pathlib import Path
from typing import Literal

import torch
import transformers
from cyclopts import App

app = App(name="benchmarks.speed", help="Speed and memory of digsite, beside plain Hugging Face and its peers.")


@app.default
def run(
    name: Literal[
        "access",
        "memory",
        "patching",
        "circuits",
        "acdc",
        "planning",
        "store",
        "sae-step",
        "steering",
        "probes",
        "lenses",
        "dig",
    ],
    *,
    peers: bool = True,
    json: bool = False,
    save: bool = False,
    rounds: int | None = None,
    shape: str | None = None,
):
    """Measure one thing and print the table.

    Args:
        name: access (reading activations), memory (loading), patching (a sweep against a loop), circuits (edge
            attribution), acdc (a search for a circuit), planning (plans of memory against measured peaks), store
            (activations written to disk, read at random, served shuffled), sae-step (a training step of a dictionary),
            steering (writing with a vector added), probes (a sweep of probes against scikit-learn one by one),
            lenses (a Jacobian lens, a comparison of lenses), dig (ten thousand runs, ten years of a log).
        peers: Measure TransformerLens, nnsight, interp-engine, SAELens and sparsify too, where they are installed.
        json: Print JSON, with the keys that README.md lists, instead of a table.
        save: Also write the table as a dated page into this folder.
        rounds: Rounds instead of the benchmark's own number.
        shape: Of sae-step: width, latents, k and rows as d,m,k,B, instead of the benchmark's own two.
    """
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore")  # of peers
    if shape is not None and name != "sae-step":
        raise SystemExit(f"--shape is of sae-step; {name} has none")
    own = {} if shape is None else {"shape": shape}
    module = import_module(f".{name.replace('-', '_')}", __package__)
    table = module.measure(peers=peers, rounds=rounds, **own)
    print(table.to_json()) if json else table.show()
    if save:
        table.save(Path(__file__).parent)


if __name__ == "__main__":
    app()
