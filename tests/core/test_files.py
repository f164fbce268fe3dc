import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from digsite._core.errors import BadInput, DigsiteError
from digsite._core.files import NotWritten, settle, whole_folder, write_whole


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def fill(folder: Path, **files: str) -> None:
    with whole_folder(folder) as new:
        for name, text in files.items():
            (new / name.replace("_", ".")).write_text(text)


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_is_written_with_its_folders_and_nothing_beside(tmp_path):
    path = write_whole(tmp_path / "a" / "b.txt", "é")
    assert path.read_bytes() == "é".encode()
    write_whole(path, b"\x00")
    assert path.read_bytes() == b"\x00"
    assert names(path.parent) == ["b.txt"]


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, fails):
    path = write_whole(tmp_path / "a.txt", "old")
    monkeypatch.setattr(*((os, "fsync") if fails == "fsync" else (Path, "replace")), full_disk)
    with pytest.raises(NotWritten, match=r"a\.txt could not be written\.\nFound: .*No space left on device") as caught:
        write_whole(path, "new")
    assert caught.value.errno == errno.ENOSPC
    assert isinstance(caught.value, DigsiteError) and isinstance(caught.value, OSError)
    assert path.read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_a_limit_of_the_system_leaves_the_old_file(tmp_path):
    """A real refusal by the kernel, in a process that may write files of 4 kB at most."""
    (tmp_path / "a.bin").write_bytes(b"old")
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "from digsite._core.files import NotWritten, whole_folder, write_whole\n"
        "for work in ('file', 'folder'):\n"
        "    try:\n"
        "        if work == 'file': write_whole(sys.argv[1] + '/a.bin', b'x' * 10**6)\n"
        "        else:\n"
        "            with whole_folder(sys.argv[1] + '/f') as new: (new / 'result.json').write_bytes(b'x' * 10**6)\n"
        "    except NotWritten as error: print(error.errno)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(errno.EFBIG)] * 2
    assert names(tmp_path) == ["a.bin"] and (tmp_path / "a.bin").read_bytes() == b"old"


def test_a_folder_appears_when_it_is_whole(tmp_path):
    with whole_folder(tmp_path / "runs" / "one") as new:
        (new / "result.json").write_text("1")
        assert not (tmp_path / "runs" / "one").exists()
    assert names(tmp_path / "runs") == ["one"] and names(tmp_path / "runs" / "one") == ["result.json"]


def test_a_folder_is_replaced_and_notes_in_it_are_kept(tmp_path):
    fill(tmp_path / "run", result_json="1", old_txt="gone?")
    (tmp_path / "run" / "notes.md").write_text("mine")
    fill(tmp_path / "run", result_json="2")
    assert (tmp_path / "run" / "result.json").read_text() == "2"
    assert (tmp_path / "run" / "notes.md").read_text() == "mine"
    assert names(tmp_path) == ["run"]


@pytest.mark.parametrize("killed", [False, True])
def test_a_part_of_the_old_folder_is_not_taken_over(tmp_path, killed):
    """Nor where the process dies when the new folder stands, and another one settles it."""
    fill(tmp_path / "run", result_json="1", W_7="old")
    (tmp_path / "run" / "roles").mkdir()
    (tmp_path / "run" / "roles" / "result.json").write_text("old")
    (tmp_path / "run" / "mine").mkdir()
    (tmp_path / "run" / "mine" / "notes.md").write_text("mine")
    code = (
        "import os, sys; from digsite._core import files\n"
        "settle, left = files.settle, [2]\n"
        "def dying(path):\n"
        "    left[0] -= 1\n"
        "    if not left[0] and sys.argv[2] == 'True': os._exit(9)\n"
        "    settle(path)\n"
        "files.settle = dying\n"
        "with files.whole_folder(sys.argv[1], parts=('roles', 'W.*')) as new: (new / 'result.json').write_text('2')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run"), str(killed)], check=False)
    assert done.returncode == (9 if killed else 0)
    assert names(tmp_path) == [".run.previous", "run"][1 - killed :]
    settle(tmp_path / "run")
    assert names(tmp_path) == ["run"] and names(tmp_path / "run") == ["mine", "result.json"]
    assert (tmp_path / "run" / "mine" / "notes.md").read_text() == "mine"


