"""`Lens`: what the stream would say if the model ended here.

1. A point of the stream is an address: `layers.0.resid_pre` (the embedding), then every `layers.<l>.resid_post`.
2. At each point a lens has an affine map that carries a stream to what it will be at the end: h + C h + b. It is
   written as a change, so that a map that does nothing is exactly nothing; a point without a map is read as it is.
3. What was carried goes through the model's own final norm, unembedding, logit scale and soft-cap (`Model.readout`).

A lens without maps is the logit lens. Tuned, Jacobian and future lenses differ in how their maps are found
(`fit_tuned`, `fit_jacobian`, `fit_future`) and in nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor

from digsite._core.errors import BadInput, ShapeMismatch, Unsupported, explain
from digsite._core.numerics import require_finite
from digsite._core.visible import visible
from digsite.models import Model
from digsite.sites import Site

Kind = Literal["logit", "tuned", "jacobian", "future"]


class Affine(NamedTuple):
    """h + change · h + bias.

    Attributes:
        change: What is added, as a linear map of the stream.
        bias: What is added whatever the stream; None for nothing.
    """

    change: Float[Tensor, "d_out d_in"]
    bias: Float[Tensor, " d_model"] | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Lens:
    """Reads the stream anywhere as if the model ended there.

    `Lens(model)` is the logit lens; `fit_tuned`, `fit_jacobian` and `fit_future` find others, `load_lens` reads one.

    Attributes:
        model: The model whose stream it reads; its readout makes logits of what is carried.
        kind: How its maps were found.
        maps: The map of each point; a point of `sites` without one is read as it is.
        sites: The points that it reads, in order; all of the model's stream unless given.
        ahead: How many tokens later what it says would be said: 0 for all but a future lens.
        origin: What it was fitted on, as plain JSON.
        fit: How well that went, a `TunedFit` or a `JacobianFit`; None where nothing was fitted here.
    """

    model: Model
    kind: Kind = "logit"
    maps: Mapping[str, Affine] = field(default_factory=dict)
    sites: tuple[str, ...] = ()
    ahead: int = 0
    origin: Mapping[str, Any] = field(default_factory=dict)
    fit: Any = None

    def __post_init__(self):
        points = stream_points(self.model)
        object.__setattr__(self, "sites", tuple(self.sites) or points)
        if strange := [site for site in (*self.sites, *self.maps) if site not in points]:
            asked = f"{strange[0]} is no point of this model's stream"
            raise BadInput(explain(asked, possible=points, near=strange[0]))
        d = self.model.d_model
        for site, (change, bias) in self.maps.items():
            shapes = [tuple(change.shape), *([] if bias is None else [tuple(bias.shape)])]
            if shapes != [(d, d), (d,)][: len(shapes)]:
                asked = f"The map at {site} is not one of this model's stream"
                raise ShapeMismatch(explain(asked, found=f"shapes {shapes}", possible=f"({d}, {d}) and ({d},)"))
            require_finite(f"The map at {site}", change)

    @property
    def name(self) -> str:
        """What it is called in tables: "tuned", "future +2"."""
        return self.kind + (f" +{self.ahead}" if self.ahead else "")

    def carried(self, stream: Float[Tensor, "*axes d_model"], site: str | Site) -> Float[Tensor, "*axes d_model"]:
        """The stream at a point, brought to the end of the model.

        Args:
            stream: What was read at `site`, or any vector that could be added there.
            site: The point: `layers.<l>.resid_post`, or a `resid_pre`, which is the resid_post of the layer before.

        Raises:
            BadInput: This lens does not read that point.
            ShapeMismatch: The stream has another width than the model's.
        """
        return carried(stream, self.map_at(stream, site))

    def logits(self, stream: Float[Tensor, "*axes d_model"], site: str | Site) -> Float[Tensor, "*axes vocab"]:
        """What the model would say if it ended with this stream; see `carried`. Gradients flow through it."""
        return self.model.readout(self.carried(stream, site).to(self.model.dtype))

    def map_at(self, stream: Float[Tensor, "*axes width"], site: str | Site) -> Affine | None:
        """The map for a stream at a point, if both fit this lens; see `carried`."""
        one = Site.parse(site) if isinstance(site, str) else site
        if one.name == "resid_pre" and isinstance(one.layer, int) and one.layer > 0:
            one = Site("resid_post", one.layer - 1)
        if str(one) not in self.sites:
            asked = f"The {self.name} lens does not read {site}"
            raise BadInput(explain(asked, possible=self.sites, near=str(site)))
        if stream.shape[-1] != self.model.d_model:
            asked = f"The stream at {site} has {self.model.d_model} coordinates"
            raise ShapeMismatch(explain(asked, found=f"a tensor of shape {tuple(stream.shape)}"))
        return self.maps.get(str(one))

    def __repr__(self) -> str:
        told = "; ".join(f"{name} {value}" for name, value in self.origin.items() if isinstance(value, str | int))
        return f"Lens {self.name} of {self.model.name}: {len(self.sites)} points" + (f"; {told}" if told else "")


def carried(stream: Float[Tensor, "*axes d_model"], by: Affine | None) -> Float[Tensor, "*axes d_model"]:
    """2. h + C h + b, computed in the precision of the map; the stream itself where there is none.

    Args:
        stream: h.
        by: C and b.
    """
    if by is None:
        return stream
    h = stream.to(by.change.dtype)
    moved = h + h @ by.change.to(h.device).T
    return (moved if by.bias is None else moved + by.bias.to(h.device)).to(stream.dtype)


def stream_points(model: Model) -> tuple[str, ...]:
    """1. The points of a model's stream, from the embedding to the last layer."""
    return ("layers.0.resid_pre", *(f"layers.{layer}.resid_post" for layer in range(model.n_layers)))


