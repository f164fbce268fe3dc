"""What reading activations costs, beside the model's own forward pass.

1. Two settings: the shape of GPT-2 small, where arithmetic is what one waits for, and twelve very narrow layers, where
   Python is (as it is when a GPU waits for the next small operation to be launched).
2. Every variant has a model of its own with the same random weights, in one process and one thread.
3. Results first: logits, and where they are read the residual streams, against plain Hugging Face.
4. Then interleaved rounds of processor time.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

import digsite

from .rounds import apart, interleaved
from .table import Row, Table, conditions

ATTENTION = [f"attn.{name}" for name in ["q", "k", "v", "q_rot", "k_rot", "scores", "pattern", "z", "out"]]
EVERY = ["resid_pre", "attn.norm", *ATTENTION, "mlp.in", "mlp.act", "mlp.out", "resid_post"]
PEER_TOLERANCE = 1e-4
"""Of a peer's logits: other kernels, other order of sums. digsite's must be equal to the bit."""


class Seen(NamedTuple):
    """What one call gave: logits, and the residual stream after each layer where that was read."""

    logits: Tensor
    stream: list[Tensor] | None = None


class Variant(NamedTuple):
    """One way to run the model."""

    who: str
    name: str
    call: Callable[[], Seen]
    target: float | None = None


class Setting(NamedTuple):
    """A model's shape, its input, and what digsite is held to there."""

    name: str
    config: GPT2Config
    rows: int
    columns: int
    rounds: int
    targets: dict[str, float]


SETTINGS = (
    Setting(
        "12 layers × 768 (GPT-2 small), 4 × 128 tokens",
        GPT2Config(),
        4,
        128,
        15,
        {"idle": 1.02, "resid_post": 1.05, "every": 1.25},
    ),
    Setting(
        "12 layers × 64, 1 × 8 tokens (Python-bound)",
        GPT2Config(n_embd=64, n_head=4, vocab_size=1000, n_positions=128),
        1,
        8,
        400,
        {"idle": 1.05, "resid_post": 1.15, "attention": 1.3},
    ),
)


def plain(config: GPT2Config) -> GPT2LMHeadModel:
    """A Hugging Face model with eager attention and random weights, always the same."""
    torch.manual_seed(0)
    hf = GPT2LMHeadModel._from_config(copy.deepcopy(config), attn_implementation="eager")
    return hf.eval().requires_grad_(requires_grad=False)


def forward(hf: Any, ids: Tensor) -> Seen:
    """The pass that everything is measured against."""
    return Seen(hf(ids, use_cache=False).logits)


def hooked(hf: GPT2LMHeadModel, ids: Tensor) -> Seen:
    """The residual streams by hand: the least that reading them can cost."""
    stream: list[Any] = []
    handles = [
        block.register_forward_hook(lambda module, args, output: stream.append(output)) for block in hf.transformer.h
    ]
    logits = hf(ids, use_cache=False).logits
    for handle in handles:
        handle.remove()
    return Seen(logits, stream)


def ours(setting: Setting, ids: Tensor) -> list[Variant]:
    """digsite: idle, and reading more and more."""
    model = digsite.load(plain(setting.config))
    tokens = model.tokens(ids)
    n = model.n_layers

    def reading(names: list[str]) -> Callable[[], Seen]:
        addresses = [f"layers.*.{name}" for name in names]
        return lambda: Seen(model.run(tokens, read=addresses).logits)

    def streams() -> Seen:
        run = model.run(tokens, read="layers.*.resid_post")
        return Seen(run.logits, list(run.each("layers.*.resid_post").values()))

    target = setting.targets.get
    return [
        Variant("digsite", "loaded, called directly", lambda: forward(model.hf, ids), target("idle")),
        Variant("digsite", "run, nothing read", reading([]), target("idle")),
        Variant("digsite", f"read {n} resid_post", streams, target("resid_post")),
        Variant("digsite", f"read {len(ATTENTION)} attention sites a layer", reading(ATTENTION), target("attention")),
        Variant("digsite", f"read {len(EVERY)} sites a layer", reading(EVERY), target("every")),
    ]


def measure(*, peers: bool, rounds: int | None) -> Table:
    """Runs the benchmark."""
    rows, left_out = [], []
    for setting in SETTINGS:
        ids = torch.randint(setting.config.vocab_size, (setting.rows, setting.columns))
        hf, again = plain(setting.config), plain(setting.config)
        variants = [
            Variant("Hugging Face", "forward, eager attention", partial(forward, hf, ids)),
            Variant("Hugging Face", "the same once more (noise)", partial(forward, again, ids)),
            Variant("Hugging Face", "12 forward hooks by hand", partial(hooked, again, ids)),
            *ours(setting, ids),
        ]
        if peers:
            from .peers import found

            more, left_out = found(setting.config, ids)
            variants += more
        with torch.no_grad():
            rows += _rows(setting.name, variants, hooked(hf, ids), rounds or setting.rounds)
    counts = " and ".join(str(rounds or setting.rounds) for setting in SETTINGS)
    return Table(
        name="access",
        question="What does reading activations cost beside the plain forward pass?",
        unit="ms",
        rows=rows,
        conditions=conditions(rounds=counts, time="process CPU", dtype="float32"),
        left_out=left_out,
    )


def _rows(setting: str, variants: list[Variant], wanted: Seen, rounds: int) -> list[Row]:
    differences = [_apart(variant.call(), wanted) for variant in variants]
    timings = interleaved([variant.call for variant in variants], rounds=rounds)
    return [
        Row(
            setting=setting,
            who=variant.who,
            name=variant.name,
            value=timing.ms,
            ratio=timing.ratio,
            low=timing.low,
            high=timing.high,
            apart=difference,
            tolerance=0.0 if variant.who in ("digsite", "Hugging Face") else PEER_TOLERANCE,
            target=variant.target,
        )
        for variant, timing, difference in zip(variants, timings, differences, strict=True)
    ]


def _apart(seen: Seen, wanted: Seen) -> float:
    assert wanted.stream is not None
    pairs = zip(seen.stream, wanted.stream, strict=True) if seen.stream is not None else ()
    return max(apart(seen.logits, wanted.logits), *(apart(*pair) for pair in pairs), 0.0)
