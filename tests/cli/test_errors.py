import subprocess
import sys

import pytest
from command import MODEL, run


@pytest.mark.parametrize(
    ("words", "telling"),
    [
        (["investigte"], 'Did you mean "investigate"?'),
        (["lens", "--model", MODEL], "--task"),
        (["lens", "--model", MODEL, "--task", "ioi", "--n", "0"], "Must be >= 1"),
        (["lens", "--model", MODEL, "--task", "ioi", "--figure", "a.gif"], "svg"),
        (["lens", "--model", MODEL, "--task", "ioi", "--colour", "red"], "--colour"),
        (["patch", "--model", MODEL, "--task", "ioi", "--sites", "embed", "--direction", "up"], "denoise"),
    ],
)
def test_a_command_line_that_cannot_be_understood_exits_2(words, telling):
    shown = run(*words)
    assert (shown.code, shown.out) == (2, "")
    assert telling in " ".join(shown.err.split())


@pytest.mark.parametrize(
    ("words", "telling"),
    [
        (["lens", "--model", "digsite/tinywrld", "--task", "ioi"], "did you mean digsite/tinyworld?"),
        (["lens", "--model", MODEL, "--task", "ioy"], "did you mean ioi?"),
        (["lens", "--model", MODEL, "--task", "none.csv"], "The task file none.csv cannot be read"),
        (["lens", "--model", MODEL, "--task", "brackets", "--language", "tavi"], "takes no --language"),
        (["lens", "--model", MODEL, "--task", "ioi", "--language", "latin"], "Possible: english, tavi"),
        (["patch", "--model", MODEL, "--task", "ioi", "--n", "4", "--sites", "layers.9.attn.z"], "layer 0 to 3"),
        (["patch", "--model", MODEL, "--task", "ioi", "--n", "4", "--sites", "layers.0.attn.z", "--at", "S3"], "S2"),
        (["toys", "train", "smallworld"], "Possible: tinyworld"),
    ],
)
def test_an_error_exits_1_with_its_message_alone(words, telling, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = run(*words)
    assert (shown.code, shown.out) == (1, "")
    assert "Error: " in shown.err
    assert telling in shown.err
    assert "Traceback" not in shown.err
    assert not list(tmp_path.iterdir())


def test_debug_shows_the_traceback():
    from digsite._core.errors import BadInput

    with pytest.raises(BadInput, match="ioy"):
        run("lens", "--model", MODEL, "--task", "ioy", "--debug")


def test_a_wrong_task_is_said_before_a_model_is_loaded():
    assert "ioy" in run("lens", "--model", "no/such/model", "--task", "ioy").err


def test_a_folder_with_other_things_is_refused_before_any_work(tmp_path):
    (tmp_path / "thesis.tex").write_text("two years")
    shown = run("investigate", "--model", MODEL, "--task", "ioi", "--n", "8", "--out", str(tmp_path))
    assert shown.code == 1
    assert "thesis.tex" in shown.err
    assert "needs up to" not in shown.err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_ctrl_c_exits_130_with_one_line(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("digsite.cli.task.print_json", interrupted)
    assert run("task", "list", "--json") == (130, "", "Interrupted.\n")


@pytest.mark.slow
def test_a_reader_that_leaves_early_is_no_error():
    start = "from digsite.cli.main import main; main(['toys', 'list', '--json'] )"
    process = subprocess.Popen([sys.executable, "-c", start], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 0
