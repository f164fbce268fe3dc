"""`digsite sae`: sparse dictionaries, from other libraries and for them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from digsite.cli.outputs import Json, answers, check_folder, facts, print_json, print_saved
from digsite.cli.sae_stored import only

if TYPE_CHECKING:
    from digsite.dictionaries import Dictionary

app = App(name="sae", help="Sparse dictionaries (SAEs, transcoders, …): train, eval, compare, import, export.")

Reading = Literal[
    "digsite",
    "saelens",
    "gemma-scope",
    "gemma-scope-2",
    "sparsify",
    "dictionary-learning",
    "openai",
    "circuit-tracer",
]
_MARKER = "dictionary.json"


@app.command(name="import")
def take(
    path: Annotated[Path, Parameter(help="A folder, or a file where the format is one file.")],
    /,
    *,
    out: Path,
    format: Reading | None = None,
    column: str | None = None,
    reads: str | None = None,
    writes: str | None = None,
    model: str | None = None,
    json: Json = False,
) -> None:
    """Reads a dictionary that another library wrote, and saves it as digsite's own.

    Args:
        out: The folder for it; an older dictionary there is replaced.
        format: Whose it is; found by what is there unless given.
        column: The site of an SAE, such as layers.3.resid_post, where the file does not say it.
        reads: The site that a transcoder reads; layers.*.mlp.norm where it has several layers.
        writes: The site that a transcoder writes.
        model: The model that it was made for, for record.
    """
    from digsite.dictionaries import read_dictionary, save

    check_folder(out, marker=_MARKER)
    found = read_dictionary(path, format=format, column=column, reads=reads, writes=writes, model=model)
    save(found, out)
    _show(found, {"folder": str(out)}, json=json)


@app.command
def export(
    dictionary: Annotated[Path, Parameter(help="A folder of `sae train`, of one dictionary, or of another library.")],
    /,
    *,
    format: Literal["digsite", "saelens", "circuit-tracer"],
    out: Path,
    json: Json = False,
) -> None:
    """Writes a dictionary so that another library reads it as the same.

    Args:
        format: Whose reader it is for.
        out: The folder for it; an older dictionary of that format there is replaced.
    """
    from digsite.dictionaries import write_dictionary

    found = only(dictionary)[1]
    write_dictionary(found, out, format)
    _show(found, {"folder": str(out)}, json=json)


def _show(found: "Dictionary", saved: dict[str, str | None], *, json: bool) -> None:
    """What a dictionary is, and where it went."""
    blocks, origin = found.config.blocks, found.config.origin
    told: dict[str, Any] = {
        "family": found.config.family,
        "reads": list(found.reads),
        "writes": list(found.writes),
        "latents": [block.latents for block in blocks],
        "activation": ", ".join(dict.fromkeys(block.activation.kind for block in blocks)),
        "centred": any(block.centred for block in blocks),
        "skip": any(block.skip for block in blocks),
        "model": origin.get("model"),
        "format": origin.get("format"),
    }
    if json:
        print_json(told | saved)
        return
    each = {name: ", ".join(map(str, value)) if isinstance(value, list) else value for name, value in told.items()}
    shown = {name: "yes" if value is True else "no" if value is False else value for name, value in each.items()}
    answers().print(facts((name, value) for name, value in shown.items() if value is not None))
    print_saved(saved)
