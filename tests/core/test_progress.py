import io
import sys

import pytest

from digsite._core import progress
from digsite._core.progress import track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def stderr(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)

    def use(stream: io.StringIO) -> io.StringIO:
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return use


def test_on_a_terminal_long_work_shows_description_count_and_rate(stderr, monkeypatch):
    monkeypatch.setattr(progress, "_PATIENCE", -1)
    shown = stderr(Terminal())
    assert list(track([1, 2, 3], "patching heads")) == [1, 2, 3]
    text = shown.getvalue()
    assert "patching heads" in text and "3/3" in text and "/s" in text


def test_nothing_is_written_for_short_work_nor_into_a_pipe(stderr, monkeypatch):
    shown = stderr(Terminal())
    assert list(track(range(3), "short")) == [0, 1, 2] and shown.getvalue() == ""
    monkeypatch.setattr(progress, "_PATIENCE", -1)
    shown = stderr(io.StringIO())
    assert list(track(range(3), "piped")) == [0, 1, 2] and shown.getvalue() == ""


def test_a_bar_inside_a_bar_is_not_shown(stderr, monkeypatch):
    monkeypatch.setattr(progress, "_PATIENCE", -1)
    shown = stderr(Terminal())
    assert [list(track([1], "inner")) for _ in track(iter([1, 2]), "outer", total=2)] == [[1], [1]]
    assert "outer" in shown.getvalue() and "inner" not in shown.getvalue()


def test_work_that_is_left_early_closes_its_bar(stderr, monkeypatch):
    monkeypatch.setattr(progress, "_PATIENCE", -1)
    stderr(Terminal())
    work = track(range(9), "left")
    next(work)
    work.close()
    shown = stderr(Terminal())
    list(track(range(2), "next"))
    assert "next" in shown.getvalue()


def test_no_color_is_respected(stderr, monkeypatch):
    monkeypatch.setattr(progress, "_PATIENCE", -1)
    monkeypatch.setenv("NO_COLOR", "1")
    shown = stderr(Terminal())
    list(track(range(2), "grey"))
    assert "grey" in shown.getvalue() and "\x1b[3" not in shown.getvalue().replace("\x1b[?25", "")
