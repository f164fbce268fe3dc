"""Files of the library steering-vectors, which has no format of its own: people save its object with torch.

- Its `SteeringVector` holds vectors by layer, `layer_activations`, and what of a layer they are added to, `layer_type`.
- Layers count from 0 and "decoder_block" is what a block gives to the stream: `layers.<layer>.resid_post`.
- A file holds the object itself, its `vars()`, or the vectors alone. All are read without running anything: torch's
  strict reader is told one harmless class to put in the place of theirs.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from digsite._core.errors import LoadError, Unsupported, explain
from digsite.directions.direction import Direction
from digsite.directions.exchange.arriving import arrived
from digsite.models import Model

_SITES = {"decoder_block": "resid_post", "self_attn": "attn.out", "mlp": "mlp.out"}
_THEIRS = "steering_vectors.steering_vector.SteeringVector"


class _Held:
    """Receives the fields of their object."""


def read_steering_vectors(path: str | Path, model: Model) -> list[Direction]:
    """Read vectors that were made with the library steering-vectors and saved with `torch.save`.

    Args:
        path: The file.
        model: The model that they are for.

    Returns:
        One direction a layer; `direction.add(c)` steers as theirs does with `multiplier=c`.

    Raises:
        LoadError: No such file, something that only code could read, other fields than theirs, or layers that the
            model lacks.
        Unsupported: Vectors for the output of a norm.
        ShapeMismatch: The vectors are of another width than the model's stream.

    Source: steering-vectors 0.12.2, `SteeringVector.patch_activations`.
    """
    path = Path(path)
    if not path.is_file():
        raise LoadError(explain(f"There are no vectors at {path}", found="no such file"))
    try:
        with torch.serialization.safe_globals([(_Held, _THEIRS)]):
            held: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a refused pickle, a broken archive and a cut-off file raise all kinds of errors
        found = str(error).split("\n")[0][:200]
        do = "save them with torch.save(vars(steering_vector), path)"
        raise LoadError(explain(f"{path} cannot be read without running it", found=found, do=do)) from error
    fields = vars(held) if isinstance(held, _Held) else held
    if isinstance(fields, dict) and fields and all(isinstance(key, int) for key in fields):
        fields = {"layer_activations": fields}
    vectors, kind = _checked(fields, path)
    how = "steering-vectors"
    return arrived(vectors, path, model, site=_SITES[kind], reader="read_steering_vectors", how=how)


def _checked(fields: Any, path: Path) -> tuple[dict[int, Tensor], str]:
    vectors = fields.get("layer_activations") if isinstance(fields, dict) else None
    strange = sorted(str(key) for key in fields.keys() - {"layer_activations", "layer_type"}) if vectors else []
    if (
        not isinstance(vectors, dict)
        or strange
        or not all(isinstance(key, int) and isinstance(x, Tensor) for key, x in vectors.items())
    ):
        found = f"fields {', '.join(strange)}" if strange else type(fields).__name__
        possible = "layer_activations (tensors by layer) and layer_type"
        raise LoadError(explain(f"{path} does not hold a steering vector", found=found, possible=possible))
    kind = fields.get("layer_type", "decoder_block")
    if kind not in _SITES:
        asked = f"{path} steers a place that digsite has no equal for"
        raise Unsupported(explain(asked, found=f"layer_type {kind!r}", possible=list(_SITES)))
    return {layer: x.reshape(-1) for layer, x in vectors.items()}, kind
