"""Control vectors in GGUF, which llama.cpp steers with and repeng writes.

- A file has the architecture "controlvector", a hint at the model's type, and float32 tensors `direction.<k>`.
- `direction.<k>` is added to what block k, counted from 0, gives to the stream: `layers.<k>.resid_post`. This is what
  llama.cpp does with it (`build_cvec` behind the last addition of a block) and repeng (`ControlModule`); `resid_pre` of
  a layer is `resid_post` of the one before.
- llama.cpp refuses `direction.0`: what the first block gives cannot be steered there. repeng can.
- The vector is one raw unit; llama.cpp's `--control-vector-scaled file.gguf c` and repeng's `coeff` are coefficients of
  `Direction.add(c)`.

`llama-cvector-generator` finds a vector behind block k and names it `direction.<k+1>`, so it is added one block later
than it was found. The file is read as llama.cpp applies it.
"""

import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from digsite._core.errors import BadInput, LoadError, MissingExtra, Unsupported, explain
from digsite._core.files import write_whole
from digsite.directions.direction import Direction
from digsite.directions.exchange.arriving import arrived
from digsite.models import Model

ARCHITECTURE = "controlvector"
_PREFIX = "direction."
_BROKEN = (ValueError, LookupError, TypeError, AttributeError, OSError, OverflowError, struct.error)


def write_control_vector(directions: Direction | Sequence[Direction], path: str | Path, model: Model) -> Path:
    """Write directions of the residual stream as a control vector for llama.cpp.

    Args:
        directions: One a layer, at `resid_post` or `resid_pre`.
        path: The file; an older one there is replaced.
        model: The model that they belong to; its type is written as the hint.

    Returns:
        The file.

    Raises:
        BadInput: No direction, two at one place, or a direction of another model.
        Unsupported: A site that llama.cpp cannot steer.
        MissingExtra: gguf is not installed.
        NotWritten: The disk is full, or the place cannot be written.

    Units: one raw unit of the direction is a strength of 1.

    Caveats:
        Only the vector travels: reader, bias and scale stay behind. `digsite.directions.save` keeps them.
    """
    gguf = _gguf("Writing a control vector")
    several = [directions] if isinstance(directions, Direction) else list(directions)
    if not several:
        raise BadInput(explain("A control vector has one direction or more"))
    placed: dict[int, Direction] = {}
    for direction in several:
        direction.check(model)
        block = _block(direction)
        if block in placed:
            found = f"{placed[block].site} and {direction.site}"
            raise BadInput(explain("A control vector has one direction a place", found=found, do="add them up first"))
        placed[block] = direction
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "part.gguf"
        writer = gguf.GGUFWriter(part, ARCHITECTURE)
        writer.add_string(f"{ARCHITECTURE}.model_hint", model.hf.config.model_type)
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(placed))
        for block in sorted(placed):
            writer.add_tensor(f"{_PREFIX}{block}", placed[block].vector.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return write_whole(path, part.read_bytes())


def read_control_vector(path: str | Path, model: Model) -> list[Direction]:
    """Read a control vector that llama.cpp, repeng or digsite wrote.

    Args:
        path: A GGUF file.
        model: The model that it is for. The file says only its type, so whether it was found in these very weights is
            for you to know.

    Returns:
        One direction a layer, at `resid_post`; `direction.add(c)` steers as the file does at strength c.

    Raises:
        LoadError: No such file, no GGUF or one of an unknown version, no control vector, one for another type of model
            or for layers that the model lacks, fewer vectors than it says, or a vector that is not float32.
        ShapeMismatch: The vectors are of another width than the model's stream.
        MissingExtra: gguf is not installed.

    Source: llama.cpp `common_control_vector_load_one` and `llama_adapter_cvec`; repeng 0.4.0 `ControlVector`.
    """
    gguf, path = _gguf("Reading a control vector"), Path(path)
    if not path.is_file():
        raise LoadError(explain(f"There is no control vector at {path}", found="no such file"))
    try:
        reader = gguf.GGUFReader(path)
        known = {name: field.contents() for name, field in reader.fields.items()}
    except _BROKEN as error:
        found = f"{type(error).__name__}: {error}"
        do = "a file of GGUF version 2 or 3 is needed"
        raise LoadError(explain(f"{path} cannot be read as GGUF", found=found, do=do)) from error
    _meant_for(known, path, model)
    vectors = _vectors(reader, path)
    count = known.get(f"{ARCHITECTURE}.layer_count", len(vectors))
    if count != len(vectors):
        raise LoadError(explain(f"{path} says that it has {count} vectors", found=f"{len(vectors)}"))
    site, how = "resid_post", "control vector"
    return arrived(vectors, path, model, site=site, reader="read_control_vector", how=how)


def _meant_for(known: dict[str, object], path: Path, model: Model) -> None:
    what = known.get("general.architecture")
    if what != ARCHITECTURE:
        raise LoadError(explain(f"{path} is no control vector", found=f"GGUF of the architecture {what}"))
    hint, own = known.get(f"{ARCHITECTURE}.model_hint"), model.hf.config.model_type
    if hint not in (None, own):
        asked = f"{path} is for a model of another type than {model.name}"
        raise LoadError(explain(asked, found=f"made for {hint}, the model is {own}"))


def _vectors(reader: object, path: Path) -> dict[int, Tensor]:
    vectors: dict[int, Tensor] = {}
    for tensor in reader.tensors:  # pyright: ignore[reportAttributeAccessIssue]
        number = tensor.name.removeprefix(_PREFIX)
        if not tensor.name.startswith(_PREFIX) or not number.isdecimal() or int(number) in vectors:
            possible = "direction.<layer>, each once"
            raise LoadError(
                explain(f"{path} holds a tensor that is no direction", found=tensor.name, possible=possible)
            )
        if tensor.tensor_type.name != "F32":
            raise LoadError(explain(f"{tensor.name} in {path} is not float32", found=tensor.tensor_type.name))
        vectors[int(number)] = torch.tensor(tensor.data)
    return vectors


def _block(direction: Direction) -> int:
    """After which block a direction of the stream is added."""
    site = direction.site
    if site.name not in ("resid_post", "resid_pre") or not isinstance(site.layer, int):
        possible = "layers.<layer>.resid_post, layers.<layer>.resid_pre"
        raise Unsupported(explain(f"llama.cpp does not steer {site}", possible=possible))
    block = site.layer - (site.name == "resid_pre")
    if block < 1:
        asked = f"llama.cpp does not steer {site}"
        raise Unsupported(explain(asked, possible="layers.1.resid_post and later", do="move the direction on"))
    return block


def _gguf(purpose: str) -> ModuleType:
    try:
        import gguf
    except ImportError:
        raise MissingExtra("gguf", "exchange", purpose) from None
    return gguf
