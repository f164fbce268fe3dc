import io
import subprocess
import sys
from importlib import import_module

import polars as pl
import pytest
import torch
from results_for_tests import Small, small
from rich.console import Console

from digsite._core.errors import Unsupported
from digsite._core.figures import draws
from digsite.artifacts import Result
from digsite.artifacts.codec import _field_codecs, codec_for
from digsite.artifacts.table import table_of


def test_a_result_is_its_verdict_in_one_line():
    assert repr(small(torch.ones(2, 3))) == "<Small: 2 examples, mean 1.00>"


def test_results_are_frozen_and_equal_only_to_themselves():
    one, two = small(torch.ones(2, 3)), small(torch.ones(2, 3))
    assert one == one and one != two and len({one, two}) == 2
    with pytest.raises(AttributeError):
        one.scores = torch.zeros(2, 3)  # pyright: ignore[reportAttributeAccessIssue]


def test_a_result_draws_itself_through_the_registry():
    result = small(torch.ones(1, 1))
    with pytest.raises(Unsupported, match="no figure for Small"):
        result.figure()
    assert "<p>1 examples,\n mean 1.00</p>" in result._repr_html_() and "<table" in result._repr_html_()

    class Drawn:
        def _repr_html_(self) -> str:
            return "<svg/>"

    @draws(Small)
    def draw(shown: Small) -> Drawn:
        assert shown is result
        return Drawn()

    try:
        assert isinstance(result.figure(), Drawn)
        assert result._repr_html_().endswith("</p><svg/>")
    finally:
        from digsite._core import figures

        del figures._DRAWN_BY[Small]


def test_the_table_fits_a_terminal_and_says_what_it_leaves_out():
    frame = pl.DataFrame({"site": [f"layers.{i}.attn.z[3]" for i in range(25)], "effect": [i / 3 for i in range(25)]})
    frame = frame.with_columns(none=pl.lit(None, dtype=pl.Float64))
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table_of(frame, "The answer is written by layer 9."))
    lines = console.export_text().splitlines()
    assert lines[0].startswith("The answer is written by layer 9.")
    assert "5 more rows in to_frame()" in lines[-1]
    assert any("layers.19.attn.z[3]" in line and "6.33" in line and "–" in line for line in lines)
    assert not any("layers.20." in line for line in lines) and max(map(len, lines)) <= 80


def test_results_need_no_figure_library():
    code = "import sys, digsite.artifacts; print('matplotlib' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "False"
    )


def test_every_result_of_digsite_has_fields_that_can_be_saved():
    rooms = [import_module(f"digsite.{name}") for name in ("lenses", "patching", "investigations")]
    kinds = {
        kind for room in rooms for kind in vars(room).values() if isinstance(kind, type) and issubclass(kind, Result)
    }
    assert len(kinds) >= 4
    for kind in kinds:
        codec_for(kind)
        assert _field_codecs(kind) and kind.SCHEMA.startswith(kind.__module__.split(".")[1] + ".")
