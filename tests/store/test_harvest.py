"""What is written is what was read, whatever stops the writing in between."""

# Rows here have ids, numbers and places.
# pyright: reportArgumentType=false, reportOptionalMemberAccess=false, reportOptionalSubscript=false

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from sources import Largest, held

from digsite._core.errors import BadInput, LoadError, NotFinite
from digsite._core.files import NotWritten
from digsite.store import Rows, Store, harvest, plan_harvest
from digsite.store.encodings import check_encoding, decode, encode


def files(folder):
    """Every file of a store with its content; of the manifest what does not change from run to run."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    manifest = json.loads(found.pop("manifest.json"))
    return found, {key: manifest[key] for key in ("identity", "rows", "shard_rows", "files")}


# -- round trips ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("encoding", "tolerance"), [("fp32", 0), ("fp16", 1e-3), ("bf16", 1e-2), ("int8", 2e-2)])
def test_a_store_gives_the_rows_of_its_source(tmp_path, encoding, tolerance):
    source = held(50)
    store = harvest(source, tmp_path / "s", encoding=encoding, shard_rows=16)
    assert dict(store.widths) == {"a": 6, "b": 4} and store.rows == 50
    assert store.shards == [(0, 16), (16, 32), (32, 48), (48, 50)]
    for start in (0, 1, 16, 49, 50):
        parts = list(store.chunks(start))
        assert sum(rows.count for rows in parts) == 50 - start
        for rows in parts:
            assert torch.equal(rows.ids, source.ids[rows.numbers])
            assert torch.equal(rows.places, source.rows_at(rows.numbers).places)
            for column in ("a", "b"):
                torch.testing.assert_close(
                    rows[column].float(), source.columns[column][rows.numbers], atol=3 * tolerance, rtol=tolerance
                )
    numbers = torch.tensor([49, 3, 3, 17, 0, 20])
    some, every = store.rows_at(numbers), torch.cat([rows["a"] for rows in store.chunks()])
    assert torch.equal(some["a"], every[numbers]) and torch.equal(some.ids, source.ids[numbers])
    assert store.rows_at(torch.tensor([18, 17]))["b"].dtype == every.dtype
    at = store.tokens_at(numbers)
    assert at.ids.tolist() == source.ids[numbers].tolist()
    assert at.sequences.tolist() == [9, 0, 0, 3, 0, 4] and at.positions.tolist() == [4, 3, 3, 2, 0, 0]
    for column in ("a", "b"):
        found, wanted = store.statistics(column), source.statistics(column)
        torch.testing.assert_close(found.mean, wanted.mean, atol=1e-7, rtol=0)
        torch.testing.assert_close(found.square, wanted.square, atol=1e-6, rtol=0)
        assert found.norm == pytest.approx(wanted.norm) and found.largest == wanted.largest and found.rows == 50


def test_each_column_is_written_as_it_is_asked_and_a_part_can_be_read(tmp_path):
    harvest(held(), tmp_path / "s", encoding={"a": "int8"}, shard_rows=16)
    store = Store(tmp_path / "s", columns=["a"])
    assert dict(store.widths) == {"a": 6} and store.manifest.columns["a"].encoding == "int8"
    assert store.manifest.columns["b"].encoding == "bf16"
    assert "50 rows in 4 shards; a (int8)" in repr(store)


def test_massive_channels_and_tokens_leave_the_ordinary_ones_their_precision():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(8192, 256, generator=rng)
    x[:, [5, 77]] *= 30
    massive = torch.arange(0, 8192, 128)
    x[massive, 5] += 3000
    ordinary = torch.ones(256, dtype=torch.bool)
    ordinary[[5, 77]] = False
    tokens = torch.ones(8192, dtype=torch.bool)
    tokens[massive] = False

    def lost(y):
        part, known = y.float()[tokens][:, ordinary], x[tokens][:, ordinary]
        return float((part - known).square().sum() / known.square().sum())

    found = {encoding: lost(decode(encode(x, encoding))) for encoding in ("int8", "bf16", "fp16")}
    assert found["int8"] < 1.5e-4 and found["bf16"] < 5e-6 and found["fp16"] < 1e-7
    scale = x.abs().amax(1, keepdim=True) / 127  # without the channels' own scale
    assert lost((x / scale).round() * scale) > 30 * found["int8"]


def test_channels_and_rows_of_zeros_stay_zero():
    x = torch.randn(10, 4)
    x[:, 2], x[3] = 0, 0
    assert torch.equal(decode(encode(x, "int8"))[:, 2], torch.zeros(10))
    assert torch.equal(decode(encode(x, "int8"))[3], torch.zeros(4))
    assert torch.equal(decode(encode(torch.zeros(3, 4), "int8")), torch.zeros(3, 4))


@pytest.mark.parametrize("width", [40, 70_000])
def test_latents_are_written_as_they_are(tmp_path, width):
    source, encoder = held(), Largest("a", width)
    store = harvest(source, tmp_path / "s", columns=["b"], latents={"sae": encoder}, shard_rows=16)
    assert dict(store.latents) == {"sae": width} and dict(store.widths) == {"b": 4}
    kind = store._shard("sae", 0)["indices"].dtype
    assert kind == (torch.uint16 if width < 65_536 else torch.int32)
    numbers = torch.tensor([49, 3, 17, 3, 0])
    for chosen in (numbers, slice(5, 40), torch.tensor([], dtype=torch.long), torch.tensor([18, 17])):
        found = store.latents_at("sae", chosen)
        (wanted,) = encoder.encode(source.rows_at(torch.arange(50)[chosen]))
        assert torch.equal(found.indices, wanted.indices) and torch.equal(found.offsets, wanted.offsets)
        assert torch.equal(found.values, wanted.values.half()) and found.width == width
    with pytest.raises(BadInput, match=r"has no column b.\nPossible: sae"):
        store.latents_at("b", numbers)


def test_blocks_are_written_side_by_side(tmp_path):
    source = held()
    one, other = Largest("a", 40), Largest("b", 30)
    both = SimpleNamespace(
        reads=["a", "b"],
        width=70,
        fingerprint="both",
        encode=lambda rows: [*one.encode(rows), *other.encode(rows)],
    )
    store = harvest(source, tmp_path / "s", columns=[], latents={"clt": both}, shard_rows=16)
    found = store.latents_at("clt", slice(None)).dense()
    wanted = [part.dense() for part in both.encode(source.rows_at(torch.arange(50)))]
    assert torch.equal(found, torch.cat(wanted, 1).half())


def test_rows_without_text_can_be_stored(tmp_path):
    source = held()
    source.ids = None
    source.rows_at = lambda numbers: Rows({name: x[numbers] for name, x in source.columns.items()}, None, numbers)
    store = harvest(source, tmp_path / "s", shard_rows=20)
    assert next(store.chunks()).ids is None and store.rows_at(torch.tensor([1])).ids is None
    with pytest.raises(BadInput, match="are of no text"):
        store.tokens_at(torch.tensor([1]))
    source.given = 0
    harvest(source, tmp_path / "s", shard_rows=20)
    assert source.given == 0


# -- again ---------------------------------------------------------------------------------------------------------
def test_what_is_there_is_not_computed_again_and_columns_can_be_added(tmp_path):
    source = held(100)
    harvest(source, tmp_path / "s", columns=["a"], shard_rows=16)
    before, _ = files(tmp_path / "s")
    source.given = 0
    harvest(source, tmp_path / "s", columns=["a"])
    assert source.given == 0
    both = harvest(source, tmp_path / "s")
    after, _ = files(tmp_path / "s")
    assert before.items() <= after.items()
    rows = both.rows_at(torch.tensor([70, 2]))
    assert torch.equal(rows["b"], source.columns["b"][[70, 2]].bfloat16()) and dict(both.widths) == {"a": 6, "b": 4}
    harvest(held(100), tmp_path / "once", shard_rows=16)
    assert files(tmp_path / "once")[0] == after


def test_only_the_shards_that_are_missing_are_computed(tmp_path):
    source = held(100)
    harvest(source, tmp_path / "s", shard_rows=10, encoding="int8")
    before, _ = files(tmp_path / "s")
    (tmp_path / "s" / "a" / "shard-00003.safetensors").unlink()
    cut = tmp_path / "s" / "b" / "shard-00008.safetensors"
    cut.write_bytes(cut.read_bytes()[:-3])
    source.given = 0
    harvest(source, tmp_path / "s", encoding="int8")
    assert 20 <= source.given <= 40
    assert files(tmp_path / "s")[0] == before
    (tmp_path / "s" / "a" / "shard-00000.safetensors").unlink()  # its scale is in the others too
    harvest(source, tmp_path / "s", encoding="int8")
    assert files(tmp_path / "s")[0] == before


KILLED = """
import sys, time
sys.path.insert(0, {tests!r})
from sources import held
from digsite.store import harvest
source = held(400, a=6, b=4)
chunks = source.chunks
def slow(start=0):
    for rows in chunks(start):
        time.sleep(0.01)
        yield rows
