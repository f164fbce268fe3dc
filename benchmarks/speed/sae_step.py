"""A training step of a TopK autoencoder, beside one encoder product and beside SAELens and sparsify.

1. A step is everything: forward, loss, backward, Adam, the count of dead latents, and (digsite, sparsify) decoder rows
   of unit length with the gradient along them taken out. SAELens runs `SAETrainer.step` with its defaults.
2. The yardstick is the product that no exact step can do without, x W_encᵀ.
3. Results first: digsite's gradients are compared with dense autograd, as the largest difference by the largest number.
4. How far the peak memory of a process rises above what it held before the first step, each in a process of its own.
5. Two operations alone: a cross-layer transcoder's decoders at GPT-2 small's shape on a few tokens, by rows that fire
   against dense products; and the norms of low-rank maps and their gradient by Gram matrices, against forming the maps.

Inputs are sums of few directions and noise, so that some latents fire often and others hardly ever.
"""

import contextlib
import io
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from digsite.dictionaries import TopK, initialise, sae
from digsite.dictionaries.kernels import decode, frobenius
from digsite.store import Latents

from .memory import peak, resident
from .rounds import interleaved
from .table import Row, Table, conditions

Step = Callable[[], Any]
COLUMN = "layers.0.resid_post"
ROUNDS = 9
TOLERANCE = 1e-5
MEGABYTES = 260


class Shape(NamedTuple):
    """Of a dictionary and a batch."""

    d: int
    latents: int
    k: int
    rows: int

    @classmethod
    def read(cls, text: str) -> "Shape":
        """From d,m,k,B."""
        numbers = [int(part) for part in text.split(",")]
        if len(numbers) != 4:
            raise SystemExit(f"--shape takes four numbers, d,m,k,B: {text} has {len(numbers)}")
        return cls(*numbers)

    def __str__(self) -> str:
        return f"d={self.d}, {self.latents} latents, k={self.k}, {self.rows} rows"


class Held(NamedTuple):
    """What a shape is held to."""

    gemms: float
    """At most so many encoder products."""
    saelens: float
    """So many times faster than SAELens."""


SHAPES = {Shape(256, 4096, 32, 4096): Held(2.5, 3.6), Shape(256, 16384, 32, 1024): Held(2.2, 4.8)}
LARGE = Shape(256, 16384, 32, 4096)


def measure(*, peers: bool, rounds: int | None, shape: str | None = None) -> Table:
    """Runs the benchmark: on two shapes with everything else beside, or on one alone."""
    rounds = rounds or ROUNDS
    makers, left_out = _makers(peers=peers)
    rows: list[Row] = []
    for one in [Shape.read(shape)] if shape else SHAPES:
        rows += _steps(one, makers, rounds)
    if not shape:
        rows += _memory(makers)
        for pair in (_clt(tokens=4), _clt(tokens=16), _maps()):
            rows += _alone(pair, rounds)
    return Table(
        name="sae-step",
        question="What does a training step of a TopK autoencoder cost?",
        unit="ms, or MB",
        rows=rows,
        conditions=conditions(rounds=rounds, time="process CPU", dtype="float32"),
        left_out=left_out,
    )


# -- steps ---------------------------------------------------------------------------------------------------------
def batch(shape: Shape) -> Tensor:
    """Rows that are sums of 16 of 2d directions, and a little noise."""
    torch.manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(2 * shape.d, shape.d), dim=1)
    chosen = torch.rand(shape.rows, 16).square().mul(2 * shape.d).long()
    return torch.rand(shape.rows, 1, 16).bmm(directions[chosen]).squeeze(1) + 0.05 * torch.randn(shape.rows, shape.d)


def _digsite(shape: Shape, x: Tensor) -> Step:
    dictionary = initialise(sae({COLUMN: shape.d}, shape.latents, TopK(k=shape.k)), seed=0)
    W_dec = dictionary.blocks[0].W_dec(COLUMN)
    adam = torch.optim.Adam(dictionary.parameters(), lr=1e-4, fused=True)
    silent = torch.zeros(shape.latents, dtype=torch.long)

    def step() -> float:
        run = dictionary.run({COLUMN: x})
        loss = (run.targets[COLUMN] - run.outputs[COLUMN]).square().sum(1).mean()
        loss.backward()
        with torch.no_grad():
            assert W_dec.grad is not None
            W_dec.grad.addcmul_((W_dec.grad * W_dec).sum(1, keepdim=True), W_dec, value=-1)
            adam.step()
            adam.zero_grad()
            W_dec.div_(W_dec.norm(dim=1, keepdim=True))
            silent.add_(len(x))[run.latents[0].fired() > 0] = 0
        return float(loss)

    return step


