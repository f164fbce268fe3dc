"""What lenses cost: a Jacobian lens, and a comparison of lenses at every layer.

1. The Jacobian of one prompt at every layer, Llama of five layers × 64 (as stories260K), beside plain Hugging Face with
   one backward pass a row on one graph. Equal to 1e-4. A pass of few tokens waits for Python and for memory, and there
   several rows a pass pay; one of many tokens waits for arithmetic, which no batching saves.
2. KL of the logit lens and of a tuned lens at every layer, on 4 × 128 tokens, GPT-2's architecture, beside
   the same by tuned-lens' own classes on Hugging Face's hidden states.
3. Memory of that comparison, over 8 and over 32 rows of text, beside reading the stream of the whole text first; each
   in a process of its own, above the moment after the model was made.

Processor time and MB; lower is better.
"""

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

import digsite
from digsite.lenses import Lens, compare_lenses
from digsite.lenses.jacobian import jacobian_rows
from digsite.lenses.lens import Affine, stream_points
from digsite.lenses.passages import log_probs
from digsite.models import Model
from digsite.models.prediction import kl

from .memory import peak, resident
from .rounds import apart, interleaved
from .table import Row, Table, conditions

TARGET = 2.0
SMALL = LlamaConfig(
    vocab_size=512, hidden_size=64, intermediate_size=172, num_hidden_layers=5, num_attention_heads=8,
    num_key_value_heads=4, max_position_embeddings=512,
)  # fmt: skip
WIDE = GPT2Config(vocab_size=8192, n_embd=256, n_layer=6, n_head=4, n_positions=256)
LENGTHS = (32, 64, 128)
HELD = 64
"""The longest prompt that is held to the target; longer ones show where batching ends to pay."""


def measure(*, peers: bool, rounds: int | None) -> Table:
    """Runs the benchmark."""
    rounds = rounds or 7
    rows = [row for length in LENGTHS for row in _jacobian(length, rounds)]
    compared, left_out = _compared(rounds, peers=peers)
    return Table(
        name="lenses",
        question="What do lenses cost?",
        unit="ms, or MB",
        rows=[*rows, *compared, *_memory()],
        conditions=conditions(rounds=rounds, time="process CPU", dtype="float32"),
        left_out=left_out,
    )


# -- Jacobian ------------------------------------------------------------------------------------------------------
def _jacobian(length: int, rounds: int) -> list[Row]:
    model = _model(SMALL)
    tokens = model.tokens(torch.randint(3, 512, (1, length), generator=torch.Generator().manual_seed(0)))
    points, eye = stream_points(model), torch.eye(64)

    def ours() -> Tensor:
        return jacobian_rows(model, tokens, points, eye, skip=16)

    def row_by_row() -> Tensor:
        streams, hooks = [], []
        layers = model.hf.model.layers
        hooks.append(layers[0].register_forward_pre_hook(lambda _, x: _kept(streams, x[0])))
        hooks += [layer.register_forward_hook(lambda _, __, x: _kept(streams, x)) for layer in layers]
        model.hf(input_ids=tokens.ids, use_cache=False)
        for hook in hooks:
            hook.remove()
        count, rows = slice(16, length - 1), []
        for i in range(64):
            asked = streams[-1][0, count, i].sum()
            grads = torch.autograd.grad(asked, streams, retain_graph=True)
            rows.append(torch.stack([g[0, count].mean(0) for g in grads]))
        return torch.stack(rows, 1)

    wanted = row_by_row()
    names = ((row_by_row, "Hugging Face", "one backward pass a row"), (ours, "digsite", "several rows a pass"))
    timings = interleaved([one for one, *_ in names], rounds=rounds, warm=1)
    return [
        Row(
            setting=f"Jacobian of one prompt at all layers: 5 layers × 64, {length} tokens",
            who=who,
            name=name,
            value=timing.ms,
            ratio=timing.ratio,
            low=timing.low,
            high=timing.high,
            apart=apart(one(), wanted),
            tolerance=1e-4,
            target=1 / TARGET if who == "digsite" and length <= HELD else None,
        )
        for (one, who, name), timing in zip(names, timings, strict=True)
    ]


def _kept(streams: list[Tensor], x: Any) -> Any:
    """Records a stream so that gradients reach it."""
    x = x[0] if isinstance(x, tuple) else x
    x = x if x.requires_grad else x.detach().requires_grad_()
    streams.append(x)
    return x


