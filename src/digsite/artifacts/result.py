"""`Result`: what every method returns."""

import html
import importlib
import inspect
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import polars as pl
from rich.table import Table

from digsite._core.cost import Cost
from digsite._core.errors import LoadError, Unsupported, explain
from digsite._core.figures import drawing_of
from digsite._core.provenance import Provenance
from digsite.artifacts.folder import read_folder, write_folder
from digsite.artifacts.schema import register
from digsite.artifacts.table import table_of

Loaded = TypeVar("Loaded", bound="Result")

_RESERVED = {"schema", "files"}


@dataclass(frozen=True, kw_only=True)
class Result(ABC):
    """What a method found: its numbers, where they come from and what they cost.

    A method's result is a frozen dataclass below this one::

        @dataclass(frozen=True, kw_only=True)
        class LensResult(Result):
            SCHEMA: ClassVar[str] = "lenses.answer_by_depth/1"
            scores: Float[Tensor, "example layer"]
            ...

    Two results are equal only if they are the same object: tensors have no truth value to compare by.

    Attributes:
        provenance: Everything needed to make it again.
        cost: Passes, time and memory.
    """

    SCHEMA: ClassVar[str] = ""
    """`room.method/version`; the version grows when an older reader would misread the fields."""

    PARTS: ClassVar[tuple[str, ...]] = ()
    """What else may lie in its folder and is about it alone; an older result's is not taken over."""

    provenance: Provenance
    cost: Cost

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        # @dataclass writes its own of these into the class unless they are there; its __eq__ and __repr__ would compare
        # and print whole tensors.
        for name, method in (("__repr__", Result.__repr__), ("__eq__", object.__eq__), ("__hash__", object.__hash__)):
            if name not in cls.__dict__:
                setattr(cls, name, method)
        taken = _RESERVED & inspect.get_annotations(cls).keys()
        if taken:
            raise TypeError(f"{cls.__name__} has a field {taken.pop()!r}, a word that result.json uses itself")
        if "SCHEMA" in cls.__dict__:
            register(cls, cls.SCHEMA)

    @property
    @abstractmethod
    def verdict(self) -> str:
        """The answer in one sentence with its numbers; what failed its control is said here too."""

    @abstractmethod
    def to_frame(self) -> pl.DataFrame:
        """The numbers as a table, one row for each thing that was measured."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {' '.join(self.verdict.split())}>"

    def _repr_html_(self) -> str:
        try:
            shown = self.figure()._repr_html_()
        except Unsupported:
            shown = self.to_frame()._repr_html_()
        return f"<p>{html.escape(self.verdict)}</p>{shown}"

    def table(self) -> Table:
        """The first rows of `to_frame` for a terminal, under the verdict."""
        return table_of(self.to_frame(), self.verdict)

    def figure(self) -> Any:
        """The figure that shows this result (`digsite.viz.Figure`).

        Raises:
            Unsupported: This kind of result has no figure.
        """
        importlib.import_module("digsite.viz")  # by name, because drawing lies above results and registers itself here
        return drawing_of(type(self))(self)

    def save(self, folder: str | Path) -> Path:
        """Write the result to a folder; it is there whole or not at all.

        Args:
            folder: A new or empty folder, or one with an older result, which is replaced; other files in it stay.

        Returns:
            The folder.

        Raises:
            BadInput: A field does not hold what its type says, or the folder holds something else.
            NotWritten: The disk is full, or the place cannot be written; an older result there is untouched.
        """
        folder = Path(folder)
        write_folder(self, folder)
        return folder

    @classmethod
    def load(cls: type[Loaded], folder: str | Path) -> Loaded:
        """Read a result of this class from a folder.

        Args:
            folder: Where it was saved.

        Raises:
            LoadError: There is no result, it is of another class or version, or it is broken.
        """
        result = load_result(folder)
        if not isinstance(result, cls):
            asked = f"{folder} was asked for a {cls.__name__}"
            do = "Use digsite.artifacts.load_result"
            raise LoadError(explain(asked, found=f"a {type(result).__name__} ({result.SCHEMA})", do=do))
        return result


def load_result(folder: str | Path) -> Result:
    """Read the result in a folder, of whatever class it is.

    Args:
        folder: Where it was saved.

    Returns:
        A result of the class that its schema names; tensors are on the CPU.

    Raises:
        LoadError: There is no result, its schema is unknown or of another version, a key or file is missing or unused,
            or a file is broken. Nothing in a folder is ever executed.
    """
    return read_folder(Result, Path(folder))
