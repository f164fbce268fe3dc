"""Memory plans of models that are not loaded: from the config alone."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from digsite._core.errors import LoadError, Unsupported, explain
from digsite.models.edits import Edit
from digsite.models.load import BUILTIN, builtin_path, wrap
from digsite.models.memory import MemoryPlan
from digsite.models.model import Model
from digsite.models.plan import Logits
from digsite.models.rehearsal import solid_norms, weightless
from digsite.models.savings import dtype_of
from digsite.models.tokens import Positions
from digsite.sites import Site


def plan_memory(
    model: str | Path | PretrainedConfig,
    batch: int,
    pos: int,
    *,
    read: Iterable[str | Site] = (),
    edits: Iterable[Edit] = (),
    stop: str | Site | None = None,
    logits: Logits = "all",
    at: Positions = None,
    grad: bool = False,
    batch_size: int | None = None,
    to: str | None = None,
    max_new_tokens: int = 0,
    dtype: str | torch.dtype | None = None,
    attention: str = "eager",
    device: str = "cuda",
    budget: int | str | None = None,
) -> MemoryPlan:
    """What a run of a model would hold in memory, before the model is loaded or even downloaded.

    Args:
        model: A hub id, a folder, or a transformers config; its weights are not looked at.
        batch: Rows.
        pos: Columns.
        read: As for `Model.run`; so are edits, stop, logits, at, grad, batch_size and to.
        edits: Changes.
        stop: Where the pass ends.
        logits: Which columns of the logits.
        at: Positions to record.
        grad: With gradients.
        batch_size: Rows in a pass.
        to: Where the sites are recorded.
        max_new_tokens: Plan a generation of this many tokens.
        dtype: The dtype it would be loaded in; None for the one its config names.
        attention: "eager" or "sdpa".
        device: Type of the device it would be on.
        budget: What there is, such as "6GB"; the plan then says what would fit.

    Raises:
        LoadError: There is no such config, or digsite does not know the architecture.
        Unsupported: The checkpoint is quantised.
    """
    made = unloaded(model, dtype=dtype, attention=attention)
    return made.memory(
        (batch, pos),
        read=read,
        edits=edits,
        stop=stop,
        logits=logits,
        at=at,
        grad=grad,
        batch_size=batch_size,
        to=to,
        max_new_tokens=max_new_tokens,
        device=device,
        budget=budget,
    )


def unloaded(
    model: str | Path | PretrainedConfig, *, dtype: str | torch.dtype | None = None, attention: str = "eager"
) -> Model:
    """A model without weights, made from its config: it knows its sites, and plans can be made with it.

    Args:
        model: A hub id, a folder, or a transformers config; its weights are not looked at.
        dtype: The dtype it would be loaded in; None for the one its config names.
        attention: "eager" or "sdpa".

    Raises:
        LoadError: There is no such config, or digsite does not know the architecture.
        Unsupported: The checkpoint is quantised.
    """
    name, config = _config(model)
    if getattr(config, "quantization_config", None) is not None:
        raise Unsupported(
            explain(f"{name} is quantised, and its config does not say how large it is", do="load it and ask the model")
        )
    known = dtype_of(dtype) or getattr(config.get_text_config(), "dtype", None) or torch.float32
    hf = weightless(AutoModelForCausalLM.from_config, config, known, attention)
    with solid_norms(hf):
        return wrap(hf, None, name=name, revision=None, attention=attention)


def _config(model: str | Path | PretrainedConfig) -> tuple[str, Any]:
    if isinstance(model, PretrainedConfig):
        return model.name_or_path or model.model_type, model
    name = str(model)
    source = str(builtin_path(name)) if name.startswith(BUILTIN) else name
    try:
        return name, AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise LoadError(
            explain(
                f"There is no config of {name} here",
                found=" ".join(str(error).split())[:200],
                possible="a hub id (with a network, or in the local cache), a folder with config.json, or a config",
            )
        ) from error
