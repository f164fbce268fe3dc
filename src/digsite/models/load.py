"""Loading: a hub id, a folder, a built-in model or a live Hugging Face model becomes a `Model`.

Nothing is downloaded unless a hub id was named, nothing pickled is read, and no code of a checkpoint is run. What is
wrong with a checkpoint is said before the first run: missing or unused keys, broken files, numbers that are not finite.
"""

import copy
import json
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.hub import cached_file

from digsite._core.errors import BadInput, LoadError, MissingExtra, NotFinite, Unsupported, explain
from digsite.models import verify as contracts
from digsite.models._adapters import architecture
from digsite.models.anatomy import dissect
from digsite.models.model import Model

BUILTIN = "digsite/"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


def load(
    name_or_path: str | Path | torch.nn.Module,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | dict | None = None,
    attention: str = "eager",
    tokenizer: Any = None,
    adapter: str | Path | None = None,
    quantization: Any = None,
    verify: bool = True,
) -> Model:
    """Load a model so that every activation in it has an address.

    Args:
        name_or_path: A hub id, a local folder, "digsite/<name>" for a built-in model, or a live transformers model
            (a peft model too). A live model is used as it is and stays yours.
        revision: Branch, tag or commit of a hub model.
        dtype: The dtype to load in; None takes the checkpoint's own.
        device: "cpu", "cuda", …, or "auto" or a device map to shard the model over several.
        attention: "eager" (every site) or "sdpa" (fused: no scores and pattern).
        tokenizer: Needed with a live model if it is to read strings.
        adapter: A folder or hub id of a LoRA adapter (through peft).
        quantization: A transformers quantisation config (bitsandbytes and others), where the hardware allows.
        verify: Check the contracts of the architecture, once for each version of everything (see `Model.verify`).

    Raises:
        LoadError: There is no such model, or its files are broken, incomplete, or not what they should be.
        NotFinite: A weight is NaN or infinite.
        ContractBroken: The model does not keep a contract that its sites rest on.
    """
    if attention not in ("eager", "sdpa"):
        raise BadInput(explain(f"attention={attention!r} is not served", possible=["eager", "sdpa"], near=attention))
    if isinstance(name_or_path, torch.nn.Module):
        _as_it_is(revision=revision, dtype=dtype, device=device, adapter=adapter, quantization=quantization)
        hf, name = _unwrapped(name_or_path), getattr(name_or_path, "name_or_path", "") or type(name_or_path).__name__
    else:
        name = str(name_or_path)
        source = str(builtin_path(name)) if name.startswith(BUILTIN) else name
        hf = _checkpoint(source, revision, dtype, device, attention, quantization)
        tokenizer = tokenizer if tokenizer is not None else _tokenizer(source, revision)
    if adapter is not None:
        _add_adapter(hf, str(adapter))
    _finite(hf)
    model = wrap(hf, tokenizer, name=name, revision=revision, attention=attention)
    if verify:
        contracts.check_once(model, lambda: _alive(model))
    return model


def wrap(hf: Any, tokenizer: Any, *, name: str, revision: str | None, attention: str) -> Model:
    """A `Model` around a Hugging Face model, without any check of its numbers."""
    _served(hf, attention)
    arch, in_table = architecture(hf)
    anatomy = dissect(hf, arch, in_table=in_table, fused=attention == "sdpa")
    revision = getattr(hf.config, "_commit_hash", None) or revision
    return Model(hf, tokenizer, anatomy, name=name, revision=revision, attention=attention)


def _alive(model: Model) -> Model:
    """A model like this one with random matrices and no biases, so that no part of it is dead."""
    hf, draw = copy.deepcopy(model.hf), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in hf.named_parameters():
            if name.endswith("bias"):
                weight.zero_()
            elif weight.ndim > 1 and weight.is_floating_point():
                weight.copy_(torch.randn(weight.shape, generator=draw) / weight.shape[-1] ** 0.5)
    return wrap(hf, None, name=model.name, revision=None, attention=model.attention)


