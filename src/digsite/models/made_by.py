"""The provenance of a result that a model made."""

from digsite._core.provenance import Provenance, record
from digsite.models.model import Model


def made_by(call: str, model: Model, tokens: str | None = None, *, seed: int | None = None) -> Provenance:
    """Where a result comes from: this call, this model with these weights, these tokens, these versions.

    Args:
        call: The Python call that makes it again.
        model: The model that ran.
        tokens: Fingerprint of the tokens, task or corpus it ran on.
        seed: Of every random choice.
    """
    return record(
        call,
        model=model.name,
        revision=model.revision,
        weights=model.fingerprint,
        tokens=tokens,
        seed=seed,
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
    )
