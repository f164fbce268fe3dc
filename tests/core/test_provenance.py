import json
import platform
from datetime import UTC, datetime, timedelta
from importlib.metadata import version

import digsite
from digsite._core.provenance import command_line, record


def test_versions_platform_and_time_are_found():
    made = record("logit_lens(model, task)", model="digsite/tinyworld", seed=0, dtype="float32", device="cpu")
    assert (made.torch, made.transformers) == (version("torch"), version("transformers"))
    assert (made.digsite, made.python) == (digsite.__version__, platform.python_version())
    age = datetime.now(UTC) - datetime.fromisoformat(made.created)
    assert timedelta(0) <= age < timedelta(minutes=1)
    assert made.made_by == "logit_lens(model, task)"
    assert json.loads(json.dumps(made.to_dict()))["model"] == "digsite/tinyworld"


def test_under_the_command_line_the_command_makes_it_again():
    with command_line(["lens", "--text", "It's"]):
        assert record("logit_lens(...)").made_by == """digsite lens --text 'It'"'"'s'"""
    assert record("logit_lens(...)").made_by == "logit_lens(...)"


def test_the_arguments_of_the_process_are_the_default(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/usr/bin/digsite", "model", "info"])
    with command_line():
        assert record("x").made_by == "digsite model info"
