"""How a number changes over a run: small functions of the step."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A factor that rises from 0 to 1 at the start, and falls to 0 at the end.

    Attributes:
        rise: How long it rises: a share of the run if it is a fraction, else steps (at most a tenth of the run).
        fall: How long it falls, in a line, likewise.
        shape: In a line, or in half a cosine.
    """

    rise: float | int = 0.0
    fall: float | int = 0.0
    shape: Literal["line", "cosine"] = "line"

    def __call__(self, step: int, steps: int) -> float:
        """The factor at a step, of so many.

        Args:
            step: From 0.
            steps: Of the whole run.
        """
        up = _length(self.rise, steps)
        factor = min(1.0, (step + 1) / up) if up else 1.0
        if self.shape == "cosine":
            factor = 0.5 - 0.5 * math.cos(math.pi * factor)
        down = _length(self.fall, steps)
        return factor * min(1.0, (steps - step) / down) if down else factor


def _length(wanted: float | int, steps: int) -> float:
    return float(wanted * steps if wanted <= 1 else min(wanted, steps / 10))


CONSTANT = Schedule()
