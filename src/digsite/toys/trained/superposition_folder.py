"""The superposition toy as a folder: both results, and a card."""

from dataclasses import dataclass
from pathlib import Path

from digsite._core.files import whole_folder
from digsite.toys.trained.superposition import superposition
from digsite.toys.trained.superposition_dimension import superposition_versus_dimension


def make_superposition(out: str | Path, *, steps: int | None = None, seed: int = 0) -> Path:
    """Trains all networks of the superposition toy, and writes what was found.

    Args:
        out: The folder to write: `sweep` holds a `SuperpositionResult`, `versus_dimension` a
            `SuperpositionVersusDimension`; beside it `<out>.training` keeps the state until the end.
        steps: Optimiser steps of each training; their own if None.
        seed: Of weights and data.

    Returns:
        The folder.

    Raises:
        ContractBroken: What is known was not found; the state stays.
        BadInput: Fewer than one step, or an unfinished training with other settings lies beside `out`.
    """
    out, state = Path(out), Path(f"{out}.training")
    results = {
        "sweep": superposition(steps=steps, seed=seed, state=state),
        "versus_dimension": superposition_versus_dimension(steps=steps, seed=seed, state=state),
    }
    rows = [row for result in results.values() for row in result.findings.to_frame().iter_rows(named=True)]
    card = [
        "# superposition",
        "",
        "Small networks that keep more features than they have dimensions. "
        "Load with `SuperpositionResult.load(folder / 'sweep')` and "
        "`SuperpositionVersusDimension.load(folder / 'versus_dimension')`.",
        "",
        f"Made by `digsite toys train superposition --seed {seed}` in "
        f"{sum(result.cost.cpu_seconds for result in results.values()) / 60:.1f} processor minutes.",
        "",
        "| what is known | measured | must be |",
        "|---|---|---|",
        *(f"| {row['claim']} | {row['value']:.4g} {row['unit']} | {row['must be']} |" for row in rows),
        "",
    ]
    with whole_folder(out, marker="README.md") as folder:
        for name, result in results.items():
            result.save(folder / name)
        (folder / "README.md").write_text("\n".join(card), encoding="utf-8")
    if state.is_dir():
        state.rmdir()
    return out


@dataclass(frozen=True)
class SuperpositionToy:
    """The superposition toy as the catalog knows it: many small networks, so no model folder."""

    name: str = "superposition"
    description: str = "Small networks that keep more features than they have dimensions: when, and in which geometry."
    cpu_minutes: float = 2.2

    def make(self, out: str | Path, *, steps: int | None = None, seed: int = 0) -> Path:
        """Trains and writes it; see `make_superposition`."""
        return make_superposition(out, steps=steps, seed=seed)


TOY = SuperpositionToy()
