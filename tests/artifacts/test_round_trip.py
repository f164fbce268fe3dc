import dataclasses
import json
import math
import struct
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from results_for_tests import Large, Pair, Small, made, small

from digsite.artifacts import Result, load_result
from digsite.sites import SITES, Site

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int8, torch.uint8, torch.bool]


def alike(a: Any, b: Any) -> bool:
    """Equal in type, bit and structure; NaN equals NaN and -0.0 is not 0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return (
            a.dtype == b.dtype and a.shape == b.shape and a.numpy(force=True).tobytes() == b.numpy(force=True).tobytes()
            if a.dtype != torch.bfloat16
            else torch.equal(a.view(torch.int16), b.view(torch.int16))
        )
    if isinstance(a, pl.DataFrame):
        return a.equals(b, null_equal=True) and a.schema == b.schema
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or struct.pack("d", a) == struct.pack("d", b)
    if dataclasses.is_dataclass(a):
        return all(alike(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, dict):
        return list(a) == list(b) and all(alike(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(alike(x, y) for x, y in zip(a, b, strict=True))
    return a == b


@st.composite
def tensors(draw: st.DrawFn, dtypes: list[torch.dtype] = DTYPES, rank: int | None = None) -> torch.Tensor:
    shape = draw(st.lists(st.integers(0, 3), min_size=rank or 0, max_size=3 if rank is None else rank))
    numbers = torch.randint(-9, 9, shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))
    tensor = numbers.to(draw(st.sampled_from(dtypes)))
    if tensor.is_floating_point() and tensor.numel():
        tensor.view(-1)[0] = draw(st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 0.1]))
    return tensor.transpose(0, -1) if tensor.dim() > 1 and rank is None and draw(st.booleans()) else tensor


text = st.text(max_size=8)
keys = text | st.sampled_from(
    ["a/b", "a~1b", "layers.5.attn.z", "..", "schema", "files", "tensor", "__metadata__", "é", "\ud800"]
)
numbers = st.floats()
sites = st.sampled_from(list(SITES.values())).map(lambda kind: Site(kind.name, 3 if kind.per_layer else None))
frames = st.lists(st.tuples(text, numbers, st.integers(-5, 5) | st.none()), max_size=3).map(
    lambda rows: pl.DataFrame(rows, schema={"t": pl.String, "x": pl.Float64, "n": pl.Int64}, orient="row")
)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=5,
)
smalls = tensors([torch.float32], rank=2).map(small)


@st.composite
def larges(draw: st.DrawFn) -> Large:
    provenance, cost = made()
    shared = draw(tensors())
    return Large(
        provenance=provenance,
        cost=cost,
        text=draw(text | st.just("\ud83d half a character")),
        number=draw(numbers),
        count=draw(st.integers()),
        yes=draw(st.booleans()),
        direction=draw(st.sampled_from(["denoise", "noise"])),
        maybe=draw(st.integers() | st.none()),
        names=tuple(draw(st.lists(text, max_size=2))),
        interval=draw(st.tuples(numbers, numbers)),
        floats=draw(st.lists(numbers, max_size=3)),
        by_name=draw(st.dictionaries(keys, st.builds(Pair, text, numbers | st.none()), max_size=2)),
        nested=draw(
            st.dictionaries(keys, st.dictionaries(keys, st.lists(st.integers(), max_size=2), max_size=2), max_size=2)
        ),
        site=draw(sites),
        sites=tuple(draw(st.lists(sites, max_size=2))),
        tensor=shared,
        ids=draw(tensors([torch.int64], rank=2) | st.none()),
        by_site={"shared": shared}
        | draw(st.dictionaries(keys.filter(lambda key: "\ud800" not in key), tensors(), max_size=3)),
        rows=draw(frames),
        tables=draw(st.dictionaries(st.sampled_from(["a/b", "a", "..", "b.parquet", "A%2Fb"]), frames, max_size=2)),
        part=draw(smalls),
        parts=tuple(draw(st.lists(smalls, max_size=2))),
        summary=draw(st.dictionaries(keys, plain, max_size=3)),
        either=draw(smalls | st.none()),
    )


@settings(deadline=None, max_examples=60)
@given(larges())
def test_what_is_saved_is_read_back_to_the_bit(result):
    with TemporaryDirectory() as folder:
        result.save(Path(folder) / "run")
        again = Large.load(Path(folder) / "run")
        assert alike(result, again)
        again.save(Path(folder) / "run")
        assert alike(result, load_result(Path(folder) / "run"))


def test_the_file_can_be_read_without_digsite(tmp_path):
    small(torch.tensor([[1.0, 2.0]])).save(tmp_path / "run")
    document = json.loads((tmp_path / "run" / "result.json").read_text())
    assert list(document) == ["schema", "files", "provenance", "cost", "scores"]
    assert document["schema"] == "tests.small/1" and list(document["files"]) == ["tensors.safetensors"]
    assert document["provenance"]["made_by"] == "f(model)"
    assert document["cost"] | {"peak_mb": 0} == {
        "forwards": 2, "rows": 16, "backwards": 0, "seconds": 0.5, "cpu_seconds": 0.0, "peak_mb": 0,
    }  # fmt: skip
    assert document["cost"]["peak_mb"] == "NaN" and document["scores"] == {"tensor": "scores"}


def test_a_tensor_with_a_gradient_is_saved_without_it(tmp_path):
    scores = torch.ones(1, 2, requires_grad=True) * 3
    again = Small.load(small(scores).save(tmp_path / "run"))
    assert torch.equal(again.scores, torch.full((1, 2), 3.0)) and not again.scores.requires_grad


def test_a_result_inside_a_result_keeps_its_class(tmp_path):
    one = small(torch.ones(1, 1))
    provenance, cost = made()

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Investigation(Result):
        SCHEMA = "tests.investigation/1"
        parts: tuple[Result, ...]

        @property
        def verdict(self) -> str:
            return "Two parts."

        def to_frame(self) -> pl.DataFrame:
            return pl.concat([part.to_frame() for part in self.parts])

    Investigation(provenance=provenance, cost=cost, parts=(one, one)).save(tmp_path / "run")
    again = Investigation.load(tmp_path / "run")
    assert [type(part) for part in again.parts] == [Small, Small]
    assert again.to_frame().height == 2


@pytest.mark.parametrize("scores", [torch.zeros(2, 0), torch.zeros(0, 3)])
def test_empty_tensors_keep_their_shape(tmp_path, scores):
    assert Small.load(small(scores).save(tmp_path / "run")).scores.shape == scores.shape
