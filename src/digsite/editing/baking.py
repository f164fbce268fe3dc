"""Baking: a copy of a model in whose weights some heads and MLPs are switched off, and the way back.

1. A head writes W_O z. With zero for z its columns of W_O are 0; with a mean m for z the bias of W_O also gets W_O m.
   An MLP without output has a down projection of 0; with a mean its bias is that mean.
2. The model is saved as it is to a new folder, and the few tensors are changed in the files. The model in memory is
   never touched.
3. The original tensors stand beside them in undo.safetensors, and what was done in baked.json.
4. The folder is loaded and compared with the edited model; only then does it appear at its place.
5. `unbake` puts the original tensors back, bit for bit. It can be repeated after a kill.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from digsite._core.errors import BadInput, ContractBroken, LoadError, Unsupported, explain
from digsite._core.files import whole_folder, write_whole
from digsite.editing.cuts import node_edits
from digsite.models import Edit, Model, load, made_by
from digsite.models.block import Block
from digsite.models.linears import linear_weight
from digsite.patching.components import checked
from digsite.sites import Site

RECORD, UNDO = "baked.json", "undo.safetensors"
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
"""How far logits of the copy may lie from those of the edited model, over the largest logit; 0.02 in other dtypes."""

Changes = dict[str, Callable[[Tensor], Tensor]]
"""Name of a parameter -> from the old tensor to the new one."""


@dataclass(frozen=True, kw_only=True)
class Baked:
    """What was written.

    Attributes:
        folder: Where; transformers and `digsite.load` read it.
        nodes: What is switched off.
        how: "zero" or "mean".
        tensors: The tensors that are changed.
        error: The largest difference of a logit from the edited model.
        provenance: Where it comes from.
    """

    folder: str
    nodes: tuple[str, ...]
    how: str
    tensors: tuple[str, ...]
    error: float
    provenance: dict[str, Any]


def bake(model: Model, nodes: Sequence[str], folder: str | Path, *, how: str = "zero", over: Any = None) -> Baked:
    """Writes a copy of a model in whose weights some heads and MLPs are switched off.

    Args:
        model: The model; it is not changed.
        nodes: Heads ("layers.3.attn.z[2]") and MLPs ("layers.3.mlp.out"); wildcards allowed.
        folder: A new or empty folder, or one that was baked before.
        how: "zero", or "mean" where the output projection has a bias to hold it.
        over: Tokens or corpus that the mean is taken over.

    Raises:
        BadInput: Unknown nodes, or a folder that holds something else.
        Unsupported: Weights that cannot be changed alone: quantised, under an adapter, shared with another part, spread
            over experts, or without the bias that a mean needs.
        ContractBroken: The copy is not the edited model; nothing is written then.
        NotWritten: The disk is full, or the place cannot be written.

    Caveats:
        The copy holds the whole model, whatever is switched off. Each head or MLP is cut for all that read it; a cut of
        single edges cannot be written into weights.
    """
    names = checked(model, nodes)
    if not names:
        raise BadInput(explain("There is nothing to switch off", do="name at least one head or MLP"))
    edits = node_edits(model, names, how=how, over=over)
    changes = _changes(model, names, edits, how)
    record: dict[str, Any] = {}
    with whole_folder(folder, marker=RECORD, parts=("model*.safetensors*",)) as place:
        # 2. and 3. Saved, then changed in the files.
        model.hf.save_pretrained(place)
        if model.tokenizer is not None:
            model.tokenizer.save_pretrained(place)
        undo = _change_files(place, changes)
        write_whole(place / UNDO, save(undo))
        # 4. Compared.
        error = _compared(model, edits, place)
        made = made_by(f"digsite.editing.bake(model, {list(names)!r}, {str(folder)!r}, how={how!r})", model)
        record = {"nodes": list(names), "how": how, "tensors": sorted(changes), "error": error}
        record["provenance"] = made.to_dict()
        (place / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
    return Baked(
        folder=str(folder),
        nodes=names,
        how=how,
        tensors=tuple(sorted(changes)),
        error=error,
        provenance=record["provenance"],
    )


def unbake(folder: str | Path) -> Path:
    """Puts the original weights back into a folder that `bake` wrote, bit for bit.

    Raises:
        LoadError: The folder was not baked, or holds no undo file.
        NotWritten: The disk is full, or the place cannot be written; call it again then.
    """
    folder = Path(folder)
    if not (folder / RECORD).is_file() or not (folder / UNDO).is_file():
        raise LoadError(
            explain(
                f"{folder} holds no model that was baked", found=f"no {RECORD} with {UNDO}", do="give bake's folder"
            )
        )
    undo = load_file(folder / UNDO)
    _change_files(folder, {name: lambda _, old=old: old for name, old in undo.items()})
    (folder / RECORD).unlink()
    (folder / UNDO).unlink()
    return folder


def _changes(model: Model, names: Sequence[str], edits: Sequence[Edit], how: str) -> Changes:
    """1. What happens to which parameter."""
    parameters: dict[int, list[str]] = {}
    for name, parameter in model.hf.named_parameters(remove_duplicate=False):
        parameters.setdefault(id(parameter), []).append(name)
    found: Changes = {}

    def change(module: nn.Module, kind: str, new: Callable[[Tensor], Tensor], why: str) -> None:
        known = parameters.get(id(getattr(module, kind, None)), [])
        if len(known) != 1:
            shared = f"it is shared by {' and '.join(known)}" if known else "it is no parameter of the model's own"
            raise Unsupported(explain(f"{why} cannot be written into the weights", found=shared))
        before = found.get(known[0], lambda x: x)
        found[known[0]] = lambda x: new(before(x))

    for name, edit in zip(names, edits, strict=True):
        site = Site.parse(name)
        assert isinstance(site.layer, int)
        block = model.anatomy.blocks[site.layer]
        module = _projection(block, name, head=site.head is not None)
        mean = edit.value if how == "mean" and isinstance(edit.value, Tensor) else None
        if mean is not None:
            shift = _shift(model, block, site, module, mean)
            if getattr(module, "bias", None) is None:
                raise Unsupported(
                    explain(
                        f"The mean of {name} cannot be written into the weights",
                        found="its output projection has no bias to hold it",
                        do='use how="zero", or the edits of digsite.editing.node_edits',
                    )
                )
            keeps = site.head is not None
            change(module, "bias", lambda x, s=shift, k=keeps: (x if k else torch.zeros_like(x)) + s.to(x), name)
        elif site.head is None and getattr(module, "bias", None) is not None:
            change(module, "bias", torch.zeros_like, name)
        change(module, "weight", _without(block, site, module), name)
    return found


def _projection(block: Block, name: str, *, head: bool) -> nn.Module:
    """The linear layer by which a head or an MLP writes.

    Raises:
        Unsupported: There is no such single layer, or its weight is not one that can be changed alone.
    """
    module = block.parts.get("o" if head else "down")
    if module is None:
        raise Unsupported(
            explain(f"{name} has no output projection of its own", found="its neurons are spread over experts")
        )
    if hasattr(module, "base_layer"):
        raise Unsupported(
            explain(f"{name} is under an adapter", do="merge the adapter first (peft's merge_and_unload)")
        )
    linear_weight(module)  # raises for a quantised weight
    return module


def _without(block: Block, site: Site, module: nn.Module) -> Callable[[Tensor], Tensor]:
    """The weight without a head's share of its inputs, or without any."""
    if site.head is None:
        return torch.zeros_like
    assert block.heads is not None and isinstance(site.head, int)
    transposed = type(module).__name__ == "Conv1D"
    head, count = site.head, block.heads.n_heads

    def new(weight: Tensor) -> Tensor:
        weight = weight.clone()
        by_head = (weight if transposed else weight.T).unflatten(0, (count, -1))
        by_head[head] = 0
        return weight

    return new