def _saelens(shape: Shape, x: Tensor) -> Step:
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    coder = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=shape.d, d_sae=shape.latents, k=shape.k))
    config = SAETrainerConfig(total_training_samples=10**9, train_batch_size_samples=shape.rows, lr_end=3e-4)
    trainer = SAETrainer(cfg=config, sae=coder, data_provider=iter([]))
    return lambda: trainer.step(x)


def _sparsify(shape: Shape, x: Tensor) -> Step:
    with contextlib.redirect_stdout(io.StringIO()):  # it says there that it has no Triton
        from sparsify import SparseCoder, SparseCoderConfig

    coder = SparseCoder(shape.d, SparseCoderConfig(num_latents=shape.latents, k=shape.k))
    adam = torch.optim.Adam(coder.parameters(), lr=1e-4)
    silent = torch.zeros(shape.latents, dtype=torch.long)

    def step() -> None:
        found = coder(x)
        found.fvu.backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        adam.step()
        adam.zero_grad()
        coder.set_decoder_norm_to_unit_norm()
        silent.add_(len(x))[found.latent_indices.flatten()] = 0

    return step


MAKERS: dict[str, Callable[[Shape, Tensor], Step]] = {
    "digsite": _digsite,
    "SAELens": _saelens,
    "sparsify": _sparsify,
}


def _makers(*, peers: bool) -> tuple[dict[str, Callable[[Shape, Tensor], Step]], list[str]]:
    """Those that can be imported, and the names of those that cannot, with the reason."""
    found, left_out, small = {}, [], Shape(4, 8, 2, 4)
    for who, make in MAKERS.items():
        if peers or who == "digsite":
            try:
                make(small, batch(small))
                found[who] = make
            except ImportError as error:
                left_out.append(f"{who} ({error})")
    return found, left_out


def _steps(shape: Shape, makers: dict[str, Callable[[Shape, Tensor], Step]], rounds: int) -> list[Row]:
    x, W = batch(shape), torch.randn(shape.latents, shape.d)
    steps = {who: make(shape, x) for who, make in makers.items()}
    timings = interleaved([lambda: x @ W.T, *steps.values()], rounds=rounds)
    held = SHAPES.get(shape)
    rows = [Row(setting=str(shape), who="torch", name="one encoder product", value=timings[0].ms, ratio=1.0)]
    for who, timing in zip(steps, timings[1:], strict=True):
        ours = who == "digsite"
        rows.append(
            Row(
                setting=str(shape),
                who=who,
                name="step",
                value=timing.ms,
                ratio=timing.ratio,
                low=timing.low,
                high=timing.high,
                apart=gradients_apart(shape) if ours else None,
                tolerance=TOLERANCE,
                target=held.gemms if ours and held else None,
            )
        )
    times = {row.who: row.value for row in rows}
    for who in steps:
        if who != "digsite":
            target = 1 / held.saelens if who == "SAELens" and held else None
            ratio, name = times["digsite"] / times[who], f"step, by {who}'s"
            rows.append(
                Row(setting=str(shape), who="digsite", name=name, value=times["digsite"], ratio=ratio, target=target)
            )
    return rows


def gradients_apart(shape: Shape) -> float:
    """How far the gradients of a step are from those of dense autograd, by the largest number of each."""
    shape = shape._replace(rows=min(shape.rows, 512))
    x = batch(shape)
    dictionary = initialise(sae({COLUMN: shape.d}, shape.latents, TopK(k=shape.k)), seed=0)
    block, b_dec = dictionary.blocks[0], dictionary.bias(COLUMN)
    leaves = [block.W_enc[0], block.b_enc, block.W_dec(COLUMN), b_dec]
    run = dictionary.run({COLUMN: x})
    found = torch.autograd.grad((x - run.outputs[COLUMN]).square().sum(), leaves)
    W_enc, b_enc, W_dec, b_dec = leaves
    pre = (x - b_dec) @ W_enc.T + b_enc
    kept = torch.zeros_like(pre).scatter(1, pre.topk(shape.k).indices, 1.0)
    wanted = torch.autograd.grad((x - (torch.relu(pre) * kept) @ W_dec - b_dec).square().sum(), leaves)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, wanted, strict=True))


