"""`Subspace`: several directions at one site at once, as an orthonormal basis.

With Q the basis [k, width] and m the mean, the coordinates of x are Q (x - m), and every edit changes them alone:
x + (f(Qx) - Qx) Q. A `Direction` is the case k = 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

import digsite.models as models
from digsite._core.errors import BadInput, ShapeMismatch, explain
from digsite._core.numerics import require_finite
from digsite._core.provenance import Provenance
from digsite.directions.direction import Direction, belongs, concrete, same_place
from digsite.models import Edit, Generation, Model, Run
from digsite.models.edits import orthonormal
from digsite.models.tokens import Positions
from digsite.sites import Site


@dataclass(frozen=True, eq=False, kw_only=True)
class Subspace:
    """An orthonormal basis at a site.

    Attributes:
        site: Where; one concrete site.
        basis: Orthonormal rows; what is given is made orthonormal, in its order.
        mean: What coordinates are measured from, and ablation leaves there; None for zero.
        name: What lies in it.
        how: The method.
        provenance: What it was found on.
    """

    site: Site
    basis: Float[Tensor, "basis width"]
    mean: Float[Tensor, " width"] | None = None
    name: str = ""
    how: str = ""
    provenance: Provenance

    def __post_init__(self):
        object.__setattr__(self, "site", concrete(self.site))
        given = require_finite(f"the basis of a subspace at {self.site}", self.basis.detach().float().cpu().clone())
        object.__setattr__(self, "basis", orthonormal(given))
        if self.mean is not None:
            mean = require_finite(f"the mean of a subspace at {self.site}", self.mean.detach().float().cpu().clone())
            if mean.shape != given.shape[1:]:
                raise ShapeMismatch(
                    explain("The mean is one activation", found=f"{tuple(mean.shape)}, basis {tuple(given.shape)}")
                )
            object.__setattr__(self, "mean", mean)

    @classmethod
    def of(cls, directions: Sequence[Direction], *, name: str = "") -> "Subspace":
        """What some directions at one site span.

        Raises:
            BadInput: None given, at different sites, or linearly dependent.
        """
        if not directions:
            raise BadInput(explain("A subspace is spanned by one direction or more"))
        for other in directions[1:]:
            same_place(directions[0], other)
        return cls(
            site=directions[0].site,
            basis=torch.stack([one.vector for one in directions]),
            name=name or ", ".join(one.name or one.how for one in directions),
            how=directions[0].how,
            provenance=directions[0].provenance,
        )

    def __len__(self) -> int:
        """Dimensions."""
        return len(self.basis)

    def check(self, model: Model) -> None:
        """Whether the subspace belongs to a model; raises as `Direction.check`."""
        belongs(model, self.site, self.basis.shape[1], self.provenance)

    def direction(self, index: int) -> Direction:
        """One vector of the basis."""
        name = f"{self.name} {index}".strip()
        return Direction(site=self.site, vector=self.basis[index], name=name, how=self.how, provenance=self.provenance)

    def read(self, source: Run | Generation | Float[Tensor, "*axes width"]) -> Float[Tensor, "*axes basis"]:
        """The coordinates Q (x - m) at every place.

        Args:
            source: A run or generation that read the site, or activations of it.

        Raises:
            NoSuchSite: The run did not read the site.
            ShapeMismatch: Activations of another width.
        """
        x = source if isinstance(source, Tensor) else source[self.site]
        if x.shape[-1] != self.basis.shape[1]:
            found = f"a basis of {self.basis.shape[1]} numbers, activations {tuple(x.shape)}"
            raise ShapeMismatch(explain(f"A subspace at {self.site} does not fit", found=found))
        exact = torch.promote_types(x.dtype, torch.float32)
        x = x.to(exact) if self.mean is None else x.to(exact) - self.mean.to(x.device, exact)
        return x @ self.basis.to(x.device, exact).T

    def ablate(
        self, *, site: str | Site | None = None, at: Positions = None, rows: Sequence[int] | None = None
    ) -> Edit:
        """Take away what lies in the subspace; the mean stays there, where there is one.

        Args:
            site: Other sites than its own, wildcards allowed.
            at: Positions; None for all.
            rows: Rows of the batch.
        """
        value = torch.zeros(self.basis.shape[1]) if self.mean is None else self.mean
        return models.replace(site or self.site, value, at=at, rows=rows, within=self.basis)

    def scale_by(
        self, factor: float, *, site: str | Site | None = None, at: Positions = None, rows: Sequence[int] | None = None
    ) -> Edit:
        """Multiply what lies in the subspace; arguments as for `ablate`."""
        return models.scale(site or self.site, factor, at=at, rows=rows, within=self.basis)

    def set(
        self,
        coordinates: Float[Tensor, " basis"],
        *,
        site: str | Site | None = None,
        at: Positions = None,
        rows: Sequence[int] | None = None,
    ) -> Edit:
        """Put these coordinates there, counted from the mean; other arguments as for `ablate`."""
        value = coordinates.float() @ self.basis
        value = value if self.mean is None else value + self.mean
        return models.replace(site or self.site, value, at=at, rows=rows, within=self.basis)

    def swap(
        self, source: Run, *, at: Positions = None, source_at: Positions = None, rows: Sequence[int] | None = None
    ) -> Edit:
        """Put in what another run has in the subspace: an interchange intervention; see `Direction.swap`."""
        return models.patch(self.site, source, at=at, source_at=source_at, rows=rows, within=self.basis)

    def angles(self, other: "Subspace") -> Float[Tensor, " basis"]:
        """The principal angles between two subspaces at one site, the smallest first.

        Units: degrees.

        Source: Björck and Golub 1973; by the singular values of Q₁ Q₂ᵀ, so angles below 0.03° are not told from 0.
        """
        if self.site != other.site or self.basis.shape[1] != other.basis.shape[1]:
            raise BadInput(explain("Only subspaces at one site have angles", found=f"{self.site} and {other.site}"))
        cosines = torch.linalg.svdvals(self.basis.double() @ other.basis.double().T).clamp(max=1)
        return cosines.arccos().rad2deg().float()

    def __repr__(self) -> str:
        what = f"{self.name} ({self.how})" if self.name and self.how else self.name or self.how
        return f"Subspace {what} at {self.site}: {len(self)} of {self.basis.shape[1]} dimensions"
