"""What it costs to write activations to disk, to read them at random and to serve them shuffled.

1. Harvest: a GPT-2-small shape with random weights reads packed text; the stream after all layers but the last is
   written. Beside it the passes alone, over the same tokens, ending at the same site, with nothing read.
2. Random rows of a store (65,536 of 262,144 rows × 768, fp16) that the system holds in memory, beside reading the same
   rows one after the other.
3. Shuffle: 1,048,576 rows × 768 (float32, the same 262,144 four times over, 4,096 at a time) served in batches of 4,096
   from a buffer of 131,072, beside SAELens' mixing buffer. Before anything is timed it is seen that each row is served
   once. The buffer is filled and drained within the time.
4. Size: the bytes a row takes on disk by encoding, beside bf16; exact, not timed. A token takes 8 to 12 more, once.

Rows a second of processor time; larger is better.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2Config

import digsite
from digsite.store import Latents, LiveSource, Rows, Shuffled, Statistics, Store, harvest
from digsite.store.sums import Sums
from digsite.tasks import Corpus

from .access import plain
from .peers import tokenizer
from .rounds import interleaved
from .table import Row, Table, conditions

WIDTH, ROWS, PICKED, BATCH, BUFFER = 768, 262_144, 65_536, 4096, 131_072
K, LATENTS = 64, 65_536
LAYERS, SEQUENCES, LENGTH = 12, 8, 128


@dataclass
class Held:
    """Rows in memory as a source, several times over."""

    x: Tensor
    widths: Mapping[str, int]
    identity: Mapping[str, str]
    times: int = 1

    @property
    def rows(self) -> int:
        """How many."""
        return len(self.x) * self.times

    def chunks(self, start: int = 0) -> Iterator[Rows]:
        """In order, a batch at a time."""
        for begin in range(start, self.rows, BATCH):
            at = begin % len(self.x)
            part = self.x[at : at + BATCH]
            yield Rows({"x": part}, None, torch.arange(begin, begin + len(part)))

    def rows_at(self, numbers: Tensor) -> Rows:
        """Some of them."""
        return Rows({"x": self.x[numbers % len(self.x)]}, None, numbers)

    def statistics(self, column: str) -> Statistics:
        """Of all rows."""
        return Sums.of(self.x).statistics()


class Largest:
    """The K largest coordinates as latents spread over a large width: what a dictionary would give, in size."""

    reads, width, fingerprint = ("x",), LATENTS, "largest"

    def encode(self, rows: Rows) -> list[Latents]:
        """K latents a row."""
        values, indices = rows["x"].topk(K)
        return [Latents(values, indices * (LATENTS // WIDTH), LATENTS)]


def measure(*, peers: bool, rounds: int | None) -> Table:
    """Runs the benchmark."""
    left_out: list[str] = []
    x = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(0))
    held = Held(x, {"x": WIDTH}, {"tokens": "random"})
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            *_harvest(Path(folder), rounds or 5),
            *_random(held, Path(folder), rounds or 15),
            *_shuffle(replace(held, times=4), rounds or 3, left_out, peers=peers),
            *_sizes(held, Path(folder)),
        ]
    return Table(
        name="store",
        question="What does it cost to write activations to disk, to read them at random, to serve them shuffled?",
        unit="k rows/s, or bytes",
        rows=rows,
        conditions=conditions(width=WIDTH),
        better="higher",
        left_out=left_out,
    )


def _rows(
    setting: str,
    named: Sequence[tuple[str, str, float | None]],
    count: int,
    calls: Sequence[Any],
    rounds: int,
    warm: int = 1,
) -> list[Row]:
    """Variants timed side by side; the first is the reference, and the ratio is this one's rows a second by its."""
    found = []
    for (who, name, target), timing in zip(named, interleaved(calls, rounds=rounds, warm=warm), strict=True):
        ratio, low, high = 1 / timing.ratio, 1 / timing.high, 1 / timing.low
        value = count / timing.ms
        found.append(
            Row(setting=setting, who=who, name=name, value=value, ratio=ratio, low=low, high=high, target=target)
        )
    return found


