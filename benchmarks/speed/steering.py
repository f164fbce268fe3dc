"""What it costs to steer while a model writes, beside the model writing by itself.

1. Two settings: the shape of GPT-2 small, and twelve very narrow layers, where Python is what one waits for.
2. One vector is added to the stream after layer 6 at every token, those that are written included, with a KV cache.
3. Results first: the logits of every step, against a forward hook by hand; what writes unsteered, against Hugging Face.
4. Then interleaved rounds of processor time.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

import digsite

from .access import plain
from .rounds import apart, interleaved
from .table import Row, Table, conditions

LAYER = 6
TARGET = 1.1
TOLERANCE = 1e-4


class Setting(NamedTuple):
    """A model's shape, what it reads, how much it writes."""

    name: str
    config: GPT2Config
    rows: int
    columns: int
    new: int
    rounds: int


SETTINGS = (
    Setting("12 layers × 768 (GPT-2 small), 2 × 16 tokens, 12 written", GPT2Config(), 2, 16, 12, 9),
    Setting(
        "12 layers × 64, 1 × 8 tokens, 32 written (Python-bound)",
        GPT2Config(n_embd=64, n_head=4, vocab_size=1000, n_positions=128),
        1,
        8,
        32,
        40,
    ),
)


class Variant(NamedTuple):
    """One way to write."""

    who: str
    name: str
    call: Callable[[], Tensor]
    steered: bool
    target: float | None = None


def written(hf: Any, ids: Tensor, new: int) -> Tensor:
    """Hugging Face's own loop; the logits of every step."""
    made = hf.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new,
        min_new_tokens=new,
        do_sample=False,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return torch.stack(made.logits, 1)


def by_hand(hf: GPT2LMHeadModel, vector: Tensor, ids: Tensor, new: int) -> Tensor:
    """One forward hook: the least that steering can cost."""

    def hook(module: Any, args: Any, output: Any) -> Any:
        return (output[0] + vector, *output[1:]) if isinstance(output, tuple) else output + vector

    handle = hf.transformer.h[LAYER].register_forward_hook(hook)
    try:
        return written(hf, ids, new)
    finally:
        handle.remove()


def references(setting: Setting, vector: Tensor, ids: Tensor) -> list[Variant]:
    """Hugging Face, unsteered twice, and steered by hand."""
    hf, again, new = plain(setting.config), plain(setting.config), setting.new
    return [
        Variant("Hugging Face", "generate", lambda: written(hf, ids, new), steered=False),
        Variant("Hugging Face", "the same once more (noise)", lambda: written(again, ids, new), steered=False),
        Variant("Hugging Face", "a hook by hand", lambda: by_hand(again, vector, ids, new), steered=True),
    ]


def ours(setting: Setting, vector: Tensor, ids: Tensor) -> list[Variant]:
    """digsite, unsteered and steered."""
    model = digsite.load(plain(setting.config))
    tokens = model.tokens(ids)
    every = digsite.add(f"layers.{LAYER}.resid_post", vector)
    part = digsite.add(f"layers.{LAYER}.resid_post", vector, at=slice(0, None))

    def write(*edits: digsite.Edit) -> Tensor:
        return model.generate(tokens, max_new_tokens=setting.new, edits=edits, logits=True, stop_at=None).logits

    return [
        Variant("digsite", "generate", write, steered=False, target=TARGET),
        Variant("digsite", "steered at every token", lambda: write(every), steered=True, target=TARGET),
        Variant("digsite", "steered from a position on", lambda: write(part), steered=True, target=TARGET),
    ]


def _repeng(setting: Setting, vector: Tensor, ids: Tensor) -> Variant:
    from repeng import ControlModel

    controlled = ControlModel(plain(setting.config), [LAYER])
    controlled.set_raw_control({LAYER: vector})
    return Variant("repeng", "ControlModel.generate", lambda: written(controlled, ids, setting.new), steered=True)


def _steering_vectors(setting: Setting, vector: Tensor, ids: Tensor) -> Variant:
    from steering_vectors import SteeringVector

    hf, one = plain(setting.config), SteeringVector({LAYER: vector})

    def call() -> Tensor:
        with one.apply(hf):
            return written(hf, ids, setting.new)

    return Variant("steering-vectors", "apply, generate", call, steered=True)


PEERS = {"repeng": _repeng, "steering-vectors": _steering_vectors}


def measure(*, peers: bool, rounds: int | None) -> Table:
    """Runs the benchmark."""
    rows, left_out = [], {}
    for setting in SETTINGS:
        torch.manual_seed(1)
        ids = torch.randint(1, setting.config.vocab_size - 1, (setting.rows, setting.columns))
        vector = torch.randn(setting.config.n_embd)
        variants = [*references(setting, vector, ids), *ours(setting, vector, ids)]
        for name, make in PEERS.items() if peers else ():
            try:
                variants.append(make(setting, vector, ids))
            except ImportError as error:
                left_out[name] = f"{name} ({error})"
        with torch.no_grad():
            wanted = {steered: variants[2 * steered].call() for steered in (False, True)}
            differences = [apart(one.call(), wanted[one.steered]) for one in variants]
            times = interleaved([one.call for one in variants], rounds=rounds or setting.rounds, warm=1)
        rows += [
            Row(
                setting=setting.name,
                who=one.who,
                name=one.name,
                value=timing.ms,
                ratio=timing.ratio,
                low=timing.low,
                high=timing.high,
                apart=difference,
                tolerance=TOLERANCE,
                target=one.target,
            )
            for one, timing, difference in zip(variants, times, differences, strict=True)
        ]
    return Table(
        name="steering",
        question="What does it cost to steer while a model writes?",
        unit="ms",
        better="lower",
        rows=rows,
        left_out=list(left_out.values()),
        conditions=conditions(rounds=rounds or "9 and 40", time="process CPU"),
    )
