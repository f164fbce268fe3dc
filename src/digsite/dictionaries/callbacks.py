"""Where metrics of a training can go besides its curves: TensorBoard and Weights & Biases, each if it is installed."""

from collections.abc import Callable, Mapping
from typing import Any

from digsite._core.errors import MissingExtra

Metrics = Mapping[str, Mapping[str, Any]]
"""Of every dictionary by its name: what its curves say at one step."""


Callback = Callable[[int, Metrics], None]
"""What is called with the steps done so far whenever metrics are told."""


class TensorBoard:
    """Writes every number to a folder that TensorBoard reads.

    Args:
        folder: Where.

    Raises:
        MissingExtra: tensorboard is not installed.
    """

    def __init__(self, folder: str):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtra("tensorboard", "logs", "Writing for TensorBoard") from error
        self._writer = SummaryWriter(folder)

    def __call__(self, step: int, metrics: Metrics) -> None:
        """Steps done so far, and what is told."""
        for name, number in numbers(metrics).items():
            self._writer.add_scalar(name, number, step)
        self._writer.flush()


class WandB:
    """Sends every number to Weights & Biases, under the user's own account and settings.

    Args:
        project: Where.

    Raises:
        MissingExtra: wandb is not installed.
    """

    def __init__(self, project: str):
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise MissingExtra("wandb", "logs", "Sending metrics to Weights & Biases") from error
        self._run = wandb.init(project=project)

    def __call__(self, step: int, metrics: Metrics) -> None:
        """Steps done so far, and what is told."""
        self._run.log(numbers(metrics), step=step)


def numbers(metrics: Metrics) -> dict[str, float]:
    """What can be drawn as a curve, as `dictionary/metric`."""
    return {
        f"{dictionary}/{name}": float(number)
        for dictionary, told in metrics.items()
        for name, number in told.items()
        if isinstance(number, int | float)
    }
