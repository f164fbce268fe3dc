import os
import subprocess
import sys
from pathlib import Path

from command import pages, run

GOLDEN = Path(__file__).parent.parent / "golden" / "cli_help.txt"


def test_help_loads_no_torch():
    code = (
        "import sys\n"
        "from digsite.cli.main import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'transformers', 'numpy', 'polars', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "investigate" in done.stdout


def test_the_help_of_every_command_is_the_golden_one():
    """DIGSITE_WRITE_GOLDEN=1 writes the file anew; read the difference before you commit it."""
    texts = []
    for words in pages():
        shown = run(*words, "--help")
        assert shown.code == 0
        assert not shown.err
        lines = "\n".join(line.rstrip() for line in shown.out.splitlines())
        texts.append(f"$ {' '.join(('digsite', *words, '--help'))}\n{lines}\n")
    made = "\n".join(texts)
    if os.environ.get("DIGSITE_WRITE_GOLDEN"):
        GOLDEN.write_text(made, encoding="utf-8")
    assert made == GOLDEN.read_text(encoding="utf-8"), "if this is meant: DIGSITE_WRITE_GOLDEN=1 pytest tests/cli"


def test_every_option_says_what_it_is():
    from digsite.cli.main import app

    commands = [app[name] for name, *rest in filter(None, pages()) if not rest]
    commands += [app[name][verb] for name, verb in (words for words in pages() if len(words) == 2)]
    shown = [(command.name, option) for command in commands for option in options(command)]
    assert len(shown) > 60
    assert [(name, option.name) for name, option in shown if not option.parameter.help] == []


def options(command):
    if command.default_command is None:
        return []
    return [argument for argument in command.assemble_argument_collection(parse_docstring=True) if argument.show]


def test_without_a_command_it_shows_its_help():
    assert run().out == run("--help").out


def test_version():
    import digsite

    assert run("--version") == (0, f"digsite {digsite.__version__}\n", "")
