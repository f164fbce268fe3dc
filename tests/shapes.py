"""What checks shapes in the tests; a name of its own keeps the compiled modules apart from those of other checkers."""

from beartype import beartype as checked

__all__ = ["checked"]
