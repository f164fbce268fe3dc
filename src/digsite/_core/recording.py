"""Methods that are remembered: what a dig is told when one begins, ends, fails or is interrupted.

A method is a function that returns a result. `@method` makes it known to whoever keeps a record; where nobody does, it
is called as it is. Only the outermost method is recorded, with what it calls inside it.

Who keeps a record, in this order:

1. The recorder of the innermost `recording_to` block.
2. The dig that the environment names in DIGSITE_DIG; nobody where it says off.
3. The dig whose folder the working directory lies in.
"""

import functools
import importlib
import inspect
import os
import reprlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar, runtime_checkable

MARKER = "dig.sqlite"
"""The file that makes a folder a dig."""

Arguments = ParamSpec("Arguments")
Found = TypeVar("Found")


@runtime_checkable
class Recording(Protocol):
    """One method at work."""

    def done(self, result: Any) -> None:
        """It has given this."""
        ...

    def failed(self, error: BaseException) -> None:
        """It was ended by this: an error, or the user."""
        ...


@runtime_checkable
class Recorder(Protocol):
    """Whoever keeps a record."""

    def begin(self, name: str, call: str) -> Recording:
        """A method of this name was called, in these words."""
        ...


_RECORDER: ContextVar[Recorder | None] = ContextVar("recorder", default=None)
_AT_WORK: ContextVar[bool] = ContextVar("a method is being recorded", default=False)


def method(function: Callable[Arguments, Found]) -> Callable[Arguments, Found]:
    """A function that returns a result, and is remembered where a record is kept."""
    rooms = function.__module__.split(".")
    name = f"{rooms[1] if rooms[0] == 'digsite' else rooms[-1]}.{function.__name__}"

    @functools.wraps(function)
    def recorded(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Found:
        recorder = None if _AT_WORK.get() else _recorder()
        if recorder is None:
            return function(*args, **kwargs)
        recording = recorder.begin(name, call_of(function, args, kwargs))
        token = _AT_WORK.set(True)
        try:
            found = function(*args, **kwargs)
        except BaseException as error:
            recording.failed(error)
            raise
        finally:
            _AT_WORK.reset(token)
        recording.done(found)
        return found

    recorded.is_method = True  # pyright: ignore[reportAttributeAccessIssue]
    return recorded


@contextmanager
def recording_to(recorder: Recorder) -> Iterator[None]:
    """Methods inside the block are told to this recorder."""
    token = _RECORDER.set(recorder)
    try:
        yield
    finally:
        _RECORDER.reset(token)


def dig_around(folder: Path) -> Path | None:
    """The dig that a folder is, or lies in."""
    return next((one for one in (folder, *folder.parents) if (one / MARKER).is_file()), None)


def _recorder() -> Recorder | None:
    given = _RECORDER.get()
    named = os.environ.get("DIGSITE_DIG")
    if given is not None or named == "off":
        return given
    folder = Path(named) if named else dig_around(Path.cwd())
    # By name: digs lie above this room.
    return None if folder is None else importlib.import_module("digsite.journal").Dig(folder)


def call_of(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """A call in words: plain arguments as they are, large ones by what they call themselves."""
    bound = inspect.signature(function).bind(*args, **kwargs)
    told = [f"{name}={_short(value)}" for name, value in bound.arguments.items()]
    return f"{function.__module__}.{function.__name__}({', '.join(told)})"


_WORDS = reprlib.Repr()
_WORDS.maxstring, _WORDS.maxother = 200, 120
_WORDS.maxlist = _WORDS.maxtuple = _WORDS.maxdict = 12


def _short(value: Any) -> str:
    named = getattr(value, "name", None)
    if isinstance(named, str) and not isinstance(value, type):
        return f"<{type(value).__name__} {named}>"
    return " ".join(_WORDS.repr(value).split())
