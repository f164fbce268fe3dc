"""`digsite steer import` and `digsite steer export`: directions from other programs and for them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter, validators

from digsite._core.errors import LoadError, explain
from digsite.cli.inputs import AS_STORED, Loading, ModelName
from digsite.cli.outputs import Json, answers, check_folder, columns, print_json, print_saved

if TYPE_CHECKING:
    from digsite.directions import Direction


def take(
    path: Annotated[Path, Parameter(help="A control vector (GGUF), or vectors that were saved with steering-vectors.")],
    /,
    *,
    model: ModelName,
    out: Path,
    json: Json = False,
    loading: Loading = AS_STORED,
) -> None:
    """Reads the directions of llama.cpp, repeng or steering-vectors, and saves them as digsite's own.

    Such a file does not say which weights its vectors were found in: that it is this model is for you to know.

    Args:
        out: The folder for them; older directions there are replaced.
    """
    from digsite.directions import save
    from digsite.directions.exchange import read_directions

    check_folder(out, marker="directions.json")
    loaded = loading.load(model, verify=False)
    found = read_directions(path, loaded)
    save(found, out)
    _show(found, loaded.name, {"folder": str(out)}, json=json)


def export(
    direction: Annotated[Path, Parameter(help="A folder of `digsite steer --keep`, `import`, or directions.save.")],
    /,
    *,
    model: ModelName,
    out: Annotated[Path, Parameter(validator=validators.Path(ext=("gguf",)))],
    json: Json = False,
    loading: Loading = AS_STORED,
) -> None:
    """Writes directions as a control vector (GGUF), which llama.cpp and repeng steer with.

    Only the vectors travel. A strength of 1 there is a coefficient of 1 raw here.

    Args:
        out: The .gguf file; an older one there is replaced.
    """
    from digsite.directions.exchange import write_control_vector

    found = stored(direction)
    loaded = loading.load(model, verify=False)
    write_control_vector(found, out, loaded)
    _show(found, loaded.name, {"file": str(out)}, json=json)


def stored(folder: Path) -> list["Direction"]:
    """Every direction of a folder.

    Raises:
        LoadError: There is none, or something else is there.
    """
    from digsite.directions import Direction, load

    items = load(folder)
    found = [item for item in items if isinstance(item, Direction)]
    if not found or len(found) < len(items):
        said = ", ".join(f"{type(item).__name__.lower()} {item.name}".strip() for item in items) or "nothing"
        raise LoadError(explain(f"{folder} does not hold directions alone", found=said))
    return found


def _show(found: list["Direction"], model: str, saved: dict[str, str | None], *, json: bool) -> None:
    """Where each direction is written, how long it is, and which strength is one mean activation."""
    rows: list[dict[str, Any]] = []
    for one in found:
        raw = one.amount(1.0)
        norm = None if one.scale is None else one.scale.norm / raw
        rows.append({"site": str(one.site), "name": one.name, "how": one.how, "length": raw, "norm": norm})
    if json:
        print_json({"model": model, "directions": rows} | saved)
        return
    table = columns("site", "name", "length", "strength of 1 norm", left=2)
    for row in rows:
        norm = "–" if row["norm"] is None else f"{row['norm']:.3g}"
        table.add_row(row["site"], row["name"], f"{row['length']:.3g}", norm)
    answers().print(table)
    print_saved(saved)
