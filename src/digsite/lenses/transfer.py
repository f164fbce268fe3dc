"""Layer transfer: what the map of one point reads at another.

1. At every point the stream is carried by the map of every other point.
2. KL from the model, on held-out text, row of text by row of text.

Where maps can be exchanged, the layers between speak one language; where a map is worth nothing one layer on, they do
not.
"""

from dataclasses import dataclass
from typing import ClassVar

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from digsite._core.cost import measure
from digsite._core.errors import BadInput, explain
from digsite._core.numerics import bootstrap_interval
from digsite._core.progress import track
from digsite._core.recording import method
from digsite.artifacts import Result
from digsite.lenses.lens import Lens, carried, point_names
from digsite.lenses.passages import log_probs, passages
from digsite.models import made_by
from digsite.models.prediction import kl
from digsite.tasks import Corpus

_BATCH = 4
"""Rows of text in a pass."""


@dataclass(frozen=True, kw_only=True)
class LayerTransfer(Result):
    """How well the map of one point reads the stream of another.

    Attributes:
        lens: Its name.
        sites: The points that have a map.
        kl: KL from the model where the map of one point (first) reads another (second).
        none: The same with no map at all: the logit lens.
    """

    SCHEMA: ClassVar[str] = "lenses.layer_transfer/1"

    lens: str
    sites: tuple[str, ...]
    kl: Float[Tensor, "depth depth example"]
    none: Float[Tensor, "depth example"]

    def to_frame(self) -> pl.DataFrame:
        """One row a pair of points: KL with its 95 % interval, that of the point's own map, and that without a map."""
        names = point_names(self.sites)
        low, high = bootstrap_interval(self.kl.movedim(2, 0))
        mean = self.kl.mean(2)
        return pl.DataFrame(
            [
                {"map_of": one, "read_at": other, "kl": float(mean[i, j]), "low": float(low[i, j])}
                | {"high": float(high[i, j]), "own_map": float(mean[j, j]), "no_map": float(self.none[j].mean())}
                | {"n": self.kl.shape[2]}
                for i, one in enumerate(names)
                for j, other in enumerate(names)
            ]
        )

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        frame = self.to_frame().filter(pl.col("map_of") != pl.col("read_at"))
        good = frame.filter(pl.col("high") < pl.col("no_map"))
        best = frame.sort("kl").row(0, named=True)
        return (
            f"{len(good)} of {len(frame)} exchanged maps of the {self.lens} lens read better than none; the best is "
            f"that of {best['map_of']} at {best['read_at']}: {best['kl']:.2f} nats (its own {best['own_map']:.2f}, "
            f"none {best['no_map']:.2f}); n = {best['n']} rows of text"
        )


@method
def layer_transfer(lens: Lens, corpus: Corpus, *, rows: int | None = 16) -> LayerTransfer:
    """What the map of each point of a lens reads at every other point.

    Args:
        lens: A lens with maps.
        corpus: Text that it was not fitted on.
        rows: Rows of text that are used; None for all.

    Raises:
        BadInput: The lens has fewer than two maps, or the text is too short.

    Units: nats per token.

    Source: Belrose et al. 2023 (arXiv:2303.08112), section 3.2.
    """
    sites = tuple(site for site in lens.sites if site in lens.maps)
    if len(sites) < 2:
        raise BadInput(explain("Maps of two points can be exchanged", found=f"a {lens.name} lens with {len(sites)}"))
    found, none = [], []
    with measure() as cost, torch.no_grad():
        text = passages(lens.model, corpus, sites, ahead=lens.ahead, batch=_BATCH, rows=rows)
        for passage in track(text, "exchanging maps", None if rows is None else -(-rows // _BATCH)):
            own = passage.said(lens.ahead)
            each = [_distance(lens, own, passage.stream(site), by) for by in (None, *sites) for site in sites]
            told = passage.by_row(torch.stack(each)).unflatten(0, (-1, len(sites)))
            none.append(told[0])
            found.append(told[1:])
    return LayerTransfer(
        lens=lens.name,
        sites=sites,
        kl=torch.cat(found, 2),
        none=torch.cat(none, 1),
        provenance=made_by("digsite.lenses.layer_transfer(lens, corpus)", lens.model, corpus.fingerprint),
        cost=cost,
    )


def _distance(lens: Lens, own: Tensor, stream: Float[Tensor, "row d_model"], by: str | None) -> Float[Tensor, " row"]:
    """2. KL from the model with the map of one point, or with none."""
    moved = carried(stream, None if by is None else lens.maps[by])
    return kl(own, log_probs(lens.model.readout(moved.to(lens.model.dtype))))
