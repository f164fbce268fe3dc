"""Where a result comes from: everything needed to make it again."""

import platform
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version

from digsite._core.version import __version__

_COMMAND: ContextVar[str | None] = ContextVar("command line", default=None)


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a result comes from.

    Attributes:
        made_by: The shell command, or the Python call, that makes it again.
        model: Name or folder of the model, None where none was used.
        revision: The commit of a hub model.
        weights: Fingerprint of the weights that ran.
        tokens: Fingerprint of the exact token ids and mask.
        seed: The seed of every random choice, None where there was none.
        dtype: Of the weights, such as `float32`.
        device: Where the model ran, such as `cpu` or `cuda:0`.
        created: UTC, ISO 8601.
        digsite: Version of digsite.
        python: Version of Python.
        torch: Version of PyTorch.
        transformers: Version of transformers.
        platform: Operating system and processor.
    """

    made_by: str
    model: str | None = None
    revision: str | None = None
    weights: str | None = None
    tokens: str | None = None
    seed: int | None = None
    dtype: str | None = None
    device: str | None = None
    created: str
    digsite: str
    python: str
    torch: str
    transformers: str
    platform: str

    def to_dict(self) -> dict[str, str | int | None]:
        """The fields by name, ready for JSON."""
        return asdict(self)


def record(
    call: str,
    *,
    model: str | None = None,
    revision: str | None = None,
    weights: str | None = None,
    tokens: str | None = None,
    seed: int | None = None,
    dtype: str | None = None,
    device: str | None = None,
) -> Provenance:
    """Write down where a result comes from; versions, platform and time are found here.

    Args:
        call: The Python call that makes the result again; the digsite command takes its place when one is running.
        model: Name or folder of the model.
        revision: The commit of a hub model.
        weights: Fingerprint of the weights.
        tokens: Fingerprint of the tokens.
        seed: The seed that was used.
        dtype: Of the weights.
        device: Where the model ran.
    """
    return Provenance(
        made_by=_COMMAND.get() or call,
        model=model,
        revision=revision,
        weights=weights,
        tokens=tokens,
        seed=seed,
        dtype=dtype,
        device=device,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        digsite=__version__,
        python=platform.python_version(),
        torch=version("torch"),
        transformers=version("transformers"),
        platform=platform.platform(),
    )


def command() -> str | None:
    """The shell command that is running, if a digsite command is."""
    return _COMMAND.get()


@contextmanager
def command_line(arguments: Sequence[str] | None = None) -> Iterator[None]:
    """Results made inside the block name this shell command as what makes them again.

    Args:
        arguments: The arguments after `digsite`; those of this process if None.
    """
    words = sys.argv[1:] if arguments is None else arguments
    token = _COMMAND.set(shlex.join(["digsite", *words]))
    try:
        yield
    finally:
        _COMMAND.reset(token)
