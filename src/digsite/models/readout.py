"""From the last stream to the logits: final norm, unembedding, and what a few architectures do after it."""

import hashlib
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from digsite.models.anatomy import Anatomy


def logit_scale(hf: Any) -> float:
    """The constant by which an architecture multiplies its unembedding's output (Cohere, Granite, Falcon-H1)."""
    config = hf.config.get_text_config()
    scale = getattr(config, "logit_scale", None)
    scale = 1.0 if not isinstance(scale, int | float) else float(scale)
    return scale * getattr(config, "lm_head_multiplier", 1.0) / getattr(config, "logits_scaling", 1.0)


def softcap(hf: Any) -> float | None:
    """The soft-cap of the final logits (Gemma 2), or None."""
    return getattr(hf.config.get_text_config(), "final_logit_softcapping", None)


def readout_fingerprint(hf: Any, anatomy: Anatomy) -> str:
    """Sixteen hex digits over every number between the last stream and the logits.

    What is fitted to be read out (a lens) is worth nothing with another final norm or unembedding.
    """
    digest = hashlib.sha256(f"{logit_scale(hf)} {softcap(hf)}".encode())
    for module in (anatomy.final_norm_module, _project_out(hf), anatomy.unembed):
        for name, parameter in () if module is None else module.named_parameters():
            digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
            digest.update(parameter.detach().contiguous().cpu().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def readout(hf: Any, anatomy: Anatomy, stream: Float[Tensor, "*axes d_model"]) -> Float[Tensor, "*axes vocab"]:
    """What the model would answer if the stream ended here; of the last resid_post, the logits themselves."""
    x = stream
    if anatomy.final_norm_module is not None:
        x = anatomy.final_norm_module.forward(x)
    project_out = _project_out(hf)
    x = x if project_out is None else project_out.forward(x)
    logits = anatomy.unembed.forward(x)
    scale = logit_scale(hf)
    logits = logits if scale == 1.0 else logits * scale
    cap = softcap(hf)
    return logits if cap is None else cap * (logits / cap).tanh()


def _project_out(hf: Any) -> Any:
    """What OPT-350m has between its last stream and the unembedding; None elsewhere."""
    return getattr(getattr(getattr(hf, "model", None), "decoder", None), "project_out", None)