# -- memory --------------------------------------------------------------------------------------------------------
def _memory(makers: dict[str, Callable[[Shape, Tensor], Step]]) -> list[Row]:
    peaks = {who: statistics.median(_in_own_process(who) for _ in range(3)) for who in makers}
    return [
        Row(
            setting=f"peak memory, {LARGE} (ratio by {MEGABYTES} MB)",
            who=who,
            name="steps",
            value=value,
            ratio=value / MEGABYTES,
            target=1.0 if who == "digsite" else None,
        )
        for who, value in peaks.items()
    ]


def _in_own_process(who: str) -> float:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.speed.sae_step", who],
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ),
    )
    return float(done.stdout.split()[-1])


# -- operations alone ----------------------------------------------------------------------------------------------
class Alone(NamedTuple):
    """One operation, done plainly and as digsite does it."""

    setting: str
    plain: Step
    ours: Step
    names: tuple[str, str]
    truth: Tensor
    """What both should give."""
    target: float


def _alone(pair: Alone, rounds: int) -> list[Row]:
    rows, timings = [], interleaved([pair.plain, pair.ours], rounds=rounds, warm=1)
    for who, name, step, timing in zip(("torch", "digsite"), pair.names, pair[1:3], timings, strict=True):
        rows.append(
            Row(
                setting=pair.setting,
                who=who,
                name=name,
                value=timing.ms,
                ratio=timing.ratio,
                low=timing.low,
                high=timing.high,
                apart=float((step() - pair.truth).abs().max() / pair.truth.abs().max()),
                tolerance=TOLERANCE,
                target=pair.target if who == "digsite" else None,
            )
        )
    return rows


def _clt(tokens: int, *, layers: int = 12, d: int = 768, latents: int = 12288, active: int = 50) -> Alone:
    """Twelve decoders lie in memory; layer s uses the first 12 - s of them, as many as it has targets."""
    bank = torch.randn(layers, latents, d)
    codes = [
        Latents(torch.rand(tokens, active), torch.rand(tokens, latents).topk(active).indices, latents)
        for _ in range(layers)
    ]

    @torch.no_grad()
    def total(one: Callable[[Latents, Tensor], Tensor]) -> Tensor:
        out = torch.zeros(layers, tokens, d)
        for source, some in enumerate(codes):
            for target in range(source, layers):
                out[target] += one(some, bank[target - source])
        return out

    def plain() -> Tensor:
        return total(lambda some, W: some.dense() @ W)

    flops = 2e-9 * tokens * d * layers * (layers + 1) / 2
    return Alone(
        f"decoders of a CLT: {layers} layers × {latents}, d={d}, {active} active a layer, {tokens} tokens",
        plain,
        lambda: total(decode),
        (f"dense, {flops * latents:.1f} GFLOP", f"gathered, {flops * active:.3f} GFLOP"),
        plain(),
        1 / 20,
    )


def _maps(count: int = 32, d: int = 1024, rank: int = 64) -> Alone:
    """The sum of the norms, as a penalty in a loss, and its gradient."""
    U, V = torch.randn(count, d, rank), torch.randn(count, rank, d)

    def gradient(norm: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype = torch.float32) -> Tensor:
        leaves = [x.to(dtype).requires_grad_() for x in (U, V)]
        return torch.cat([g.flatten() for g in torch.autograd.grad(norm(*leaves).sum(), leaves)])

    def formed(U: Tensor, V: Tensor) -> Tensor:
        return (U @ V).norm(dim=(1, 2))

    return Alone(
        f"norms of {count} low-rank maps and their gradient: d={d}, rank {rank}",
        lambda: gradient(formed),
        lambda: gradient(frobenius),
        ("U V formed", "Gram matrices"),
        gradient(formed, torch.float64).float(),
        1 / 10,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    make, small = MAKERS[sys.argv[1]], Shape(4, 8, 2, 4)
    make(small, batch(small))()  # imports
    x = batch(LARGE)
    before = resident()
    step = make(LARGE, x)
    for _ in range(3):
        step()
    print(peak() - before)