def point_names(sites: tuple[str, ...]) -> tuple[str, ...]:
    """Points as figures and tables call them: "embed", "layer 0", …"""
    return tuple("embed" if site.endswith("resid_pre") else f"layer {site.split('.')[1]}" for site in sites)


def same_model(lens: Lens, model: Model) -> None:
    """Refuses a lens of another model.

    Raises:
        BadInput: Its model has other weights.
    """
    if lens.model is not model and lens.model.fingerprint != model.fingerprint:
        found = f"weights {lens.model.fingerprint}, and here {model.fingerprint}"
        raise BadInput(explain(f"The {lens.name} lens is of another model ({lens.model.name})", found=found))


def says(lens: Lens, vector: Float[Tensor, " d_model"], site: str | Site, k: int = 10) -> list[tuple[str, float]]:
    """The tokens that a vector of the stream speaks for, seen through a lens.

    Args:
        lens: Any lens.
        vector: A direction at `site`.
        site: The point of the stream.
        k: How many tokens.

    Returns:
        Tokens, spaces made visible, with their logits above the mean of all; the strongest first.

    Raises:
        BadInput: The lens does not read that point, or the model does not have so many tokens.
        ShapeMismatch: The vector has another width.
        NotFinite: The vector has a NaN or an infinity.
        Unsupported: The model has no tokenizer.

    Units: logits.

    Caveats:
        The final norm brings every vector to one size, so what is said does not depend on its length. The bias of a
        lens is left out: it speaks for no direction.
    """
    if lens.model.tokenizer is None:
        raise Unsupported(explain("This model has no tokenizer", do="read lens.logits(vector, site) by id"))
    if not 1 <= k <= lens.model.d_vocab:
        raise BadInput(explain(f"{k} tokens cannot be listed", possible=f"1 to {lens.model.d_vocab}"))
    by = lens.map_at(require_finite("The vector", vector), site)
    moved = carried(vector, None if by is None else by._replace(bias=None))
    logits = lens.model.readout(moved.to(lens.model.dtype)).detach().float()
    top = (logits - logits.mean()).topk(k)
    strings = lens.model.tokens([[token] for token in top.indices.tolist()]).strings
    return [(visible(one[0]), value) for one, value in zip(strings, top.values.tolist(), strict=True)]