def builtin_path(name: str) -> Path:
    """The folder of a built-in model.

    Raises:
        LoadError: There is none of that name.
    """
    root = Path(str(resources.files("digsite"))) / "toys"
    one = {path.parent.parent.name: path.parent for path in root.glob("*/weights/config.json")}
    several = {path.parent.name: path.parent for path in root.glob("*/weights/*/config.json")}
    there = {f"{BUILTIN}{name}": path for name, path in (one | several).items()}
    if name not in there:
        raise LoadError(explain(f"There is no built-in model {name}", possible=sorted(there), near=name))
    return there[name]


def _as_it_is(**asked: Any) -> None:
    """A live model is never changed by loading."""
    given = [name for name, value in asked.items() if value is not None]
    if given:
        raise BadInput(
            explain(
                f"A live model is used as it is, so {', '.join(given)} cannot be given with it",
                do="change the model yourself before it is loaded, or give load() the path that it came from",
            )
        )


def _served(hf: Any, attention: str) -> None:
    """Whether fused attention exists for a model."""
    why = "" if getattr(hf, "_supports_sdpa", False) else "it has no fused attention in transformers"
    if getattr(hf.config.get_text_config(), "attn_logit_softcapping", None):
        why = "it soft-caps its scores, which fused attention cannot"
    if attention == "sdpa" and why:
        raise Unsupported(
            explain(f'attention="sdpa" is not possible for {type(hf).__name__}', found=why, do='load with "eager"')
        )


def _unwrapped(hf: Any) -> Any:
    """The transformers model inside a peft model (its adapters stay in place)."""
    config = getattr(hf, "active_peft_config", None)
    if getattr(config, "is_prompt_learning", False):
        raise Unsupported(
            explain(
                "A prompt-tuned peft model cannot be read at sites",
                found=f"{type(config).__name__}, whose virtual tokens are not in the model",
                possible="adapters that live in the model's layers, such as LoRA",
            )
        )
    base = hf.get_base_model() if hasattr(hf, "get_base_model") and hasattr(hf, "peft_config") else hf
    if getattr(base, "training", False):
        raise BadInput(
            explain("The model is in training mode", found="dropout would make every run different", do="call .eval()")
        )
    return base


def _tokenizer(source: str, revision: str | None) -> Any:
    """The tokenizer beside a checkpoint; None where there is none: the model then reads ids, and says so."""
    try:
        return AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
        if not any(cached_file(source, name, revision=revision, **quiet) for name in _TOKENIZER_FILES):
            return None
        raise LoadError(
            explain(
                f"The tokenizer of {source} cannot be read",
                found=_one_line(error),
                do="repair or replace its files, or give load() another one: tokenizer=…",
            )
        ) from error


def _checkpoint(source: str, revision: Any, dtype: Any, device: Any, attention: str, quantization: Any) -> Any:
    folder = Path(source)
    if folder.is_dir():
        _check_files(folder)
    elif source.startswith((".", "/", "~")):
        raise LoadError(explain(f"There is no folder {source}", do="name the folder that holds config.json"))
    arguments: dict[str, Any] = {"revision": revision, "use_safetensors": True, "output_loading_info": True}
    if dtype is not None:
        arguments["dtype"] = dtype
    if quantization is not None:
        arguments["quantization_config"] = quantization
    if isinstance(device, dict) or device == "auto":
        arguments["device_map"] = device
    try:
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source, config=config, attn_implementation=attention, trust_remote_code=False, **arguments
        )
    except (OSError, ValueError, KeyError, SafetensorError, ImportError, RuntimeError) as error:
        raise _load_error(source, error) from error
    hf, info = loaded
    _complete(f"The weights of {source} do not fit its config", info)
    hf.requires_grad_(requires_grad=False).eval()
    if device is not None and "device_map" not in arguments:
        try:
            hf.to(device)
        except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
            raise LoadError(
                explain(f"The model cannot be put on {device}", found=str(error), do='check torch, or use device="cpu"')
            ) from error
    return hf