@pytest.mark.parametrize("failing", ["run", ".part"])
def test_an_undone_replacement_leaves_the_old_folder_as_it_was(tmp_path, monkeypatch, failing):
    fill(tmp_path / "run", result_json="1", roles="old")
    rename = Path.rename
    fails = lambda path: path.name.endswith(failing)  # noqa: E731
    monkeypatch.setattr(Path, "rename", lambda self, to: full_disk() if fails(self) else rename(self, to))
    with pytest.raises(NotWritten), whole_folder(tmp_path / "run", parts=("roles",)) as new:
        (new / "result.json").write_text("2")
    assert names(tmp_path / "run") == ["result.json", "roles"]


def test_an_error_inside_the_block_leaves_the_old_folder(tmp_path):
    fill(tmp_path / "run", result_json="1")
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "run") as new:
        (new / "result.json").write_text("2")
        _ = 1 / 0
    assert (tmp_path / "run" / "result.json").read_text() == "1" and names(tmp_path) == ["run"]


@pytest.mark.parametrize("failing", [1, 2])
def test_a_rename_that_fails_leaves_the_old_folder(tmp_path, monkeypatch, failing):
    fill(tmp_path / "run", result_json="1")
    rename, calls = Path.rename, []

    def sometimes(self: Path, target: Path) -> Path:
        calls.append(self)
        return full_disk() if len(calls) == failing else rename(self, target)  # pyright: ignore[reportReturnType]

    monkeypatch.setattr(Path, "rename", sometimes)
    with pytest.raises(NotWritten, match="No space left"):
        fill(tmp_path / "run", result_json="2")
    assert (tmp_path / "run" / "result.json").read_text() == "1" and names(tmp_path) == ["run"]


@pytest.mark.parametrize("killed_at", [1, 2, 3])
def test_a_kill_between_renames_is_put_right(tmp_path, killed_at):
    """The process dies, without any clean-up, just before its first, second or third rename."""
    fill(tmp_path / "run", result_json="1", notes_md="mine")
    code = (
        "import os, sys; from pathlib import Path; from digsite._core.files import whole_folder\n"
        "rename, left = Path.rename, [int(sys.argv[2])]\n"
        "def dying(self, target):\n"
        "    left[0] -= 1\n"
        "    if not left[0]: os._exit(9)\n"
        "    return rename(self, target)\n"
        "Path.rename = dying\n"
        "with whole_folder(sys.argv[1]) as new: (new / 'result.json').write_text('2')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run"), str(killed_at)], check=False)
    assert done.returncode == 9
    settle(tmp_path / "run")
    assert (tmp_path / "run" / "result.json").read_text() == ("1" if killed_at < 3 else "2")
    assert (tmp_path / "run" / "notes.md").read_text() == "mine"
    assert [name for name in names(tmp_path) if not name.endswith(".part")] == ["run"]


@pytest.mark.parametrize("there", ["file", "folder"])
def test_what_is_not_ours_is_not_replaced(tmp_path, there):
    path = tmp_path / "home"
    if there == "file":
        path.write_text("thesis")
    else:
        path.mkdir()
        (path / "thesis.tex").write_text("thesis")
    with pytest.raises(
        BadInput, match=r"cannot be replaced by a result\.\nFound: it is a (file|.* holding thesis\.tex)"
    ):
        fill(path, result_json="1")
    assert (path if there == "file" else path / "thesis.tex").read_text() == "thesis"


def test_an_empty_folder_may_be_filled(tmp_path):
    (tmp_path / "empty").mkdir()
    fill(tmp_path / "empty", result_json="1")
    assert names(tmp_path / "empty") == ["result.json"]
