"""Running the command inside the test process."""

import contextlib
import io
import os
from typing import NamedTuple

MODEL = "digsite/tinyworld"


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def run(*words: str) -> Outcome:
    """What `digsite WORDS` prints in a pipe of 80 columns, and its exit code."""
    from digsite.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "80"
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main(words)
    except SystemExit as end:
        code = end.code
    else:
        raise AssertionError("main() returned")
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
    assert isinstance(code, int)
    return Outcome(code, out.getvalue(), err.getvalue())


def fits(text: str) -> bool:
    """Whether plain text fits 80 columns."""
    return "\x1b" not in text and all(len(line) <= 80 for line in text.splitlines())


def pages() -> list[tuple[str, ...]]:
    """Every command, as words."""
    from digsite.cli.main import app

    found: list[tuple[str, ...]] = [()]
    for name in (name for name in app if not name.startswith("-")):
        found.append((name,))
        found += [(name, verb) for verb in app[name] if not verb.startswith("-")]
    return found
