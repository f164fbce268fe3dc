"""Where the files of a store are: in a folder, or as objects behind a URL. Both give and take whole files.

An object is read through a folder on this machine, in which each file is named by its digest: what was fetched once is
not fetched again, and can never be out of date.
"""

import hashlib
import os
from functools import cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from digsite._core.errors import LoadError, MissingExtra, explain
from digsite._core.files import NotWritten, write_whole


@runtime_checkable
class Place(Protocol):
    """Files by name."""

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where it is not there."""
        ...

    def whole(self, name: str, size: int) -> bool:
        """Whether a file that was written is still there and has this many bytes."""
        ...

    def read(self, name: str) -> bytes:
        """A small file's content."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Puts a file there, whole or not at all."""
        ...

    def local(self, name: str, sha256: str) -> Path:
        """Where the file can be opened on this machine."""
        ...

    def tidy(self) -> None:
        """Takes away what a killed write left behind."""
        ...


class Folder:
    """A folder on this machine."""

    def __init__(self, path: Path):
        self.path = path

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where it is not there."""
        path = self.path / name
        return path.stat().st_size if path.is_file() else None

    def whole(self, name: str, size: int) -> bool:
        """Whether a file that was written is still there and has this many bytes."""
        return self.size(name) == size

    def read(self, name: str) -> bytes:
        """A small file's content."""
        return (self.path / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        """Puts a file there, whole or not at all."""
        write_whole(self.path / name, data)

    def local(self, name: str, sha256: str) -> Path:
        """Where the file can be opened."""
        return self.path / name

    def tidy(self) -> None:
        """Takes away what a killed write left behind."""
        for part in self.path.rglob(".*.part"):
            part.unlink(missing_ok=True)

    def __str__(self) -> str:
        return str(self.path)


class Objects:
    """Objects behind a URL such as s3://bucket/folder; credentials come from the environment."""

    def __init__(self, url: str, cached: Path):
        self.url, self.cached, self.objects = url, cached, _opened(url)

    def size(self, name: str) -> int | None:
        """Bytes of an object; None where it is not there."""
        try:
            return self.objects.head(name)["size"]
        except FileNotFoundError:
            return None

    def whole(self, name: str, size: int) -> bool:
        """An object that was put is there and whole; its digest is checked when it is fetched."""
        return True

    def read(self, name: str) -> bytes:
        """An object's content."""
        return bytes(self.objects.get(name).bytes())

    def write(self, name: str, data: bytes) -> None:
        """Puts an object there, whole or not at all.

        Raises:
            NotWritten: The other side did not take it.
        """
        try:
            self.objects.put(name, data)
        except Exception as error:  # obstore's errors have no common class but this one
            raise NotWritten(
                explain(f"{self.url}/{name} could not be written", found=str(error), do="run the same harvest again")
            ) from error

    def local(self, name: str, sha256: str) -> Path:
        """Where a copy can be opened on this machine; it is fetched if it is not there yet.

        Raises:
            LoadError: What was fetched is not what the manifest says.
        """
        path = self.cached / f"{sha256}.safetensors"
        if not path.is_file():
            data = self.read(name)
            if (found := hashlib.sha256(data).hexdigest()) != sha256:
                raise LoadError(
                    explain(
                        f"{self.url}/{name} is not what the manifest says",
                        found=f"sha256 {found}",
                        do="run the same harvest again: it writes this shard anew",
                    )
                )
            write_whole(path, data)
        return path

    def tidy(self) -> None:
        """Nothing is left behind by a killed write of an object."""

    def __str__(self) -> str:
        return self.url


def place_of(folder: str | Path, cached: Path | None = None) -> Place:
    """The place that a path or a URL names.

    Args:
        folder: A path, or a URL with s3://, gs://, az://, file:// or memory:// in front.
        cached: Where copies of objects are kept; unless given, DIGSITE_CACHE, or .cache/digsite at home.

    Raises:
        MissingExtra: A URL, and obstore is not installed.
    """
    if "://" not in str(folder):
        return Folder(Path(folder))
    home = Path(os.environ.get("DIGSITE_CACHE") or Path.home() / ".cache" / "digsite")
    return Objects(str(folder).rstrip("/"), cached or home / "store")


@cache
def _opened(url: str) -> Any:
    """One client a URL: what memory:// holds lives as long as the process."""
    try:
        from obstore import store
    except ImportError as error:
        raise MissingExtra("obstore", "cloud", f"A store at {url}") from error
    if url.startswith("memory://"):
        return store.MemoryStore()
    if url.startswith("file://"):
        return store.LocalStore(url.removeprefix("file://"), mkdir=True)
    return store.from_url(url)
