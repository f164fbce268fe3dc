"""How near what a dictionary writes comes to what was there: sums over the rows of each sequence.

FVU = Σ |x - x̂|² / Σ |x - mean|², both sums over all rows and coordinates: the fraction of variance that is left
unexplained. (The mean over rows of each row's own ratio, which some tools report, is another number, and so is one that
divides by Σ |x|².)
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from digsite._core.errors import BadInput, explain


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """Sums of squares of each written column in each sequence, in double precision.

    Attributes:
        residual: Σ |x - x̂|².
        total: Σ |x - mean|², the mean over all rows of all sequences.
        made: Σ |x̂|².
        along: Σ x · x̂.
        cosine: Mean cosine of x and x̂.
        ratio: Mean of |x̂| / |x|: below 1 where a dictionary shrinks.
    """

    residual: Float[Tensor, "column example"]
    total: Float[Tensor, "column example"]
    made: Float[Tensor, "column example"]
    along: Float[Tensor, "column example"]
    cosine: Float[Tensor, "column example"]
    ratio: Float[Tensor, "column example"]

    def fvu(self) -> Float[Tensor, " column"]:
        """The fraction of variance unexplained of each column."""
        return self.residual.sum(1) / self.total.sum(1)

    def bias(self) -> Float[Tensor, " column"]:
        """Relative reconstruction bias γ: x̂ / γ would be nearest to x. Below 1 what is written is too small.

        Source: Rajamanoharan et al. 2024, arXiv 2404.16014, eq. 10.
        """
        return self.made.sum(1) / self.along.sum(1)


class Reconstructing:
    """Adds up a `Reconstruction`, batch by batch."""

    def __init__(self, columns: tuple[str, ...]):
        self.columns, self._rows = columns, 0
        self._parts: list[dict[str, Tensor]] = []
        self._sums: list[list[Tensor]] = []  # of every batch, of every column, [example, width]

    def add(self, x: dict[str, Tensor], made: dict[str, Tensor], example: Int[Tensor, " row"], count: int) -> None:
        """Adds the rows of some sequences.

        Args:
            x: What was there, by column.
            made: What the dictionary made of it.
            example: The sequence of each row, from 0.
            count: How many sequences.
        """
        each: list[dict[str, Tensor]] = []
        sums = []
        rows = torch.bincount(example, minlength=count)
        for name in self.columns:
            a, b = x[name].detach().to("cpu", torch.float64), made[name].detach().to("cpu", torch.float64)

            def per(values: Tensor) -> Tensor:
                return torch.zeros(count, *values.shape[1:], dtype=torch.float64).index_add_(0, example, values)

            size, other, dot = (a * a).sum(1), (b * b).sum(1), (a * b).sum(1)
            norms = (size * other).sqrt()
            each.append(
                {
                    "residual": per(((a - b) ** 2).sum(1)),
                    "square": per(size),
                    "made": per(other),
                    "along": per(dot),
                    "cosine": per(torch.where(norms > 0, dot / norms.clamp_min(1e-300), 0.0)) / rows,
                    "ratio": per((other / size.clamp_min(1e-300)).sqrt()) / rows,
                }
            )
            sums.append(per(a))
        self._parts.append({key: torch.stack([one[key] for one in each]) for key in each[0]} | {"rows": rows})
        self._sums.append(sums)

    def done(self) -> Reconstruction:
        """What was added up.

        Raises:
            BadInput: A column never varies, so that there is nothing to explain.
        """
        keys = ("residual", "square", "made", "along", "cosine", "ratio")
        whole = {key: torch.cat([part[key] for part in self._parts], 1) for key in keys}
        rows = torch.cat([part["rows"] for part in self._parts])
        totals = []
        for at, name in enumerate(self.columns):
            sums = torch.cat([batch[at] for batch in self._sums])
            mean = sums.sum(0) / rows.sum()
            total = whole["square"][at] - 2 * sums @ mean + rows * (mean @ mean)
            if float(total.sum()) <= 1e-12 * float(whole["square"][at].sum()):
                found = f"{int(rows.sum())} equal rows"
                do = "give other text, or a site that depends on it"
                raise BadInput(
                    explain(f"{name} never varies, so no part of its variance can be explained", found=found, do=do)
                )
            totals.append(total)
        whole.pop("square")
        return Reconstruction(total=torch.stack(totals), **whole)
