"""`python -m benchmarks.catalogue [faithfulness | costs] [FOLDER …]`: writes what `digsite methods` tells."""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from benchmarks.catalogue.calls import CALLS
from benchmarks.catalogue.costs import law
from benchmarks.catalogue.faithfulness import lines

from digsite.catalogue import costs, faithfulness

SCIENCE = Path("benchmarks/science")
PAGES = ("scoreboard_2026-11-20.md", "scoreboard_2026-11-28.md", "dictionaries_2026-11-28.md")


def main() -> None:
    """Writes one of the two files, or both."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.catalogue", description=__doc__)
    parser.add_argument("what", choices=("faithfulness", "costs"))
    parser.add_argument("given", nargs="*", help="of faithfulness: saved boards; of costs: methods to measure again")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.what == "faithfulness":
        boards = [Path(one) for one in asked.given] or [SCIENCE / page for page in PAGES]
        _write(faithfulness.FILE, {"from": [board.as_posix() for board in boards], "scores": lines(boards)})
    else:
        known = json.loads(costs.FILE.read_text(encoding="utf-8"))["laws"] if costs.FILE.is_file() else {}
        for name in asked.given or CALLS:
            known[name] = law(CALLS[name])
            print(name, costs.Law(**known[name]))
        _write(costs.FILE, {"laws": dict(sorted(known.items()))})


def _write(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
