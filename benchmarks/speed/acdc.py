"""ACDC with many candidates in one pass, against one pass for each edge.

1. Three ways to the same circuit. "One whole pass an edge": every edge is tried in a forward pass of its own through
   the whole model, as the published algorithm is commonly run. "One late pass an edge": the same, but what the edge
   cannot reach is taken from the clean run (`acdc(window=1)`). And `acdc` as it is.
2. The built-in model on IOI sentences, with a threshold that keeps about 3 % of all edges, and compiled programs.
3. Results first: the circuits must be the same. Then forward passes and interleaved rounds of processor time.
4. GPT-2 small's shape is too large to be searched here: one edge into each of its layers is cut, each in a pass of its
   own, whole and late, which says what the shared prefix gives.
"""

import contextlib
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

import digsite
from digsite.circuits import Cutter, acdc, mux
from digsite.graphs import Circuit
from digsite.models import Model
from digsite.tasks import Task
from digsite.toys.compiled import compile_program

from .access import plain
from .circuits import CONFIG, LENGTH, PAIRS, pairs
from .rounds import apart, interleaved
from .table import Row, Table, conditions

PROGRAMS = ("ioi", "most-frequent", "cancelling", "sort", "shuffled-dyck")
EXAMPLES = (8, 32)
TARGETS = {"passes": 10.0, "time": 4.0}
ROUNDS = 3


@contextlib.contextmanager
def whole_passes() -> Iterator[None]:
    """Every pass of the edge-mux runs every component and column, and every head reads a stream of its own."""
    late, take, heard = mux.EdgeMux._late, mux.EdgeMux._take, mux.Pass._heard

    def from_first_column(self: mux.EdgeMux, donor: mux.Written) -> None:
        take(self, donor)
        self.column = 0

    def every_reader(self: mux.Pass) -> Tensor:
        return torch.ones(len(self.mux.space.readers), dtype=torch.bool)

    def from_first_layer(self: mux.EdgeMux, masks: Tensor, stage: int) -> mux.Pass:
        return mux.Pass(self, masks, layer=0, column=0)

    mux.EdgeMux._late = from_first_layer
    mux.EdgeMux._take, mux.Pass._heard = from_first_column, every_reader
    try:
        yield
    finally:
        mux.EdgeMux._late, mux.EdgeMux._take, mux.Pass._heard = late, take, heard


def one_whole_pass(model: Model, task: Task, threshold: float, how: str) -> Circuit:
    """Nothing shared, nothing tried together."""
    with whole_passes():
        return acdc(model, task, threshold, how=how, window=1)


def measure(*, peers: bool, rounds: int | None) -> Table:
    """Runs the benchmark; no peer is measured, the first way stands for them."""
    model = digsite.load("digsite/tinyworld")
    settings: list[tuple[str, Model, Task, float, str]] = [
        (f"digsite/tinyworld, IOI, {n} pairs", model, digsite.tasks.ioi(model, n=n), 3e-5, "corrupt") for n in EXAMPLES
    ]
    for name in PROGRAMS:
        known = compile_program(name)
        settings.append((f"compiled {name}, 16 pairs", known.model, known.task(16), 0.01, "zero"))
    rows = []
    for setting, asked, task, threshold, how in settings:
        rows += _rows(setting, asked, task, threshold, how, rounds=rounds or ROUNDS)
    rows += _prefix(rounds or ROUNDS)
    return Table(
        name="acdc",
        question="How much faster is ACDC than one forward pass an edge, at the same circuit?",
        unit="passes, or ms",
        better="higher",
        rows=rows,
        conditions=conditions(rounds=rounds or ROUNDS, time="process CPU", dtype="float32"),
    )


def _rows(setting: str, model: Model, task: Task, threshold: float, how: str, *, rounds: int) -> list[Row]:
    ways = {
        ("loop", "one whole pass an edge"): partial(one_whole_pass, model, task, threshold, how),
        ("digsite", "one late pass an edge (window=1)"): partial(acdc, model, task, threshold, how=how, window=1),
        ("digsite", "acdc"): partial(acdc, model, task, threshold, how=how),
    }
    found = [way() for way in ways.values()]
    same = [apart(one.kept.float(), found[0].kept.float()) for one in found]
    kept = len(found[0]) / len(found[0].space)
    setting += f"; {len(found[0])} of {len(found[0].space):,} edges kept ({kept:.1%})"
    rows = [
        Row(
            setting=setting,
            who=who,
            name=f"{name}, forward passes",
            value=float(one.cost.forwards),
            ratio=found[0].cost.forwards / one.cost.forwards,
            apart=difference,
            target=TARGETS["passes"] if name == "acdc" else None,
        )
        for (who, name), one, difference in zip(ways, found, same, strict=True)
    ]
    timings = interleaved(list(ways.values()), rounds=rounds, warm=0)
    return rows + [
        Row(
            setting=setting,
            who=who,
            name=f"{name}, time",
            value=timing.ms,
            ratio=1 / timing.ratio,
            low=1 / timing.high,
            high=1 / timing.low,
            target=TARGETS["time"] if name == "acdc" else None,
        )
        for (who, name), timing in zip(ways, timings, strict=True)
    ]


def _prefix(rounds: int) -> list[Row]:
    """One edge into each layer of GPT-2 small's shape, each in a pass of its own: whole, and late."""
    model, task = digsite.load(plain(CONFIG)), pairs()
    with whole_passes():
        whole = Cutter(model, task, metric="kl")
    late = Cutter(model, task, metric="kl")
    kept = late.space.real.repeat(model.n_layers, 1, 1)
    for layer, mask in enumerate(kept):
        mask[late.space.index(("embed", f"layers.{layer}.attn.v_in[0]"))] = False

    def one_by_one(cutter: Cutter) -> Tensor:
        return torch.cat([cutter(mask[None]) for mask in kept])

    def from_the_start() -> Tensor:
        with whole_passes():
            return one_by_one(whole)

    ways = {"whole passes": from_the_start, "late passes": partial(one_by_one, late)}
    difference = apart(ways["late passes"](), ways["whole passes"]())
    timings = interleaved(list(ways.values()), rounds=rounds, warm=0)
    setting = f"12 layers × 768 (GPT-2 small), {PAIRS} × {LENGTH} tokens, {len(kept)} edges, one into each layer"
    return [
        Row(
            setting=setting,
            who="loop" if name == "whole passes" else "digsite",
            name=f"{name}, time",
            value=timing.ms,
            ratio=1 / timing.ratio,
            low=1 / timing.high,
            high=1 / timing.low,
            apart=0.0 if name == "whole passes" else difference,
            tolerance=1e-4,
        )
        for (name, _), timing in zip(ways.items(), timings, strict=True)
    ]