# -- comparison ----------------------------------------------------------------------------------------------------
def _compared(rounds: int, *, peers: bool) -> tuple[list[Row], list[str]]:
    model = _model(WIDE)
    tokens = model.tokens(torch.randint(3, 8192, (4, 128), generator=torch.Generator().manual_seed(0)))
    change = 0.01 * torch.randn(256, 256, generator=torch.Generator().manual_seed(1))
    variants: list[tuple[Callable[[], Tensor], str, str]] = []
    lens = _tuned(model, change)

    @torch.no_grad()
    def ours() -> Tensor:
        run = model.run(tokens, read=stream_points(model))
        own = log_probs(run.logits)
        logit = Lens(model)
        return torch.stack(
            [kl(own, log_probs(one.logits(run[site], site))).mean() for one in (logit, lens) for site in lens.maps]
        )

    variants.append((ours, "digsite", "KL of two lenses at 6 points"))
    left_out = []
    if peers:
        try:
            variants.append((_tuned_lens(model, tokens.ids, change), "tuned-lens", "KL of two lenses at 6 points"))
        except Exception as error:  # another library, and another version of transformers than it knows
            left_out.append(f"tuned-lens ({type(error).__name__}: {error})".partition("\n")[0])
    wanted = ours()
    timings = interleaved([one for one, *_ in variants], rounds=rounds)
    rows = [
        Row(
            setting="KL of logit and tuned lens at every layer: 6 layers × 256, 8192 tokens known, 4 × 128",
            who=who,
            name=name,
            value=timing.ms,
            ratio=timing.ratio,
            low=timing.low,
            high=timing.high,
            apart=apart(one(), wanted),
            tolerance=1e-4,
        )
        for (one, who, name), timing in zip(variants, timings, strict=True)
    ]
    return rows, left_out


def _tuned(model: Model, change: Tensor) -> Lens:
    d = model.d_model
    return Lens(model, "tuned", {site: Affine(change, torch.zeros(d)) for site in stream_points(model)[:-1]})


def _tuned_lens(model: Model, ids: Tensor, change: Tensor) -> Callable[[], Tensor]:
    from tuned_lens.nn.lenses import LogitLens, TunedLens, TunedLensConfig  # pyright: ignore[reportMissingImports]
    from tuned_lens.nn.unembed import Unembed  # pyright: ignore[reportMissingImports]

    hf = model.hf
    unembed = Unembed(hf)
    config = TunedLensConfig("x", hf.config.n_embd, hf.config.n_layer, unembed_hash=unembed.unembedding_hash())
    theirs = [LogitLens(unembed), TunedLens(unembed, config)]
    for translator in theirs[1]:
        translator.weight.data, translator.bias.data = change.clone(), torch.zeros(len(change))

    @torch.no_grad()
    def run() -> Tensor:
        out = hf(input_ids=ids, output_hidden_states=True, use_cache=False)
        own = out.logits.log_softmax(-1)
        return torch.stack(
            [
                torch.sum(own.exp() * (own - lens(h, idx=i).log_softmax(-1)), dim=-1).mean()
                for lens in theirs
                for i, h in enumerate(out.hidden_states[:-1])
            ]
        )

    return run


# -- memory --------------------------------------------------------------------------------------------------------
def _memory() -> list[Row]:
    found = {(way, count): _in_own_process(way, count) for count in (8, 32) for way in ("kept", "ours")}
    names = {"kept": ("plain", "the stream of the whole text first"), "ours": ("digsite", "compare_lenses")}
    return [
        Row(
            setting=f"memory: two lenses at every layer, {count} × 128 tokens, 6 layers × 256, 8192 tokens known",
            who=names[way][0],
            name=names[way][1],
            value=value,
            ratio=value / found["kept", count],
        )
        for (way, count), value in found.items()
    ]


def _in_own_process(way: str, count: int) -> float:
    command = [sys.executable, "-m", "benchmarks.speed.lenses", way, str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
    return float(done.stdout.split()[-1])


def _model(config: Any) -> Model:
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation="eager")
    return digsite.load(hf.eval().requires_grad_(requires_grad=False), verify=False)


@torch.no_grad()
def _whole(model: Model, ids: Tensor) -> None:
    """Everything read first, and then every lens at every point."""
    run = model.run(model.tokens(ids), read=stream_points(model))
    own = log_probs(run.logits)
    for lens in (Lens(model), _tuned(model, torch.zeros(256, 256))):
        for site in lens.sites:
            kl(own, log_probs(lens.logits(run[site], site))).mean()


if __name__ == "__main__":
    torch.set_num_threads(1)
    way, count = sys.argv[1], int(sys.argv[2])
    model = _model(WIDE)
    ids = torch.randint(3, 8192, (count, 128), generator=torch.Generator().manual_seed(0))
    before = resident()
    if way == "kept":
        _whole(model, ids)
    else:
        lenses = [Lens(model), _tuned(model, torch.zeros(256, 256))]
        compare_lenses(model, model.tokens(ids), lenses, rows=None)
    print(peak() - before)
