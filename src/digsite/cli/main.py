"""The `digsite` command: its commands put together, and what its exit codes say.

0 the command did its work (a negative finding is work done), 1 an error with its message or a check that failed, 2 a
command line that cannot be understood, 130 interrupted.
"""

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Group, Parameter
from rich.console import Console

import digsite
from digsite._core.errors import DigsiteError
from digsite._core.provenance import command_line
from digsite.cli import circuit, dig, finding, lens, log, model, probe, runs, sae, steer, task, toys
from digsite.cli.generate import generate
from digsite.cli.harvest import harvest
from digsite.cli.heads import heads
from digsite.cli.investigate import investigate
from digsite.cli.methods import glossary, methods
from digsite.cli.patch import patch
from digsite.cli.probe_card import card, monitor
from digsite.cli.report import report
from digsite.cli.sae_judge import compare_, eval_
from digsite.cli.sae_train import train
from digsite.cli.scoreboard import scoreboard
from digsite.cli.steer_files import export, take
from digsite.cli.surgery import disable

_HELP = """From a Hugging Face model and a question to an explanation that was tested.

Begin with: `digsite investigate --model digsite/tinyworld --task ioi`
"""


def _default(value: Any) -> str | None:
    """What help says a default is: nothing where an option is simply off."""
    return None if value is None or value is False or value in ("", ()) else str(value)


app = App(
    name="digsite",
    help=_HELP,
    help_format="markdown",
    version=f"digsite {digsite.__version__}",
    default_parameter=Parameter(negative=(), show_default=_default),
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
app.meta.suppress_keyboard_interrupt = False
circuit.app.command(disable)
for command in (card, monitor):
    probe.app.command(command)
for command, name in ((take, "import"), (export, "export")):
    steer.app.command(command, name=name)
for command, name in ((train, "train"), (eval_, "eval"), (compare_, "compare")):
    sae.app.command(command, name=name)
about_models = (investigate, lens.app, heads, patch, generate, probe.app, steer.app, circuit.app, harvest, sae.app)
about_digs = (dig.app, runs.app, finding.app, dig.search, report, log.app)
for command in (*about_models, scoreboard, methods, glossary, task.app, model.app, toys.app, *about_digs):
    app.command(command)
for place, name in enumerate(name for name in app if not name.startswith("-")):
    app[name].sort_key = place  # help shows them in the order above


@app.meta.default
def _launch(
    *words: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    debug: Annotated[bool, Parameter(group=Group("Everywhere", sort_key=9))] = False,
) -> int | None:
    """Runs one command line.

    Args:
        words: The command line.
        debug: Show the traceback of an error.
    """
    try:
        with command_line(words):
            return app(words, exit_on_error=False)
    except DigsiteError as error:
        if debug:
            raise
        Console(stderr=True, markup=False, emoji=False, highlight=False).print(f"Error: {error}", soft_wrap=True)
        return 1


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line of this process, or the given words, and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a token's letters shows ? there
    try:
        code = app.meta(sys.argv[1:] if words is None else list(words), exit_on_error=False) or 0
        sys.stdout.flush()
    except CycloptsError:  # it was printed
        code = 2
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # the reader of a pipe (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)
