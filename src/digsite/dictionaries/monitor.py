"""`Monitor`: what is told of a training, summed on the device and read back only when it is told."""

import torch
from torch import Tensor

from digsite._core.errors import NotFinite, explain
from digsite.dictionaries.dictionary import Dictionary, Pass
from digsite.dictionaries.losses import distance
from digsite.store import Latents

DENSITIES = (0.0, *(10 ** (half / 2) for half in range(-12, 0)))
"""Lower ends of the bins of the density histogram: latents that never fired, then half decades from 10⁻⁶ to 1."""


class Monitor:
    """Sums since they were last read.

    Attributes:
        dictionary: What is in training.
        fires: Of every block, in how many rows each latent fired.
        rows: How many.
    """

    def __init__(self, dictionary: Dictionary, device: torch.device):
        self.dictionary, self.device = dictionary, device
        self._clear()

    def _clear(self) -> None:
        blocks = self.dictionary.config.blocks
        self.fires = [torch.zeros(block.latents, dtype=torch.long, device=self.device) for block in blocks]
        self.rows, self._steps, self._pending = 0, 0, []
        self._sums: dict[str, Tensor] = {}
        self._last: tuple[dict[str, Tensor], dict[str, Tensor]] | None = None

    def fired(self, latents: Latents) -> Tensor:
        """In how many rows each latent of the next block fired."""
        values, indices = latents.flat
        found = torch.zeros(latents.width, dtype=torch.float32, device=values.device)
        found.index_add_(0, indices, (values != 0).float())
        self._pending.append(found)
        return found

    def add(self, total: Tensor, terms: dict[str, Tensor], passed: Pass, rows: int) -> None:
        """One step.

        Args:
            total: The loss.
            terms: Its terms, before their coefficients.
            passed: The pass.
            rows: How many.
        """
        for name, value in {"loss": total, **terms}.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        for sums, found in zip(self.fires, self._pending, strict=True):
            sums.add_(found.long())
        self._pending = []
        self._last = ({name: x.detach() for name, x in passed.outputs.items()}, passed.targets)
        self.rows, self._steps = self.rows + rows, self._steps + 1

    def read(self) -> dict[str, float | list[int]]:
        """The means since the last reading, FVU of the last batch, L0, and how many latents fired how often.

        Raises:
            NotFinite: A term is NaN or infinite.
        """
        assert self._last is not None
        means = dict(zip(self._sums, (torch.stack(list(self._sums.values())) / self._steps).tolist(), strict=True))
        _refuse_broken(means)
        fires = torch.cat(self.fires)
        outputs, targets = self._last
        density = torch.bucketize(fires / self.rows, torch.tensor(DENSITIES, device=fires.device), right=True) - 1
        density = torch.where((fires > 0) & (density == 0), 1, density)
        told: dict[str, float | list[int]] = {
            **means,
            "fvu": float(distance(outputs, targets, targets)),
            "l0": float(fires.sum() / self.rows),
            "density": torch.bincount(density, minlength=len(DENSITIES)).tolist(),
        }
        self._clear()
        return told


def _refuse_broken(means: dict[str, float]) -> None:
    broken = [name for name, mean in means.items() if not abs(mean) < float("inf")]
    if broken:
        first = next((name for name in broken if name != "loss"), "loss")
        found = ", ".join(f"{name} {means[name]}" for name in broken)
        do = "look at the rows that came last; lower the learning rate or the coefficient"
        raise NotFinite(explain(f"{first} is no longer finite, and training stops", found=found, do=do))
