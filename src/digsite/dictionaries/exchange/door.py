"""Reading and writing dictionaries of other libraries: which format it is, is found by what is there.

1. Every format says whether a file or folder is its own, by the names of files and of the tensors in them.
2. Exactly one must say so; else the error lists what was seen.
3. The format's reader brings the numbers to digsite's orientation (one module a format says how), strictly: a tensor
   that is missing or not known, or a configuration that contradicts the tensors, is an error.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from digsite._core.errors import BadInput, LoadError, explain
from digsite.dictionaries import files
from digsite.dictionaries.dictionary import Dictionary
from digsite.dictionaries.exchange import (
    circuit_tracer,
    dictionary_learning,
    gemma_scope,
    gemma_scope_2,
    openai,
    saelens,
    sparsify,
)
from digsite.dictionaries.exchange.names import Given


class Format(NamedTuple):
    """One library's files.

    Attributes:
        recognises: Whether a file or folder is of it.
        read: The dictionary, from where it is and what the caller says about it.
        write: Writes a dictionary to a folder; None where digsite only reads.
        holds: What its folder holds, for errors.
    """

    recognises: Callable[[Path], bool]
    read: Callable[[Path, Given], Dictionary]
    write: Callable[[Dictionary, Path], object] | None
    holds: str


def _native(path: Path, given: Given) -> Dictionary:
    if given != Given():
        raise BadInput(
            explain(f"{path} says itself what it reads and writes", do="Leave out column, reads, writes and model")
        )
    return files.load(path)


FORMATS = {
    "digsite": Format(lambda path: (path / "dictionary.json").is_file(), _native, files.save, "dictionary.json"),
    "saelens": Format(saelens.recognises, saelens.read, saelens.write, "cfg.json, sae_weights.safetensors"),
    "gemma-scope": Format(gemma_scope.recognises, gemma_scope.read, None, "params.npz"),
    "gemma-scope-2": Format(gemma_scope_2.recognises, gemma_scope_2.read, None, "config.json, params.safetensors"),
    "sparsify": Format(sparsify.recognises, sparsify.read, None, "cfg.json, sae.safetensors"),
    "dictionary-learning": Format(dictionary_learning.recognises, dictionary_learning.read, None, "config.json, ae.pt"),
    "openai": Format(openai.recognises, openai.read, None, "one .pt file"),
    "circuit-tracer": Format(
        circuit_tracer.recognises,
        circuit_tracer.read,
        circuit_tracer.write,
        "config.yaml, layer_0.safetensors … or W_enc_0.safetensors, W_dec_0.safetensors …",
    ),
}
"""Every format by the name that the door takes."""


def read_dictionary(
    path: str | Path,
    *,
    format: str | None = None,
    column: str | None = None,
    reads: str | None = None,
    writes: str | None = None,
    model: str | None = None,
) -> Dictionary:
    """Read a dictionary that digsite or another library wrote.

    Args:
        path: A folder, or a file where the format is one file.
        format: One of `FORMATS`; None finds it by what is there.
        column: The site of an SAE, such as `layers.3.resid_post`, where the file does not say it or says it otherwise.
            TransformerLens' names are translated.
        reads: The site that a transcoder reads; `layers.*.mlp.norm` where it has several layers.
        writes: The site that a transcoder writes.
        model: The model that it was made for, for record.

    Returns:
        A dictionary with the same latents and outputs as in the library that wrote it.

    Raises:
        LoadError: It is of no known format or of several, broken, a pickle that would run code, or contradicts itself.
        BadInput: The file does not say a site, and none was given.
        Unsupported: It computes something for which digsite has no equal; the error says what.

    Caveats:
        Latents are equal on equal activations. A dictionary that was trained on TransformerLens' processed weights
        (`fold_ln`, `center_writing_weights`) saw other activations than the Hugging Face model has.
    """
    path = Path(path)
    if column and (reads or writes):
        raise BadInput(
            explain("A dictionary has one column, or reads and writes", found="column= beside reads= or writes=")
        )
    given = Given(reads=column or reads, writes=column or writes, model=model)
    if format is not None:
        return _of(format).read(path, given)
    if not path.exists():
        raise LoadError(explain(f"There is no dictionary at {path}", found="no such file or folder"))
    found = [name for name, one in FORMATS.items() if one.recognises(path)]
    if len(found) != 1:
        asked = f"{path} is {'of several formats' if found else 'of no format that digsite knows'}"
        seen = f"{', '.join(found)}; {_seen(path)}" if found else _seen(path)
        possible = "; ".join(f"{name} ({one.holds})" for name, one in FORMATS.items())
        do = "Say which: format=" if found else "Name the folder that holds one dictionary"
        raise LoadError(explain(asked, found=seen, possible=possible, do=do))
    return FORMATS[found[0]].read(path, given)


def write_dictionary(dictionary: Dictionary, path: str | Path, format: str) -> Path:
    """Write a dictionary so that another library reads it as the same.

    Args:
        dictionary: What is written.
        path: A new folder, or one with an older dictionary of the same format, which is replaced.
        format: "digsite", "saelens" or "circuit-tracer".

    Returns:
        The folder.

    Raises:
        BadInput: digsite does not write that format.
        Unsupported: The library has no form for this dictionary, or would read it as another one.
        NotWritten: The disk is full, or the place cannot be written.
    """
    writer = _of(format).write
    if writer is None:
        possible = [name for name, one in FORMATS.items() if one.write]
        raise BadInput(explain(f"digsite reads {format} and does not write it", possible=possible))
    writer(dictionary, Path(path))
    return Path(path)


def _of(name: str) -> Format:
    if name not in FORMATS:
        raise BadInput(explain(f"There is no format '{name}'", possible=list(FORMATS), near=name))
    return FORMATS[name]


def _seen(path: Path) -> str:
    """What is at a place, for the error."""
    if path.is_file():
        return f"a file of {path.stat().st_size} bytes"
    held = sorted(f"{entry.name}{'/' * entry.is_dir()}" for entry in path.iterdir())
    return f"a folder with {', '.join(held[:8])}{', …' * (len(held) > 8)}" if held else "an empty folder"
