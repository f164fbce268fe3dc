"""`python -m benchmarks.exchange`: what other libraries wrote is read here, and what is written here is read by them.

1. Each library writes small files with random numbers and computes latents and outputs from them; digsite reads the
   files and must compute the same to 1e-5.
2. digsite writes dictionaries for SAELens and circuit-tracer; those read them and must compute what digsite does.

Differences are of the largest number (or of 1). `--fixtures tests/dictionaries/fixtures` keeps the files of (1) with
what their library computed; the tests read them where no library is installed.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from benchmarks.exchange import others, saelens, written
from benchmarks.exchange.case import Case, apart
from safetensors.torch import save_file

from digsite.dictionaries.exchange import read_dictionary

PEERS = ("sae-lens", "eai-sparsify", "dictionary_learning", "circuit-tracer")


def difference(folder: Path, case: Case) -> float:
    """The largest difference (`apart`) between digsite's latents and outputs and the library's."""
    dictionary = read_dictionary(folder / case.inside, **case.given)
    latents = dictionary.encode(case.rows)
    made = dictionary.decode(latents, case.rows)
    assert made.keys() == case.outputs.keys(), (made.keys(), case.outputs.keys())
    pairs = [(f.dense(), wanted) for f, wanted in zip(latents, case.latents, strict=True)]
    pairs += [(made[name], wanted) for name, wanted in case.outputs.items()]
    return max(apart(a, b) for a, b in pairs)


def keep(folder: Path, case: Case, to: Path) -> None:
    """A fixture: the library's files, and what it computed."""
    shutil.copytree(folder, to, dirs_exist_ok=True)
    expected = {f"rows.{name}": x for name, x in case.rows.items()}
    expected |= {f"latents.{i}": x for i, x in enumerate(case.latents)}
    expected |= {f"outputs.{name}": x for name, x in case.outputs.items()}
    said = {"inside": case.inside, **case.given}
    save_file({name: x.detach().contiguous() for name, x in expected.items()}, to / "expected.safetensors", said)


def read_by_us(fixtures: Path | None) -> Iterator[tuple[str, float]]:
    """(1), case by case."""
    for name, make in {**saelens.CASES, **others.CASES}.items():
        with tempfile.TemporaryDirectory() as place, torch.no_grad():
            folder = Path(place) / name
            folder.mkdir()
            case = make(folder)
            if fixtures is not None:
                keep(folder, case, fixtures / name)
            yield name, difference(folder, case)


def main() -> None:
    """Print every difference; fail where one is above 1e-5."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fixtures", type=Path)
    options = parser.parse_args()
    for peer in PEERS:
        try:
            print(f"{peer} {version(peer)}")
        except PackageNotFoundError:
            sys.exit(f"{peer} is not installed: benchmarks/exchange/README.md says how")
    worst = 0.0
    for direction, rows in (("read", read_by_us(options.fixtures)), ("written", written.read_by_them())):
        for name, found in rows:
            print(f"{direction:8} {name:36} {found:.1e}", flush=True)
            worst = max(worst, found)
    sys.exit(f"a difference of {worst:.1e}" if worst > 1e-5 else None)


if __name__ == "__main__":
    main()
