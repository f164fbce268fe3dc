"""The door: names of digsite come when they are used, and importing it brings no torch."""

import subprocess
import sys

import pytest

NAMES = [
    "load", "Model", "Tokens", "Run", "Edit", "Plan", "replace", "add", "ablate", "patch", "scale", "cap", "swap",
    "apply", "plan_memory", "Task", "Corpus", "Site", "Result", "load_result", "logit_lens", "activation_patching",
    "direct_attribution", "ablation", "components", "investigate", "where", "Dictionary", "Store", "harvest",
]  # fmt: skip


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_importing_digsite_and_its_sites_imports_no_torch():
    done = run(
        "import sys, digsite, digsite.sites; digsite.sites.Site.parse('layers.5.attn.z[3]');"
        "print(sorted({'torch', 'transformers', 'numpy', 'matplotlib'} & set(sys.modules)))"
    )
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_the_same_the_second_time(name):
    import digsite

    first = getattr(digsite, name)
    assert callable(first) and getattr(digsite, name) is first
    assert name in dir(digsite)


def test_a_room_does_not_hide_a_function():
    import digsite
    from digsite import _ROOM_NAMES, _WHERE

    assert not set(_ROOM_NAMES) & set(_WHERE)
    rooms = {room.removeprefix("digsite.") for room in _WHERE.values()}
    assert not rooms & set(_WHERE)
    assert digsite.__version__


def test_an_unknown_name_lists_the_known_ones():
    import digsite

    with pytest.raises(AttributeError, match=r"digsite has no 'lod'; it has .*load"):
        digsite.lod  # noqa: B018
