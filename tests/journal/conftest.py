"""A dig to call methods in."""

import pytest

from digsite.journal import Dig


@pytest.fixture
def dig(tmp_path):
    made = Dig.init(tmp_path / "dig", question="What is the sum?")
    yield made
    made.close()
