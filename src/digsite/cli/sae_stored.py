"""The dictionaries that a folder holds: one of any library, or those of a training."""

from pathlib import Path
from typing import TYPE_CHECKING

from digsite._core.errors import BadInput, LoadError, explain

if TYPE_CHECKING:
    from digsite.dictionaries import Dictionary


def only(folder: Path) -> tuple[str, "Dictionary"]:
    """The one dictionary in a folder, with its name.

    Raises:
        BadInput: There are several.
        LoadError: There is none.
    """
    found = stored(folder)
    if len(found) > 1:
        do = f"{folder / next(iter(found))}; or digsite sae compare {folder}"
        raise BadInput(explain(f"{folder} holds {len(found)} dictionaries", possible=list(found), do=do))
    return next(iter(found.items()))


def stored(folder: Path) -> dict[str, "Dictionary"]:
    """Every dictionary of a folder, by its name: one, or those of a training.

    Raises:
        LoadError: There is none.
    """
    from digsite.dictionaries import read_dictionary

    if (folder / "dictionary.json").is_file():
        return {folder.name: read_dictionary(folder)}
    below = sorted(path.parent for path in folder.glob("*/dictionary.json")) if folder.is_dir() else []
    if not below and (going := folder.with_name(f"{folder.name}.training")).is_dir():
        do = f"go on with the command that began it; its state is in {going}"
        raise LoadError(explain(f"The training of {folder} is not finished", do=do))
    return {path.name: read_dictionary(path) for path in below} or {folder.name: read_dictionary(folder)}