def _harvest(folder: Path, rounds: int) -> list[Row]:
    words = tokenizer(folder / "words")
    model = digsite.load(plain(GPT2Config(vocab_size=1000)), tokenizer=words, verify=False)
    corpus = Corpus.of(["a " * (SEQUENCES * LENGTH)], model, length=LENGTH)
    sites = ["layers.*.resid_post"]
    source = LiveSource(model, corpus, sites, batch_size=4)
    count = source.rows

    def forward() -> None:
        with torch.no_grad():
            for tokens in corpus.batches(4):
                model.hf.transformer(input_ids=tokens.ids, use_cache=False)

    def write(name: str, **how: Any) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            harvest(source, Path(fresh) / name, **how)

    calls = [forward, lambda: write("one", columns=["layers.11.resid_post"]), lambda: write("all")]
    named = [
        ("Hugging Face", "forward only", None),
        ("digsite", "harvest of 12 sites, the last is written (bf16)", 0.95),
        ("digsite", "harvest of 12 sites, all are written (bf16)", 0.95),
    ]
    setting = f"GPT-2 small's shape, {SEQUENCES} × {LENGTH} tokens"
    return _rows(setting, named, count, calls, rounds)


def _random(held: Held, folder: Path, rounds: int) -> list[Row]:
    one = harvest(held, folder / "one", encoding="fp16", shard_rows=ROWS)
    many = harvest(held, folder / "many", encoding="fp16", shard_rows=ROWS // 8)
    numbers = torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))[:PICKED]
    for store in (one, many):
        assert torch.equal(store.rows_at(numbers)["x"], held.x[numbers].half())

    def in_order(store: Store) -> None:
        for rows in store.chunks():
            if int(rows.numbers[0]) < PICKED:  # pyright: ignore[reportOptionalSubscript]
                rows["x"].clone()

    calls = [lambda: in_order(one), lambda: one.rows_at(numbers), lambda: many.rows_at(numbers)]
    names = ["rows in order", "random rows, one shard", "random rows, eight shards"]
    named = [("digsite", name, None) for name in names]
    return _rows(f"{PICKED:,} of {ROWS:,} rows × {WIDTH}, fp16; held to 1,000 k rows/s", named, PICKED, calls, rounds)


def _shuffle(held: Held, rounds: int, left_out: list[str], *, peers: bool) -> list[Row]:
    def ours() -> list[Tensor]:
        return [rows["x"][:, 0].clone() for rows in Shuffled(held, batch=BATCH, buffer=BUFFER)]

    calls, named = [ours], [("digsite", "reservoir over numbers", None)]
    if peers:
        try:
            from sae_lens.training.mixing_buffer import mixing_buffer

            def theirs() -> list[Tensor]:
                loader = (rows["x"] for rows in held.chunks())
                return [x[:, 0].clone() for x in mixing_buffer(BUFFER, BATCH, loader)]

            calls, named = [theirs, ours], [("SAELens", "mixing_buffer", None), ("digsite", named[0][1], 20.0)]
        except ImportError as error:
            left_out.append(f"SAELens ({error})")
    every = held.x[:, 0].repeat(held.times).sort().values
    for call in calls:
        assert torch.equal(torch.cat(call()).sort().values, every), "a row is not served exactly once"
    setting = f"{held.rows:,} rows × {WIDTH}, float32, batches of {BATCH:,}, buffer of {BUFFER:,}"
    return _rows(setting, named, held.rows, calls, rounds, warm=0)


def _sizes(held: Held, folder: Path) -> list[Row]:
    found = {}
    few = Held(held.x[:8192], held.widths, held.identity)
    for encoding in ("bf16", "fp16", "fp32", "int8"):
        found[encoding] = harvest(few, folder / f"size-{encoding}", encoding=encoding).bytes / few.rows
    sparse = harvest(few, folder / "size-latents", columns=[], latents={"sae": Largest()})  # pyright: ignore[reportArgumentType]
    found[f"latents, {K} a row (CSR)"] = sparse.bytes / few.rows
    setting = f"bytes of a row × {WIDTH} on disk; ratio: bf16 by this"
    return [
        Row(setting=setting, who="digsite", name=name, value=size, ratio=found["bf16"] / size)
        for name, size in found.items()
    ]
