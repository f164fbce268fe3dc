"""`Direction`: one vector at one site, which is read as a probe and written as an edit.

A probe, a steering vector, a latent's decoder, an unembedding difference, a singular vector, a factor of a LoRA: all
are this. With v the vector and v̂ = v / |v|:

- Reading: score(x) = x·r + bias, where the reader r is v unless another vector reads than writes (a latent's encoder,
  the whitened difference of a mass-mean probe).
- Writing: an edit moves x along v̂ and nowhere else. Its coefficient has a unit, and `amount` is the one place that
  turns it into a length along v̂. One unit is::

      raw     the vector as it is, |v|
      norm    the mean length of an activation at the site
      sd      one standard deviation of x·v̂
      max     the largest x·v̂ that was seen

  All but raw need a `Scale`: what was measured on some text, without the BOS, whose activations are of another size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

import digsite.models as models
from digsite._core.errors import BadInput, ShapeMismatch, explain
from digsite._core.numerics import require_finite
from digsite._core.provenance import Provenance
from digsite.models import Edit, Generation, Model, Run
from digsite.models.tokens import Positions
from digsite.sites import Site

UNITS = ("raw", "norm", "sd", "max")
"""What a coefficient can be counted in."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large activations are along a direction, in the units of the site.

    Attributes:
        norm: Mean length of an activation.
        mean: Of the readings x·v̂.
        sd: Standard deviation of the readings.
        smallest: The smallest reading.
        largest: The largest reading.
        rows: On how many activations this was measured.
    """

    norm: float
    mean: float
    sd: float
    smallest: float
    largest: float
    rows: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Direction:
    """A vector at a site, with what reading and writing it need.

    Attributes:
        site: Where; one concrete site, such as `layers.3.resid_post` or `layers.2.attn.z[1]`.
        vector: What is written; its length is that of one raw unit.
        reader: What reads, where that is another vector.
        bias: Added to a reading; 0 is the boundary of a probe.
        scale: How large activations are along it, on some text; None where that was not measured.
        name: What a high reading means, such as "female".
        how: The method, such as "mean difference".
        provenance: What it was found on.
    """

    site: Site
    vector: Float[Tensor, " width"]
    reader: Float[Tensor, " width"] | None = None
    bias: float = 0.0
    scale: Scale | None = None
    name: str = ""
    how: str = ""
    provenance: Provenance

    def __post_init__(self):
        object.__setattr__(self, "site", concrete(self.site))
        # A copy of its own: a view would keep, and save, the whole tensor that it was cut from.
        for name in ("vector", "reader"):
            given = getattr(self, name)
            if given is not None:
                object.__setattr__(self, name, given.detach().float().cpu().clone())
                require_finite(f"the {name} of a direction at {self.site}", getattr(self, name))
        if self.vector.ndim != 1 or (self.reader is not None and self.reader.shape != self.vector.shape):
            shapes = [tuple(x.shape) for x in (self.vector, self.reader) if x is not None]
            raise ShapeMismatch(explain("A direction is one vector, and its reader as long", found=f"shapes {shapes}"))
        if not bool(self.vector.any()):
            raise BadInput(explain(f"A direction must have a length; that at {self.site} is zero"))

    @property
    def unit_vector(self) -> Float[Tensor, " width"]:
        """The vector at length 1."""
        return self.vector / self.vector.norm()

    def check(self, model: Model) -> None:
        """Whether the direction belongs to a model.

        Raises:
            NoSuchSite: The model has no such site.
            ShapeMismatch: The site has another width there.
            BadInput: It was found in a model of other weights.
        """
        belongs(model, self.site, len(self.vector), self.provenance)

    def moved(self, *, site: str | Site | None = None, model: Model | None = None) -> "Direction":
        """The same vector at another site or in another model (a fine-tuned one), which measured nothing of it yet.

        Args:
            site: The new site; None for the same.
            model: The new model, which must have the site in this width; None for the same.
        """
        where = self.site if site is None else concrete(site)
        made = self.provenance
        if model is not None:
            made = models.made_by(f"({made.made_by}).moved(...)", model, made.tokens, seed=made.seed)
        new = replace(self, site=where, scale=None, provenance=made)
        if model is not None:
            new.check(model)
        return new

    # -- reading -----------------------------------------------------------------------------------------------------
    def read(self, source: Run | Generation | Float[Tensor, "*axes width"]) -> Float[Tensor, "*axes"]:
        """The probe's score at every place: x·r + bias.

        Args:
            source: A run or generation that read the site, or activations of it.

        Returns:
            One number for each vector of the source ([batch, pos] for a run), on the autograd path.

        Raises:
            NoSuchSite: The run did not read the site.
            ShapeMismatch: Activations of another width.
        """
        x = source if isinstance(source, Tensor) else source[self.site]
        reader = self.vector if self.reader is None else self.reader
        if x.shape[-1] != len(reader):
            found = f"a direction of {len(reader)} numbers, activations {tuple(x.shape)}"
            raise ShapeMismatch(explain(f"A direction at {self.site} does not fit", found=found))
        exact = torch.promote_types(x.dtype, torch.float32)
        return x.to(exact) @ reader.to(x.device, exact) + self.bias

    # -- writing -----------------------------------------------------------------------------------------------------
    def amount(self, coefficient: float, unit: str = "raw") -> float:
        """A coefficient as a length along v̂, in the units of the site.

        Raises:
            BadInput: A unit that was not measured, or no unit.
        """
        if unit not in UNITS:
            raise BadInput(explain(f"{unit!r} is no unit of a coefficient", possible=UNITS, near=unit))
        if unit == "raw":
            return coefficient * float(self.vector.norm())
        if self.scale is None:
            asked = f"A coefficient in units of {unit} needs to know how large activations are along the direction"
            raise BadInput(explain(asked, do="call directions.measured(direction, model, corpus), or use unit='raw'"))
        return coefficient * {"norm": self.scale.norm, "sd": self.scale.sd, "max": self.scale.largest}[unit]

    def add(
        self,
        coefficient: float,
        unit: str = "raw",
        *,
        site: str | Site | None = None,
        at: Positions = None,
        rows: Sequence[int] | None = None,
    ) -> Edit:
        """Steering: x + a v̂.

        Args:
            coefficient: How much; negative against the direction.
            unit: Of the coefficient.
            site: Other sites than its own, wildcards allowed.
            at: Positions; None for all, those generated later included.
            rows: Rows of the batch.
        """
        vector = self.amount(coefficient, unit) * self.unit_vector
        return models.add(self._site(site), vector, at=at, rows=rows)

    def ablate(
        self,
        *,
        to: Literal["zero", "mean"] = "zero",
        site: str | Site | None = None,
        at: Positions = None,
        rows: Sequence[int] | None = None,
    ) -> Edit:
        """Take the direction away: x - (x·v̂) v̂, or leave the mean that was measured in its place.

        Args:
            to: What x·v̂ becomes.
            site: Other sites than its own; "layers.*.resid_pre" and alike for the ablation of a refusal direction.
            at: Positions.
            rows: Rows of the batch.

        Raises:
            BadInput: The mean was not measured.
        """
        if to == "zero":
            return models.ablate(self._site(site), direction=self.vector, at=at, rows=rows)
        if self.scale is None:
            raise BadInput(
                explain("The mean along the direction is not known", do="call directions.measured(direction, …) first")
            )
        return self._put(self.scale.mean, site, at, rows)

    def set(
        self,
        value: float,
        unit: str = "raw",
        *,
        site: str | Site | None = None,
        at: Positions = None,
        rows: Sequence[int] | None = None,
    ) -> Edit:
        """Clamp: x - (x·v̂) v̂ + a v̂, whatever was there, above or below; arguments as for `add`."""
        return self._put(self.amount(value, unit), site, at, rows)

    def scale_by(
        self,
        factor: float,
        *,
        site: str | Site | None = None,
        at: Positions = None,
        rows: Sequence[int] | None = None,
    ) -> Edit:
        """Multiply what is there along the direction: x + (factor - 1)(x·v̂) v̂; arguments as for `add`."""
        return models.scale(self._site(site), factor, at=at, rows=rows, within=self.vector[None])

    def cap(
        self,
        limit: float,
        unit: str = "raw",
        *,
        site: str | Site | None = None,
        at: Positions = None,
        rows: Sequence[int] | None = None,
    ) -> Edit:
        """Hold x·v̂ at or below a limit; `(-direction).cap(-limit)` holds it above. Arguments as for `add`."""
        return models.cap(self._site(site), self.vector, self.amount(limit, unit), at=at, rows=rows)

    def swap(
        self,
        source: Run,
        *,
        at: Positions = None,
        source_at: Positions = None,
        rows: Sequence[int] | None = None,
    ) -> Edit:
        """Put in what another run has along the direction: an interchange of this one coordinate.

        Args:
            source: A run that read the site; row i of it gives to row i.
            at: Positions that receive.
            source_at: Positions that give, where they differ.
            rows: Rows of the batch.
        """
        return models.patch(self.site, source, at=at, source_at=source_at, rows=rows, within=self.vector[None])

    def _put(self, amount: float, site: str | Site | None, at: Positions, rows: Sequence[int] | None) -> Edit:
        value = amount * self.unit_vector
        return models.replace(self._site(site), value, at=at, rows=rows, within=self.vector[None])

    def _site(self, site: str | Site | None) -> str | Site:
        return self.site if site is None else site

    # -- algebra -----------------------------------------------------------------------------------------------------
    def __add__(self, other: "Direction") -> "Direction":
        """The sum of two vectors at one site; nothing is measured of it yet."""
        same_place(self, other)
        made = replace(self.provenance, made_by=f"({self.provenance.made_by}) + ({other.provenance.made_by})")
        name, how = (f"{a} + {b}" for a, b in ((self.name, other.name), (self.how, other.how)))
        return Direction(site=self.site, vector=self.vector + other.vector, name=name, how=how, provenance=made)

    def __sub__(self, other: "Direction") -> "Direction":
        return self + -other

    def __neg__(self) -> "Direction":
        return -1.0 * self

    def __rmul__(self, factor: int | float) -> "Direction":
        """The vector, its reader and bias times a number; a negative one turns the scale round too."""
        scale = self.scale
        if factor < 0 and scale is not None:
            scale = replace(scale, mean=-scale.mean, smallest=-scale.largest, largest=-scale.smallest)
        return replace(
            self,
            vector=factor * self.vector,
            reader=None if self.reader is None else factor * self.reader,
            bias=factor * self.bias,
            scale=scale,
            name=f"not {self.name}" if factor < 0 and self.name else self.name,
        )

    def cos(self, other: "Direction") -> float:
        """The cosine of the angle between two vectors at one site."""
        same_place(self, other)
        return float(self.unit_vector @ other.unit_vector)

    def without(self, other: "Direction") -> "Direction":
        """The part that is orthogonal to another direction; nothing is measured of it yet."""
        same_place(self, other)
        unit = other.unit_vector
        made = replace(self.provenance, made_by=f"({self.provenance.made_by}).without({other.provenance.made_by})")
        rest = self.vector - (self.vector @ unit) * unit
        if rest.norm() < 1e-6 * self.vector.norm():
            raise BadInput(explain(f"{self.name or self.how} has no part beside {other.name or other.how}"))
        return Direction(
            site=self.site, vector=rest, name=self.name, how=f"{self.how} without {other.name}", provenance=made
        )

    def __repr__(self) -> str:
        what = f"{self.name} ({self.how})" if self.name and self.how else self.name or self.how
        known = "" if self.scale is None else f", activations {self.scale.norm:.3g} long"
        return f"Direction {what} at {self.site}: {len(self.vector)} numbers, {self.vector.norm():.3g} long{known}"


def concrete(site: str | Site) -> Site:
    """One site, not several.

    Raises:
        BadInput: An address with a wildcard or a range.
    """
    site = Site.parse(site) if isinstance(site, str) else site
    if not site.is_concrete:
        raise BadInput(explain(f"{site} names several sites", do="name one, such as layers.3.resid_post"))
    return site


def width_of(model: Model, site: Site) -> int:
    """Numbers in one activation of a site, of one head where the site names one.

    Raises:
        NoSuchSite: The model lacks it.
    """
    site = model.anatomy.expand(site)[0]
    tokens = model.tokens([[0]])
    return model.run(tokens, read=[site], logits=None)[site].shape[-1]


def belongs(model: Model, site: Site, width: int, provenance: Provenance) -> None:
    """Whether a vector that was found somewhere may be used at a site of this model; see `Direction.check`."""
    there = width_of(model, site)
    if there != width:
        raise ShapeMismatch(
            explain(f"The direction does not fit {site} of {model.name}", found=f"{width} numbers, {there} there")
        )
    if provenance.weights is not None and provenance.weights != model.fingerprint:
        raise BadInput(
            explain(
                f"The direction was found in {provenance.model}, whose weights are not those of {model.name}",
                found=f"fingerprints {provenance.weights} and {model.fingerprint}",
                do="use direction.moved(model=model) if it is meant to be carried over",
            )
        )


def same_place(one: Direction, other: Direction) -> None:
    """Whether two directions live at one site of one width, and can be compared.

    Raises:
        BadInput: At different sites.
        ShapeMismatch: Of different widths.
    """
    if one.site != other.site:
        asked = "Only directions at one site can be compared or added"
        raise BadInput(explain(asked, found=f"{one.site} and {other.site}", do="use .moved(site=…) first"))
    if one.vector.shape != other.vector.shape:
        found = f"{len(one.vector)} and {len(other.vector)} numbers"
        raise ShapeMismatch(explain(f"Two directions at {one.site} have different widths", found=found))
