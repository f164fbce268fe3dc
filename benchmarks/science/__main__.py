"""`python -m benchmarks.science [NAME] [--save]`: what is known to be there is found again, or not."""

import argparse
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from benchmarks.science import compiled, directions, stories
from benchmarks.science.tables import table
from benchmarks.speed.table import conditions

from digsite._core.cost import measure
from digsite.scoreboard import dictionary_scoreboard, scoreboard
from digsite.viz import Figure


def board_page(board: Any, over: str) -> str:
    """Means, then every row."""
    lines = [f"# Scoreboard: {board.verdict}", ""]
    for title, frame in ((f"Means over {over}", board.summary()), ("Every row", board.to_frame())):
        lines += [f"## {title}", "", *table(frame), ""]
    return "\n".join(lines)


def main() -> None:
    """Runs one of the five."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.science", description=__doc__)
    names = ("scoreboard", "dictionaries", "compiled", "stories", "directions")
    parser.add_argument("what", nargs="?", default="scoreboard", choices=names)
    parser.add_argument("--programs", type=lambda text: text.split(","), help="or ways to plant features")
    parser.add_argument("--methods", type=lambda text: text.split(","), help="or ways to a dictionary")
    parser.add_argument("--save", action="store_true", help="write the dated page")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    figures: Mapping[str, Figure] = {}
    with measure() as cost:
        if asked.what == "scoreboard":
            made = board_page(scoreboard(asked.programs, asked.methods, draws=40), "programs")
        elif asked.what == "dictionaries":
            made = board_page(dictionary_scoreboard(asked.programs, asked.methods, seeds=5), "ways to plant features")
        elif asked.what in ("stories", "directions"):
            found = stories.study() if asked.what == "stories" else directions.study()
            made, figures = found.page, found.figures
        else:
            made = compiled.page(asked.programs)
    told = conditions(time="process CPU", passes=cost.forwards, cpu_seconds=round(cost.cpu_seconds))
    made += "\nConditions: " + "; ".join(f"{name} {value}" for name, value in told.items()) + ".\n"
    print(made)
    if asked.save:
        dated = Path(__file__).parent / f"{asked.what}_{datetime.now(UTC):%Y-%m-%d}.md"
        for name, picture in figures.items():
            picture.save(dated.with_name(f"{dated.stem}_{name}.svg"))
        dated.write_text(made.replace("FIGURE-", f"{dated.stem}_"))


if __name__ == "__main__":
    main()
