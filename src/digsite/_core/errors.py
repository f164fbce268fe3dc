"""Errors that teach: what was asked, what was found, what is possible, what to do.

Every error is a `DigsiteError` and also the builtin that a user would catch.
"""

import difflib
from collections.abc import Iterable


class DigsiteError(Exception):
    """Root of all errors that digsite raises on purpose."""

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0]) if self.args else ""


class NoSuchSite(DigsiteError, KeyError):
    """The address is not a site, or this model (or layer) does not have it."""


class SiteDidNotFire(DigsiteError, RuntimeError):
    """A site that was asked for was not reached by the forward pass."""


class BadInput(DigsiteError, ValueError):
    """An argument, a prompt or a data row cannot be used as given."""


class ShapeMismatch(BadInput):
    """A tensor has another shape than the site it is meant for."""


class NotFinite(DigsiteError, ArithmeticError):
    """NaN or infinity where a finite number is needed."""


class LoadError(DigsiteError, OSError):
    """A model, file or folder cannot be read as what it should be."""


class ContractBroken(DigsiteError, RuntimeError):
    """A model failed one of the contracts that make its sites trustworthy."""


class Unsupported(DigsiteError, NotImplementedError):
    """Something that digsite refuses to do, with the reason."""


class MissingExtra(DigsiteError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str, purpose: str):
        super().__init__(f'{purpose} needs the package {package}. Install it with: pip install "digsite[{extra}]"')


def explain(asked: str, *, found: str = "", possible: Iterable[str] | str = (), do: str = "", near: str = "") -> str:
    """The text of an error in four parts.

    Args:
        asked: What was asked for, as a sentence without its full stop.
        found: What was there instead (shape, dtype, path).
        possible: The choices; the closest to `near` is suggested when it is a list.
        do: What the reader can do now.
        near: The word that was written, to suggest the closest of `possible`.
    """
    lines = [asked.rstrip(".") + "."]
    if found:
        lines.append(f"Found: {found.rstrip('.')}.")
    if possible and not isinstance(possible, str):
        names = [str(name) for name in possible]
        close = difflib.get_close_matches(near, names, n=1) if near else []
        listed = ", ".join(names[:24]) + (f" and {len(names) - 24} more" if len(names) > 24 else "")
        possible = (f"did you mean {close[0]}? " if close else "") + listed
    if possible:
        lines.append(f"Possible: {possible}.")
    if do:
        lines.append(f"Do: {do.rstrip('.')}.")
    return "\n".join(lines)
