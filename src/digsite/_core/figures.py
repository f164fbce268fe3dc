"""How a result finds the function that draws it, without its room knowing the room that draws."""

from collections.abc import Callable
from typing import Any, TypeVar

from digsite._core.errors import Unsupported, explain

Draw = TypeVar("Draw", bound=Callable[..., Any])

_DRAWN_BY: dict[type, Callable[..., Any]] = {}


def draws(kind: type) -> Callable[[Draw], Draw]:
    """Decorate the function that draws results of class `kind`, and of its subclasses that have no own.

    Args:
        kind: A class of results.
    """

    def register(function: Draw) -> Draw:
        taken = _DRAWN_BY.setdefault(kind, function)
        if taken is not function:
            raise ValueError(f"{kind.__name__} is drawn by {taken.__qualname__} already")
        return function

    return register


def drawing_of(kind: type) -> Callable[..., Any]:
    """The function that draws results of class `kind`.

    Raises:
        Unsupported: No function draws them.
    """
    for ancestor in kind.__mro__:
        if ancestor in _DRAWN_BY:
            return _DRAWN_BY[ancestor]
    possible = sorted(known.__name__ for known in _DRAWN_BY)
    raise Unsupported(explain(f"There is no figure for {kind.__name__}", possible=possible, do="Use its to_frame()"))
