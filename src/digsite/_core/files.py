"""Files that are written whole or not at all, so that a kill or a full disk leaves the last good state.

1. Everything is first written beside its place, under a hidden name that ends in `.part`.
2. It is forced to the disk, then renamed into place; a rename happens or does not.
3. On any error what was written beside is removed and the old state stays.

A folder cannot be renamed over another one, so the old folder first steps aside as `.<name>.previous`. A kill between
the two renames is put right by `settle`, which every later read and write of that folder calls. What of the old folder
is not to be taken over is written into it before it steps aside, so that `settle` knows it in another process too.
"""

import fnmatch
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from digsite._core.errors import BadInput, DigsiteError, explain

_PARTS = ".digsite-parts.json"


class NotWritten(DigsiteError, OSError):
    """A file or folder could not be written; what was there before is untouched."""


def write_whole(path: str | Path, data: bytes | str) -> Path:
    """Write a file so that readers see the old content or all of the new, never a part.

    Args:
        path: Where; missing folders are made.
        data: Text is written as UTF-8.

    Raises:
        NotWritten: The disk is full, or the place cannot be written.
    """
    path = Path(path)
    part = _beside(path)
    with _all_or_nothing(path, part):
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        _sync(path.parent)
    return path


@contextmanager
def whole_folder(path: str | Path, *, marker: str = "result.json", parts: Sequence[str] = ()) -> Iterator[Path]:
    """Fill a folder that appears at its place only when the block has ended well.

    A folder that is there already is replaced if it holds `marker`; files and folders in it that the new one does not
    write are kept, because they may be somebody's notes.

    Args:
        path: Where the folder will be; missing parents are made.
        marker: A file that says that a folder is digsite's to replace.
        parts: Names, or patterns such as `W_*`, of what this kind of folder may hold beside it; old ones are not kept.

    Yields:
        The folder to write into, which is hidden beside `path`.

    Raises:
        BadInput: `path` is a file, or a folder with other things in it.
        NotWritten: The disk is full, or the place cannot be written.
    """
    path = Path(path)
    settle(path)
    _must_be_ours(path, marker)
    part = _beside(path)
    with _all_or_nothing(path, part):
        part.mkdir(parents=True)
        yield part
        for file in sorted(part.rglob("*")):
            _sync(file)
        _sync(part)
        previous = _previous(path)
        try:
            if path.exists():
                if parts:
                    write_whole(path / _PARTS, json.dumps(list(parts)))
                path.rename(previous)
            part.rename(path)
        except OSError:
            settle(path)
            (path / _PARTS).unlink(missing_ok=True)
            raise
        settle(path)
        _sync(path.parent)


def settle(path: Path) -> None:
    """Finish, or undo, a replacement of a folder that was cut off between its two renames."""
    previous = _previous(path)
    if not previous.exists():
        return
    if not path.exists():
        previous.rename(path)
        (path / _PARTS).unlink(missing_ok=True)
        return
    parts = json.loads((previous / _PARTS).read_bytes()) if (previous / _PARTS).exists() else []
    for old in previous.iterdir():
        stays = not any(fnmatch.fnmatchcase(old.name, part) for part in (_PARTS, *parts))
        if stays and not (path / old.name).exists():
            old.rename(path / old.name)
    shutil.rmtree(previous)


@contextmanager
def _all_or_nothing(path: Path, part: Path) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        with suppress(OSError):
            shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)
        # Failures of the disk are ours to explain; any other error from inside the block keeps its own words.
        if not isinstance(error, OSError) or isinstance(error, DigsiteError):
            raise
        failed = NotWritten(
            explain(
                f"{path} could not be written",
                found=str(error),
                do="Free some space or choose another place; what was there before is untouched",
            )
        )
        failed.errno = error.errno
        raise failed from error


def _must_be_ours(path: Path, marker: str) -> None:
    if not path.exists():
        return
    found = "it is a file"
    if path.is_dir():
        held = sorted(entry.name for entry in path.iterdir())
        if not held or marker in held:
            return
        found = f"it is a folder without {marker}, holding {', '.join(held[:3])}{', …' * (len(held) > 3)}"
    raise BadInput(explain(f"{path} cannot be replaced by a result", found=found, do="Choose a new or an empty folder"))


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")


def _previous(path: Path) -> Path:
    return path.with_name(f".{path.name}.previous")


def _sync(path: Path) -> None:
    """Force a file, or the entries of a folder, to the disk; some systems cannot do it for folders."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with suppress(PermissionError):
            os.fsync(handle)
    finally:
        os.close(handle)
