"""Jacobian lenses in the file that "Verbalizable Workspace" and Neuronpedia publish: a dictionary of {J, n_prompts,
source_layers, d_model} written by `torch.save`, J[l] being the matrix that carries resid_post of layer l to the end.

It is read with `weights_only=True`: nothing in it is executed.
"""

import io
from pathlib import Path

import torch

from digsite._core.errors import BadInput, LoadError, explain
from digsite._core.files import write_whole
from digsite.lenses.lens import Affine, Lens
from digsite.models import Model

_KEYS = ("J", "n_prompts", "source_layers", "d_model")


def read_jacobian(path: str | Path, model: Model) -> Lens:
    """Read a published Jacobian lens for a model.

    Args:
        path: The .pt file.
        model: The model that it is of; the file does not say which, so its width and depth are all that is checked.

    Raises:
        LoadError: The file is not there or not such a file, or its lens is one of a wider or deeper model.
    """
    path = Path(path)
    try:
        plain = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a refused pickle, a broken archive and a cut-off file raise all kinds of errors
        found = str(error).partition("\n")[0]
        raise LoadError(explain(f"{path} is no file of a Jacobian lens", found=found)) from error
    missing = [key for key in _KEYS if not isinstance(plain, dict) or key not in plain]
    if missing:
        found = f"a {type(plain).__name__} without {', '.join(missing)}"
        raise LoadError(explain(f"{path} is no file of a Jacobian lens", found=found))
    layers, d = sorted(plain["source_layers"]), plain["d_model"]
    shapes = {layer: tuple(plain["J"][layer].shape) for layer in layers}
    if wrong := [f"J[{layer}] is {shape}" for layer, shape in shapes.items() if shape != (d, d)]:
        raise LoadError(explain(f"The matrices in {path} are not ({d}, {d})", found="; ".join(wrong)))
    last = model.n_layers - 1
    if d != model.d_model or layers[-1] > last:
        found = f"width {d}, layers up to {layers[-1]}; {model.name} has width {model.d_model}, layers up to {last}"
        raise LoadError(explain(f"The lens in {path} is of another model", found=found))
    eye = torch.eye(d)
    maps = {f"layers.{layer}.resid_post": Affine(plain["J"][layer].float() - eye) for layer in layers if layer != last}
    origin = {"file": path.name, "prompts": int(plain["n_prompts"])}
    return Lens(model, "jacobian", maps, (*maps, f"layers.{last}.resid_post"), origin=origin)


def write_jacobian(lens: Lens, path: str | Path) -> Path:
    """Write a Jacobian lens as others read it; the embedding, which their file has no place for, is left out.

    Args:
        lens: A Jacobian lens.
        path: The .pt file.

    Raises:
        BadInput: It is no Jacobian lens.
        NotWritten: The place cannot be written.
    """
    if lens.kind != "jacobian":
        raise BadInput(explain("This file holds Jacobian lenses", found=f"a {lens.name} lens"))
    eye = torch.eye(lens.model.d_model)
    layers = {int(site.split(".")[1]): one for site, one in lens.maps.items() if site.endswith("resid_post")}
    plain = {
        "J": {layer: (one.change + eye).half() for layer, one in layers.items()},
        "n_prompts": lens.origin.get("prompts", 0),
        "source_layers": list(layers),
        "d_model": lens.model.d_model,
    }
    held = io.BytesIO()
    torch.save(plain, held)  # noqa: TID251 - the format of others; tensors and plain values alone
    return write_whole(path, held.getvalue())