def _check_files(folder: Path) -> None:
    """Every safetensors file of a folder opens, and its index names no file that is missing."""
    if not (folder / "config.json").is_file():
        raise LoadError(
            explain(f"{folder} is not a model folder", found="no config.json", do="name the folder that holds it")
        )
    files = sorted(folder.glob("*.safetensors"))
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if not files and pickled:
        raise LoadError(
            explain(
                f"{folder} holds pickled weights only",
                found=", ".join(pickled),
                possible="safetensors; a pickle can run any code when it is opened",
                do="convert it where you trust it: AutoModelForCausalLM.from_pretrained(...).save_pretrained(folder)",
            )
        )
    if not files:
        raise LoadError(explain(f"{folder} holds no weights", found="no .safetensors file"))
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            wanted = set(json.loads(index.read_text())["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LoadError(
                explain(f"{index} is broken", found=_one_line(error), do="download or copy it again")
            ) from error
        missing = sorted(wanted - {path.name for path in files})
        if missing:
            raise LoadError(explain(f"{folder} is incomplete", found=f"no {', '.join(missing)}, which its index names"))
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                file.keys()
        except (SafetensorError, OSError) as error:
            raise LoadError(
                explain(
                    f"{path} is broken or cut off",
                    found=f"{path.stat().st_size} bytes; {error}",
                    do="download or copy it again",
                )
            ) from None


def _complete(wrong: str, info: Any) -> None:
    """A key that is missing or unused is an error, of a model as of an adapter."""
    keys = {
        "missing": sorted(info["missing_keys"]),
        "unused": sorted(info["unexpected_keys"]),
        "of another shape": sorted(str(key[0] if isinstance(key, tuple) else key) for key in info["mismatched_keys"]),
    }
    found = "; ".join(f"{len(some)} {what}: {', '.join(some[:4])}" for what, some in keys.items() if some)
    if found:
        raise LoadError(
            explain(
                wrong,
                found=found,
                do="use the config that the weights were saved with, or load the model yourself and pass it live",
            )
        )


def _load_error(source: str, error: Exception) -> Exception:
    text = _one_line(error)
    if isinstance(error, ImportError) or "scaled_dot_product_attention" in text:
        return Unsupported(explain(f"{source} cannot be loaded here", found=text))
    return LoadError(
        explain(
            f"There is no model {source} that can be loaded here",
            found=text,
            possible="a hub id (with a network, or in the local cache), a folder with config.json and safetensors, "
            "or digsite/tinyworld",
            do="check the spelling; offline only models in the cache or in folders load",
        )
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _add_adapter(hf: Any, adapter: str) -> None:
    try:
        import peft  # noqa: F401
    except ImportError:
        raise MissingExtra("peft", "adapters", "A LoRA adapter") from None
    wrong = f"The adapter {adapter} does not fit {type(hf).__name__}"
    try:
        info = hf.load_adapter(adapter)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise LoadError(explain(wrong, found=_one_line(error))) from error
    if info is not None:  # some early releases of transformers 5 keep it to themselves
        _complete(wrong, vars(info))
    hf.requires_grad_(requires_grad=False).eval()


def _finite(hf: Any) -> None:
    bad = []
    for name, parameter in hf.named_parameters():
        if parameter.is_floating_point() and parameter.numel() and parameter.device.type != "meta":
            low, high = torch.aminmax(parameter.detach())
            if not bool(torch.isfinite(low) & torch.isfinite(high)):
                bad.append(name)
    if bad:
        raise NotFinite(
            explain(
                "The weights hold NaN or infinity",
                found=f"in {len(bad)} tensors: {', '.join(bad[:4])}",
                do="get another copy of the checkpoint; nothing that is computed from it would mean anything",
            )
        )
