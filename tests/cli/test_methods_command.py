"""`digsite methods` and `digsite glossary`."""

import json
import re
import shlex

from command import fits, run

from digsite.catalogue.entries import entries


def test_examples_on_the_command_line_name_commands_and_options_that_exist():
    from digsite.cli.main import app

    for entry in entries().values():
        if entry.example.startswith("digsite "):
            words = shlex.split(entry.example.partition("#")[0])[1:]
            command, _, rest = app.parse_commands(words)
            assert command, entry.example
            known = set(re.findall(r"--[a-z-]+", run(*command, "--help").out))
            asked = {word.partition("=")[0] for word in rest if word.startswith("--")} - {"--help"}
            assert asked <= known, entry.example


def test_methods_are_listed_and_shown():
    listed = run("methods", "which", "head")
    assert listed.code == 0 and fits(listed.out) and "lenses.ov_table" in listed.out
    shown = run("methods", "activation_patching")
    assert shown.code == 0 and "assumes" in shown.out.lower()
    told = json.loads(run("methods", "--branch", "linear", "--json").out)
    assert any("steer_card" in str(one) for one in told["methods"])
    assert run("methods", "--level", "galaxy").code == 1


def test_a_word_of_the_glossary_is_explained():
    assert "share of the behaviour" in " ".join(run("glossary", "faithfulness").out.split())
    assert run("glossary", "zzzz").code == 1
