import errno
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from results_for_tests import Large, Pair, Small, made, small

import digsite
from digsite._core.errors import BadInput, LoadError
from digsite._core.files import NotWritten
from digsite.artifacts import Result, load_result


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return small(torch.tensor([[1.0, 2.0], [3.0, 4.0]])).save(tmp_path / "run")


def change(run: Path, **fields: object) -> None:
    document = json.loads((run / "result.json").read_text())
    document.update(fields)
    (run / "result.json").write_text(json.dumps({key: value for key, value in document.items() if value != "remove"}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"schema": "tests.small/2"},
            r"'tests\.small/2'.*\nFound: a newer version; .* version 1\.\nDo: Update digsite",
        ),
        (
            {"schema": "tests.large/1"},
            r"Found: an? older version; .* version 2\.\nDo: Read it with the digsite that its",
        ),
        ({"schema": "tests.smal/1"}, r"cannot read\.\nPossible: did you mean tests\.small/1\?"),
        ({"schema": "os.system('x')"}, r"which this digsite cannot read"),
        ({"schema": 3}, "a result with its schema"),
        ({"scores": "remove"}, r"fields of Small\.\nFound: missing: \['scores'\]; unused: \[\]"),
        ({"score": 1}, r"missing: \[\]; unused: \['score'\]"),
        ({"scores": {"tensor": "other"}}, r"scores cannot be read: it should be the tensor 'scores'"),
        ({"scores": [[1.0]]}, r"scores cannot be read"),
        ({"provenance": None}, r"provenance cannot be read: it should be the fields of Provenance"),
        ({"cost": {}}, r"cost does not have the fields of Cost\.\nFound: missing: \['backwards', 'cpu_seconds'"),
        ({"files": {}}, r"scores cannot be read: it should be the tensor"),
        ({"files": {"more.parquet": ""}}, r"is broken\.\nFound: FileNotFoundError"),
        ({"files": {"../../secret.parquet": ""}}, r"is broken\.\nFound: ValueError: .* is not a file name"),
        ({"files": {"tensors.safetensors": "0"}}, r"ValueError: tensors\.safetensors is not the file that was saved"),
        ({"files": ["tensors.safetensors"]}, r"is broken\.\nFound: AttributeError"),
        ({"files": "remove"}, r"is broken\.\nFound: KeyError"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(run, fields, message):
    change(run, **fields)
    with pytest.raises(LoadError, match=message) as caught:
        load_result(run)
    assert str(run) in str(caught.value)


@pytest.mark.parametrize("value", ["1", True, None, [1.0], "nan"])
def test_a_number_is_not_guessed_from_something_else(run, value):
    cost = json.loads((run / "result.json").read_text())["cost"]
    change(run, cost=cost | {"seconds": value})
    with pytest.raises(LoadError, match=r"cost/seconds cannot be read: it should be float"):
        load_result(run)


def test_tensors_that_no_field_asked_for_are_refused(run):
    def put(**tensors: torch.Tensor) -> None:
        content = safetensors.torch.save(tensors)
        (run / "tensors.safetensors").write_bytes(content)
        change(run, files={"tensors.safetensors": hashlib.sha256(content).hexdigest()})

    put(scores=torch.zeros(1, 1), more=torch.zeros(1))
    with pytest.raises(LoadError, match=r"more in it than its class\.\nFound: unused: \['more'\]"):
        load_result(run)
    put(scores=torch.zeros(3))
    with pytest.raises(
        LoadError, match=r"should be Float\[Tensor, 'example layer'\]\.\nFound: a tensor of torch.float32 and"
    ):
        load_result(run)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_changed_byte_of_a_tensor_is_noticed(tmp_path_factory, data):
    run = small(torch.ones(2, 2)).save(tmp_path_factory.mktemp("changed") / "run")
    content = bytearray((run / "tensors.safetensors").read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (run / "tensors.safetensors").write_bytes(content)
    with pytest.raises(LoadError, match="its SHA-256 differs"):
        load_result(run)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_truncated_file_is_an_error_not_a_result(tmp_path_factory, data):
    run = small(torch.ones(2, 2)).save(tmp_path_factory.mktemp("broken") / "run")
    victim = run / data.draw(st.sampled_from(["result.json", "tensors.safetensors"]))
    content = victim.read_bytes()
    victim.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(LoadError, match="is broken"):
        load_result(run)


def test_a_pickle_is_never_opened(run):
    torch.save({"scores": torch.ones(2, 2)}, run / "tensors.safetensors")  # noqa: TID251
    with pytest.raises(LoadError, match="is broken"):
        load_result(run)


def test_a_folder_without_a_result_is_named(tmp_path):
    with pytest.raises(LoadError, match=r"There is no result in .*nowhere\.\nFound: no such folder"):
        load_result(tmp_path / "nowhere")
    with pytest.raises(LoadError, match=r"Found: a folder without result\.json"):
        load_result(tmp_path)


def test_a_result_of_another_class_is_refused(run):
    with pytest.raises(LoadError, match=r"asked for a Large\.\nFound: a Small \(tests\.small/1\)"):
        Large.load(run)


def test_a_field_that_holds_something_else_is_refused_before_anything_is_written(tmp_path):
    good = small(torch.ones(1, 1))
    for field, value, message in (
        ("scores", torch.ones(3), r"scores cannot be saved: it should be Float\[Tensor, 'example layer'\]"),
        ("scores", [1.0], r"scores cannot be saved.*\nFound: list '\[1\.0\]'"),
        ("provenance", Pair("a"), r"provenance cannot be saved: it should be a Provenance"),
    ):
        bad = object.__new__(Small)  # past the checks of the constructor, as in a run without type checking
        vars(bad).update(vars(good) | {field: value})
        with pytest.raises(BadInput, match=message):
            bad.save(tmp_path / "run")
    with pytest.raises(BadInput, match=r"cost/seconds cannot be saved: it should be float\.\nFound: str '1 s'"):
        cost = made()[1]
        vars(cost)["seconds"] = "1 s"
        replace(good, cost=cost).save(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_result(run, monkeypatch):
    write = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if self.name == "result.json":
            write(self, data[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(NotWritten, match=r"run could not be written\.\nFound: .*No space left on device"):
        small(torch.zeros(9, 9)).save(run)
    monkeypatch.undo()
    assert Small.load(run).scores.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert [entry.name for entry in run.parent.iterdir()] == ["run"]


def test_a_kill_half_way_leaves_the_old_result(run):
    code = (
        "import os, sys, torch; from pathlib import Path; from results_for_tests import small\n"
        "write = Path.write_bytes\n"
        "def dying(self, data):\n"
        "    write(self, data[:20]); os._exit(9)\n"
        "Path.write_bytes = dying\n"
        "small(torch.zeros(9, 9)).save(sys.argv[1])\n"
    )
    paths = [str(Path(__file__).parent), str(Path(digsite.__file__).parents[1])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run([sys.executable, "-c", code, str(run)], env=environment, check=False)
    assert done.returncode == 9
    assert Small.load(run).scores.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    small(torch.zeros(1, 1)).save(run)
    assert Small.load(run).scores.shape == (1, 1)


def test_schemas_are_well_formed_and_belong_to_one_class():
    with pytest.raises(ValueError, match=r"must look like 'patching\.activation/1'"):
        type("Bad", (Result,), {"SCHEMA": "Bad v1"})
    with pytest.raises(ValueError, match=r"'tests\.small/1' of Other is that of .*Small already"):
        type("Other", (Result,), {"SCHEMA": "tests.small/1"})
    with pytest.raises(TypeError, match="field 'files'"):
        type("Reserved", (Result,), {"__annotations__": {"files": list[str]}})


def test_a_field_of_a_type_that_cannot_be_saved_says_which_can(tmp_path):
    @dataclass(frozen=True, kw_only=True)
    class Odd(Small):
        SCHEMA: ClassVar[str] = "tests.odd/1"
        things: set[str]

    provenance, cost = made()
    odd = Odd(provenance=provenance, cost=cost, scores=torch.ones(1, 1), things={"a"})
    with pytest.raises(BadInput, match=r"type set\[str\] cannot be saved\.\nPossible: None bool int"):
        odd.save(tmp_path / "run")


@pytest.mark.parametrize("value", [(1, 2), float("nan"), {1: 2}, {"deep": [torch.ones(1)]}])
def test_plain_data_that_would_come_back_changed_is_refused(tmp_path, value):
    @dataclass(frozen=True, kw_only=True)
    class Loose(Small):
        SCHEMA: ClassVar[str] = "tests.loose/1"
        summary: Any

    provenance, cost = made()
    loose = Loose(provenance=provenance, cost=cost, scores=torch.ones(1, 1), summary=value)
    with pytest.raises(BadInput, match=r"summary.* cannot be saved: it should be plain JSON"):
        loose.save(tmp_path / "run")
