"""What a training shows while it goes on."""

import io

import pytest
from rich.console import Console

from digsite.cli.dashboard import Dashboard, blocks, histogram

DENSITY = [5, 0, 0, 0, 0, 0, 0, 1, 4, 8, 4, 0, 0]


def told(rows, **more):
    numbers = {"fvu": 0.25, "l0": 8.0, "dead": 0.125, "loss": 0.5, "density": DENSITY, "rate": 1e-3, "pressure": 1.0}
    speed = {"rows_per_second": 1000.0, "seconds_left": 90.0, "step": rows // 10, "rows": rows}
    return numbers | speed | {"Reconstruction": 0.375, "AuxK": 0.125} | more


def screen(monkeypatch, *, colour=True):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if not colour:
        monkeypatch.setenv("NO_COLOR", "1")
    return Console(file=io.StringIO(), force_terminal=True, width=80, highlight=False)


def shown(console):
    return console.file.getvalue()


def test_blocks_are_in_proportion_and_little_is_not_nothing():
    assert blocks([0.0, 1.0, 4.0, 8.0]) == "·▁▄█"
    assert blocks([0.0, 0.001, 8.0]) == "·▁█"
    assert blocks([0.0, 0.0]) == "··"
    assert histogram(DENSITY) == "▂│······▁▄█▄··"


def test_one_dictionary_shows_its_terms_and_how_fvu_fell(monkeypatch):
    console = screen(monkeypatch)
    dashboard = Dashboard(1000, console)
    with dashboard.shown():
        dashboard(10, {"sae": told(100, fvu=0.75)})
        dashboard(50, {"sae": told(500)})
        console.print(dashboard.picture())
    text = shown(console)
    assert "500 of 1,000 rows" in text and "1,000/s" in text and "90 s left" in text
    assert "terms of the loss: Reconstruction 0.375, AuxK 0.125" in text
    assert "█▃ 75.0% → 25.0%" in text and "12.5%" in text and histogram(DENSITY) in text


def test_several_have_a_line_each_and_fit(monkeypatch):
    console = screen(monkeypatch)
    dashboard = Dashboard(100_000_000, console)
    dashboard(50, {f"layers.{layer}.resid_post": told(50_000_000) for layer in range(30)})
    plain = Console(file=io.StringIO(), width=80)
    plain.print(dashboard.picture())
    lines = shown(plain).splitlines()
    assert sum(line.startswith("layers.") for line in lines) == 24 and "and 6 more" in lines[-1]
    assert max(map(len, lines)) <= 80
    assert "terms of the loss" not in shown(plain)


def test_no_color_is_respected(monkeypatch):
    for colour in (True, False):
        console = screen(monkeypatch, colour=colour)
        dashboard = Dashboard(1000, console)
        with dashboard.shown():
            dashboard(50, {"sae": told(500)})
        assert ("\x1b[38;5;" in shown(console)) is colour


def test_before_the_first_rows_it_says_that_it_reads(monkeypatch):
    console = screen(monkeypatch)
    with Dashboard(1000, console).shown():
        pass
    assert "reading the first rows" in shown(console)


def test_where_nobody_watches_there_is_a_line_for_each_tenth(capsys):
    dashboard = Dashboard(1000, Console(file=io.StringIO()))
    with dashboard.shown():
        for rows in range(10, 1001, 10):
            dashboard(rows // 10, {"sae": told(rows)})
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 20 and lines[0] == "100 of 1,000 rows, 1,000/s, 90 s left"
    assert lines[1] == "  sae: FVU 25.0%, L0 8, dead 12.5%, loss 0.5"
    assert lines[-2] == "1,000 of 1,000 rows, 1,000/s"


def test_it_stands_in_the_place_of_bars(monkeypatch):
    from digsite._core import progress

    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress, "_PATIENCE", -1.0)
    console = screen(monkeypatch)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(progress.Progress, "start", lambda self: pytest.fail("a bar was shown"))
        with Dashboard(1000, console).shown():
            assert list(progress.track(range(3), "training")) == [0, 1, 2]