def _shift(model: Model, block: Block, site: Site, module: nn.Module, mean: Tensor) -> Tensor:
    """What a mean adds to the bias of the output projection."""
    if isinstance(site.head, int):
        return (mean.double() @ model.weights.W_O[block.index][site.head].double()).cpu()
    if block.parts.get("mlp_out") not in (None, module, block.parts.get("mlp")):
        raise Unsupported(
            explain(
                f"The mean of {site} cannot be written into the weights", found="a norm follows the down projection"
            )
        )
    return (mean.double() / model.anatomy.multiplier).cpu()


def _change_files(place: Path, changes: Changes) -> dict[str, Tensor]:
    """Changes tensors in the safetensors files of a folder; the tensors as they were."""
    undo: dict[str, Tensor] = {}
    for path in sorted(place.glob("*.safetensors")):
        if path.name == UNDO:
            continue
        with safe_open(path, "pt") as file:
            mine, metadata = changes.keys() & set(file.keys()), file.metadata()
        if mine:
            held = load_file(path)
            for name in sorted(mine):
                undo[name] = held[name]
                held[name] = changes[name](held[name]).contiguous()
            write_whole(path, save(held, metadata))
    if missing := sorted(changes.keys() - undo.keys()):
        raise Unsupported(
            explain(
                f"transformers saves {missing[0]} under another name", do="change the weights of this model yourself"
            )
        )
    return undo


def _compared(model: Model, edits: Sequence[Edit], place: Path) -> float:
    """The largest difference of a logit between the edited model and the copy, on some rows of ids.

    Raises:
        ContractBroken: It is larger than rounding.
    """
    width = min(16, model.n_ctx or 16)
    ids = torch.randint(0, model.d_vocab, (4, width), generator=torch.Generator().manual_seed(0))
    copy = load(str(place), dtype=model.dtype, attention=model.attention, tokenizer=model.tokenizer, verify=False)
    wanted = model.run(ids, edits=edits).logits.double().cpu()
    error = float((copy.run(ids).logits.double().cpu() - wanted).abs().max())
    limit = TOLERANCE.get(model.dtype, 0.02) * max(1.0, float(wanted.abs().max()))
    if not error <= limit:
        raise ContractBroken(
            explain(
                "The copy is not the model with these parts switched off, so nothing was written",
                found=f"a logit differs by {error:.2g}",
                possible=f"at most {limit:.2g}",
                do="use the edits of digsite.editing.node_edits in your runs",
            )
        )
    return error
