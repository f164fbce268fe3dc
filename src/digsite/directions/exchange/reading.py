"""Directions of another program, whichever wrote them."""

from pathlib import Path

from digsite._core.errors import LoadError, explain
from digsite.directions.direction import Direction
from digsite.directions.exchange.control_vector import read_control_vector
from digsite.directions.exchange.steering_vectors import read_steering_vectors
from digsite.models import Model


def read_directions(path: str | Path, model: Model) -> list[Direction]:
    """Read a file of llama.cpp, repeng or steering-vectors; which it is, its first four bytes say.

    Args:
        path: A control vector (GGUF), or a file of steering-vectors (`torch.save`).
        model: The model that it is for.

    Returns:
        One direction a layer.

    Raises:
        LoadError: No such file, or as `read_control_vector` and `read_steering_vectors`.
        ShapeMismatch: The vectors are of another width than the model's stream.
        Unsupported: They steer a place that digsite has no equal for.
        MissingExtra: It is GGUF, and gguf is not installed.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            begins = file.read(4)
    except OSError as error:
        found = error.strerror or type(error).__name__
        raise LoadError(explain(f"The directions in {path} cannot be read", found=found)) from error
    return (read_control_vector if begins == b"GGUF" else read_steering_vectors)(path, model)