source.chunks = slow
harvest(source, {folder!r}, encoding={{"a": "int8", "b": "fp16"}}, shard_rows=25)
"""


def test_killed_in_mid_harvest_it_goes_on_to_the_same_bits(tmp_path):
    told = {"encoding": {"a": "int8", "b": "fp16"}}
    harvest(held(400, a=6, b=4), tmp_path / "whole", shard_rows=25, **told)
    folder = tmp_path / "killed"
    code = textwrap.dedent(KILLED).format(tests=str(Path(__file__).parent), folder=str(folder))
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ)
    while not (folder / "a" / "shard-00006.safetensors").exists() and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    with pytest.raises(BadInput) as caught:
        Store(folder)
    assert "was not finished" in str(caught.value) and "of 16 shards" in str(caught.value)
    part = Store(folder, partial=True)
    assert 6 * 25 <= part.rows < 400 and sum(rows.count for rows in part.chunks()) == part.rows
    harvest(held(400, a=6, b=4), folder, **told)
    assert files(folder) == files(tmp_path / "whole")


def test_a_full_disk_leaves_the_last_good_state_and_a_rerun_finishes(tmp_path, monkeypatch):
    source, folder = held(100), tmp_path / "s"
    sync, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) > 25:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NotWritten, match=r"No space left on device.*\nDo: Free some space") as caught:
        harvest(source, folder, shard_rows=16)
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert not list(folder.rglob("*.part"))
    part = Store(folder, partial=True)
    part.verify()
    assert 0 < part.rows < 100
    harvest(held(100), folder, shard_rows=16)
    harvest(held(100), tmp_path / "whole", shard_rows=16)
    assert files(folder) == files(tmp_path / "whole")


# -- refused -------------------------------------------------------------------------------------------------------
def test_another_model_corpus_or_encoding_is_refused_with_the_keys_that_differ(tmp_path):
    harvest(held(), tmp_path / "s", shard_rows=16)
    other = held()
    other.about = {"model": "gpt2", "tokens": "u", "bos": "none"}
    with pytest.raises(BadInput) as caught:
        harvest(other, tmp_path / "s", shard_rows=20, encoding="fp32")
    assert str(caught.value) == (
        f"{tmp_path / 's'} holds another harvest.\n"
        "Found: model none there, gpt2 here; tokens t there, u here; shard_rows 16 there, 20 here; "
        "encoding of a bf16 there, fp32 here; encoding of b bf16 there, fp32 here.\n"
        "Do: choose another folder, or ask for what is there."
    )
    changed = held(seed=1)  # says that it is over the same tokens, and is not
    with pytest.raises(BadInput, match="The tokens of shard 0 are not those of"):
        harvest(changed, tmp_path / "s", latents={"sae": Largest("a", 9)}, columns=[])
    again = Largest("a", 9, fingerprint="other")
    harvest(held(), tmp_path / "s", latents={"sae": Largest("a", 9)}, columns=[])
    with pytest.raises(BadInput, match="Found: encoder of sae largest there, other here"):
        harvest(held(), tmp_path / "s", latents={"sae": again}, columns=[])


def test_what_cannot_be_asked_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"The source has no column c.\nPossible: a, b"):
        harvest(held(), tmp_path / "s", columns=["c"])
    with pytest.raises(BadInput, match=r"'fp8' is no encoding.\nPossible: bf16, fp16, fp32, int8"):
        check_encoding("fp8")
    with pytest.raises(BadInput, match="shard_rows=0 is no number of rows"):
        harvest(held(), tmp_path / "s", shard_rows=0)
    with pytest.raises(BadInput, match="A harvest writes at least one column"):
        harvest(held(), tmp_path / "s", columns=[])
    with pytest.raises(BadInput, match="a is the name of something else"):
        harvest(held(), tmp_path / "s", latents={"a": Largest("a", 9)})
    assert not (tmp_path / "s").exists()


def test_numbers_that_cannot_be_written_are_named(tmp_path):
    source = held(50)
    source.columns["b"][37, 2] = float("inf")
    with pytest.raises(NotFinite, match=r"Activations at b must be finite.\nFound: inf in row 37, coordinate 2"):
        harvest(source, tmp_path / "s", shard_rows=16)
    assert Store(tmp_path / "s", partial=True).rows == 32
    assert dict(harvest(source, tmp_path / "s", columns=["a"]).widths) == {"a": 6}
    source.columns["b"][37, 2] = 1e5
    with pytest.raises(NotFinite, match=r"b cannot be written as fp16.\nFound: a number of size 1e\+05"):
        harvest(source, tmp_path / "t", encoding="fp16")


def test_a_source_that_ends_early_is_refused(tmp_path):
    source = held(50)
    chunks = source.chunks
    source.chunks = lambda start=0: iter(list(chunks(start))[:3])
    with pytest.raises(BadInput, match=r"ended before its last row.\nFound: 21 rows.\nPossible: 50"):
        harvest(source, tmp_path / "s")


def test_damage_is_found(tmp_path):
    with pytest.raises(LoadError, match=r"There is no store in .*\nFound: no manifest.json.\nDo: harvest one"):
        Store(tmp_path / "s")
    store = harvest(held(), tmp_path / "s", shard_rows=16)
    store.verify()
    path = tmp_path / "s" / "b" / "shard-00001.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(LoadError, match=r"are not what was written.\nFound: b/shard-00001.safetensors"):
        Store(tmp_path / "s").verify()
    path.write_bytes(data[:-5])
    with pytest.raises(LoadError) as caught:
        Store(tmp_path / "s")
    assert str(caught.value) == (
        f"Shard b/shard-00001.safetensors of {tmp_path / 's'} is not whole.\n"
        f"Found: {len(data) - 5} of {len(data)} bytes.\n"
        "Do: run the same harvest again: it writes what is missing anew."
    )
    path.unlink()
    with pytest.raises(LoadError, match="Found: it is not there"):
        Store(tmp_path / "s")
    assert Store(tmp_path / "s", columns=["a"]).rows == 50
    (tmp_path / "s" / "manifest.json").write_text('{"format": "other"}')
    with pytest.raises(LoadError, match=r"is not the manifest of a store.\nFound: another format"):
        Store(tmp_path / "s")


def test_what_a_store_does_not_have_is_refused(tmp_path):
    store = harvest(held(), tmp_path / "s")
    with pytest.raises(BadInput, match=r"has no column c.\nPossible: a, b"):
        Store(tmp_path / "s", columns=["c"])
    with pytest.raises(BadInput, match=r"There is no row 50.\nPossible: 0 to 49"):
        store.rows_at(torch.tensor([3, 50]))
    with pytest.raises(BadInput, match="There is no row -1"):
        store.rows_at(torch.tensor([-1, 50]))
    with pytest.raises(BadInput, match="has no column c"):
        store.statistics("c")


# -- the plan ------------------------------------------------------------------------------------------------------
def test_the_plan_says_what_the_harvest_takes(tmp_path):
    source = held(3000, a=64, b=32)
    told = {"encoding": {"a": "int8", "b": "fp16"}, "latents": {"sae": Largest("b", 32)}}
    plan = plan_harvest(source, tmp_path / "s", **told, shard_rows=1000)
    store = harvest(source, tmp_path / "s", **told, shard_rows=1000)
    assert plan.disk == pytest.approx(store.bytes, rel=0.08)
    assert plan.rows == 3000 and plan.present == 0 and plan.shards == 3 and plan.fits and not plan.notes
    assert plan.memory > 1000 * (96 * 4) and plan.seconds > 0
    assert "3,000 rows in 3 shards" in repr(plan) and all(len(line) <= 80 for line in repr(plan).splitlines())
    later = plan_harvest(source, tmp_path / "s", **told)
    assert later.disk == 0 and later.present == 3000 and "(3,000 are there already)" in later.verdict


def test_the_plan_names_a_constant_column_and_a_disk_that_is_too_small(tmp_path, monkeypatch):
    source = held(50)
    source.columns["b"][:] = 2.0
    plan = plan_harvest(source, tmp_path / "s")
    assert plan.notes == ("every row of b is the same in the rehearsal; there is nothing in it to learn",)
    assert harvest(source, tmp_path / "s").statistics("b").variance == 0
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10}))
    full = plan_harvest(source, tmp_path / "new" / "s")
    assert full.fits is False and full.verdict.startswith("does not fit: 50 rows in 1 shard:")


def test_the_manifest_says_where_everything_comes_from(tmp_path):
    harvest(held(), tmp_path / "s", shard_rows=16)
    manifest = json.loads((tmp_path / "s" / "manifest.json").read_text())
    assert manifest["identity"] == {"model": "none", "tokens": "t", "bos": "none"}
    assert manifest["columns"]["a"]["provenance"]["tokens"] == "t" and manifest["rows"] == 50
    for name, entry in manifest["files"].items():
        data = (tmp_path / "s" / name).read_bytes()
        assert entry == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert set(manifest["files"]) == {
        f"{folder}/shard-{i:05d}.safetensors" for folder in ("a", "b", "tokens") for i in range(4)
    }
