"""Run by torchrun with two processes: a dictionary shared out learns what the whole learns."""

from dataclasses import replace

import torch
import torch.distributed as dist
from zoo import READS, WRITES, A, B

from digsite.dictionaries import (
    BatchTopK,
    JumpReLU,
    PerTarget,
    Relu,
    TopK,
    clt,
    crosscoder,
    initialise,
    sae,
    transcoder,
)
from digsite.dictionaries.parallel import ParallelTrainer, processes
from digsite.dictionaries.recipes import APRIL_2024, BATCHTOPK, ERROR, JUMPRELU_SHORT, TOPK, TRANSCODER
from digsite.dictionaries.trainer import Trainer
from digsite.store import Rows

CASES = {
    "topk": (lambda: sae(A, 12, TopK(k=3)), TOPK),
    "few latents": (lambda: sae(A, 12, TopK(k=8)), TOPK),
    "batchtopk": (lambda: sae(A, 12, BatchTopK(k=3)), BATCHTOPK),
    "relu": (lambda: sae(A, 12, Relu()), APRIL_2024),
    "jumprelu": (lambda: sae(A, 12, JumpReLU(start=0.05, bandwidth=0.1)), JUMPRELU_SHORT),
    "skip": (lambda: transcoder(A, B, 12, TopK(k=3), skip=True), TRANSCODER),
    "crosscoder": (lambda: crosscoder({"base:embed": 6, "tuned:embed": 6}, 12, TopK(k=3, by_norm=True)), TRANSCODER),
    "clt": (lambda: clt(READS, WRITES, 12, TopK(k=3), decoder=PerTarget()), TRANSCODER),
}


def batch(dictionary, step):
    drawn = torch.Generator().manual_seed(step)
    columns = dictionary.config.columns.items()
    return Rows({name: torch.randn(16, column.width, generator=drawn) for name, column in columns})


def numbers(dictionary):
    return {**dict(dictionary.named_parameters()), **dict(dictionary.named_buffers())}


def compare(name, mesh):
    make, recipe = CASES[name]
    split_rows = mesh["rows"].size() > 1
    if split_rows:  # the variance is that of the rows of a process, and BatchTopK chooses among these
        recipe = replace(recipe, terms=tuple(ERROR if term.name == "Reconstruction" else term for term in recipe.terms))
    alone, shared = initialise(make(), seed=0), initialise(make(), seed=0)
    one = Trainer(alone, recipe, steps=20, rows=100_000)
    many = ParallelTrainer(shared, recipe, mesh, steps=20, rows=100_000)
    for step in range(8):
        one.step(batch(alone, step))
        many.step(batch(alone, step))
    whole = numbers(many.sliced.whole())
    for where, x in numbers(alone).items():
        if split_rows and name == "batchtopk":
            continue
        torch.testing.assert_close(whole[where], x, rtol=1e-4, atol=1e-5, msg=lambda m, w=where: f"{name} {w}: {m}")
    assert many.seen == one.seen == 128
    if not split_rows:
        rows = batch(alone, 99)
        alone.eval()
        many.sliced.eval()
        for column, x in many.sliced(rows).items():
            torch.testing.assert_close(x, alone(rows)[column], rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for latents in (2, 1):
        mesh = processes(latents=latents)
        for name in CASES:
            compare(name, mesh)
    if dist.get_rank() == 0:
        print("all the same")
    dist.destroy_process_group()
