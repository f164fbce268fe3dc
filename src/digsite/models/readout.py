"""From the last stream to the logits: final norm, unembedding, and what a few architectures do after it."""

from typing import Any

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


def readout(hf: Any, anatomy: Anatomy, stream: Float[Tensor, "*axes d_model"]) -> Float[Tensor, "*axes vocab"]:
    """What the model would answer if the stream ended here; of the last resid_post, the logits themselves."""
    x = stream
    if anatomy.final_norm_module is not None:
        x = anatomy.final_norm_module.forward(x)
    project_out = getattr(getattr(getattr(hf, "model", None), "decoder", None), "project_out", None)  # OPT-350m
    x = x if project_out is None else project_out.forward(x)
    logits = anatomy.unembed.forward(x)
    scale = logit_scale(hf)
    logits = logits if scale == 1.0 else logits * scale
    cap = softcap(hf)
    return logits if cap is None else cap * (logits / cap).tanh()
