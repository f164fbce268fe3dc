"""The folder of the daily log: one Markdown file a day, read whole and changed one file at a time.

1. A file is an entry if its name begins with a day, or its front matter says one. All other files are left alone.
2. A change takes the folder's lock, reads the file, writes it whole, and begins anew if somebody else, an editor that
   knows of no lock, wrote it in between.
"""

import re
from collections.abc import Callable
from datetime import date
from pathlib import Path

from filelock import FileLock

from digsite._core.errors import BadInput, LoadError, explain
from digsite._core.files import write_whole
from digsite.journal.log.entry import Entry, read_entry, write_entry

GENERATED = "<!-- Made by `digsite log summary`. What is written here by hand is lost when it is made again. -->"
_PAGE = '<meta name="generator" content="digsite">'
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}(?!\d)")
_SAYS_A_DAY = re.compile(r"\ufeff?---[ \t]*\r?\n(?:(?!---).*\n)*?date[ \t]*:")
_TRIES = 20


class Log:
    """The daily log of a dig.

    Args:
        folder: Where its files are; it is made with the first entry.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def __repr__(self) -> str:
        return f"Log({str(self.folder)!r})"

    def entries(self) -> tuple[Entry, ...]:
        """All entries in the order of their days.

        Raises:
            BadInput: Some cannot be read; all that is wrong is said at once, and nothing was changed.
        """
        read, problems = [], []
        for path in sorted(self.folder.glob("*.md"), key=lambda path: path.name):
            try:
                text = _text(path)
                if _DAY.match(path.name) or _SAYS_A_DAY.match(text):
                    read.append(read_entry(text, path))
            except BadInput as error:
                problems.append(str(error))
        if problems:
            raise BadInput("\n".join(problems))
        return tuple(sorted(read, key=lambda entry: (entry.date, entry.file)))

    def entry(self, day: date) -> Entry | None:
        """The entry of a day; the first of several; None where there is none."""
        path = self._path(day)
        return read_entry(_text(path), path) if path.exists() else None

    def newest(self, day: date) -> Entry | None:
        """The newest entry up to a day, by the names of the files."""
        named = [path for path in self.folder.glob("*.md") if _DAY.match(path.name) and path.name[:10] <= str(day)]
        return read_entry(_text(path), path) if (path := max(named, default=None)) else None

    def change(self, day: date, change: Callable[[Entry], Entry], *, new: str = "", file: str = "") -> Entry:
        """Changes the entry of a day.

        Args:
            day: The day.
            change: From the entry as it is to the entry as it shall be; it may be called again.
            new: The text to begin with where the day has no file.
            file: The name of the file, where it is not the day's first.

        Returns:
            The entry as it was written.

        Raises:
            BadInput: The file cannot be read, or its form cannot say this; it stays as it was.
            NotWritten: The disk is full; the file stays as it was.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            path = self.folder / file if file else self._path(day)
            for _ in range(_TRIES):
                before = path.read_bytes() if path.exists() else None
                text = new if before is None else _text(path, before)
                written = write_entry(change(read_entry(text, path)), text)
                if (path.read_bytes() if path.exists() else None) == before:
                    if written.encode() != before:
                        write_whole(path, written)
                    return read_entry(written, path)
        raise BadInput(explain(f"{path.name} is being written all the time", do="Close what writes it, and try again"))

    def write_page(self, name: str, text: str) -> Path:
        """Writes a generated page, unless a file of that name was written by hand.

        Raises:
            BadInput: The file was not generated.
        """
        path = self.folder / name
        if path.exists() and not any(sign in _text(path)[:800] for sign in (GENERATED, _PAGE)):
            do = f"Give it another name, so that {name} can be made"
            raise BadInput(explain(f"{path} was written by hand", found=_text(path)[:60].strip(), do=do))
        return write_whole(path, text)

    def _path(self, day: date) -> Path:
        path = self.folder / f"{day}.md"
        return path if path.exists() else min(self.folder.glob(f"{day}[!0-9]*.md"), default=path)


def _text(path: Path, content: bytes | None = None) -> str:
    """The text of a file with its line ends as they are."""
    try:
        return (_bytes(path) if content is None else content).decode()
    except UnicodeDecodeError as error:
        found = f"byte {error.object[error.start]:#x} at {error.start}"
        raise BadInput(explain(f"{path.name} is no UTF-8 text", found=found, do="Save it as UTF-8")) from None
    except OSError as error:
        raise LoadError(explain(f"{path} cannot be read", found=str(error))) from error


def _bytes(path: Path) -> bytes:
    with path.open("rb", buffering=0) as file:  # a log has thousands of files, and none needs a buffer
        return file.read()
