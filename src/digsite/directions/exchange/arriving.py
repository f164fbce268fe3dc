"""Vectors by layer, as other programs keep them, become directions of a model."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from digsite._core.errors import LoadError, ShapeMismatch, explain
from digsite.directions.direction import Direction
from digsite.models import Model, made_by
from digsite.sites import Site


def arrived(
    vectors: Mapping[int, Tensor], path: Path, model: Model, *, site: str, reader: str, how: str
) -> list[Direction]:
    """One direction a layer, at the same site of each.

    Args:
        vectors: By the number of the block that they are added after, counted from 0.
        path: The file that they come from.
        model: The model that they are for.
        site: What of the block they are added to, such as "resid_post".
        reader: The function that read them.
        how: Which kind of file it was.

    Raises:
        LoadError: No vector, or one at a layer that the model lacks.
        ShapeMismatch: A vector of another width than the site.
        NotFinite: A number that is none.
    """
    if not vectors:
        raise LoadError(explain(f"{path} holds no vector"))
    strange = [layer for layer in vectors if not 0 <= layer < model.n_layers]
    if strange:
        found = f"layers {', '.join(str(layer) for layer in sorted(strange))}"
        possible = f"0 to {model.n_layers - 1} in {model.name}"
        raise LoadError(explain(f"{path} is for a model with other layers", found=found, possible=possible))
    wrong = {layer: tuple(x.shape) for layer, x in vectors.items() if tuple(x.shape) != (model.d_model,)}
    if wrong:
        found = ", ".join(f"layer {layer}: shape {list(shape)}" for layer, shape in sorted(wrong.items()))
        asked = f"{path} is for a model of another width than {model.name}"
        raise ShapeMismatch(explain(asked, found=found, possible=f"{model.d_model} numbers"))
    made = made_by(f"digsite.directions.exchange.{reader}({path.name!r}, model)", model)
    return [
        Direction(site=Site(site, layer=layer), vector=vectors[layer], name=path.stem, how=how, provenance=made)
        for layer in sorted(vectors)
    ]
