"""`python -m benchmarks.science [--programs a,b] [--methods x,y] [--save]`: the scoreboard as a dated page."""

import argparse
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from benchmarks.speed.table import conditions

from digsite.scoreboard import scoreboard


def page(board: Any) -> str:
    """Means over programs, then every program and method."""
    lines = [f"# Scoreboard: {board.verdict}", "", "## Means over programs", ""]
    for title, frame in (("", board.summary()), ("Every program", board.to_frame())):
        lines += [f"## {title}", ""] if title else []
        lines += [f"| {' | '.join(frame.columns)} |", "|" + "---|" * frame.width]
        lines += [f"| {' | '.join(_text(cell) for cell in row)} |" for row in frame.iter_rows()] + [""]
    told = conditions(time="process CPU", passes=board.cost.forwards, cpu_seconds=round(board.cost.cpu_seconds))
    lines += ["Conditions: " + "; ".join(f"{name} {value}" for name, value in told.items()) + "."]
    return "\n".join(lines) + "\n"


def _text(cell: Any) -> str:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "–"
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)


def main() -> None:
    """Runs the scoreboard."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.science", description=__doc__)
    parser.add_argument("--programs", type=lambda text: text.split(","))
    parser.add_argument("--methods", type=lambda text: text.split(","))
    parser.add_argument("--save", action="store_true", help="write the dated page")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    made = page(scoreboard(asked.programs, asked.methods, draws=40))
    print(made)
    if asked.save:
        (Path(__file__).parent / f"scoreboard_{datetime.now(UTC):%Y-%m-%d}.md").write_text(made)


if __name__ == "__main__":
    main()
