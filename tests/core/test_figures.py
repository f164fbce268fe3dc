import pytest

from digsite._core.errors import Unsupported
from digsite._core.figures import drawing_of, draws


class Base: ...


class Child(Base): ...


class Own(Base): ...


def test_a_class_is_drawn_by_its_own_function_or_its_parents():
    @draws(Base)
    def draw(_):
        return "base"

    @draws(Own)
    def draw_own(_):
        return "own"

    assert drawing_of(Child) is drawing_of(Base) is draw
    assert drawing_of(Own) is draw_own
    with pytest.raises(ValueError, match=r"Own is drawn by .*draw_own already"):
        draws(Own)(draw)


def test_a_class_that_nothing_draws_says_so():
    with pytest.raises(Unsupported, match=r"no figure for int\.\n(.|\n)*Do: Use its to_frame\(\)"):
        drawing_of(int)
