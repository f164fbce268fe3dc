"""A figure saves as SVG, PNG and PDF, the same bytes for the same data, with the code that made it inside."""

import re

import matplotlib
import pytest
from drawn import KINDS, some_bars, some_map

from digsite._core.errors import BadInput


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ending", ["svg", "png", "pdf"])
def test_the_same_data_gives_the_same_bytes(kind, ending, tmp_path):
    saved = [KINDS[kind]().save(tmp_path / f"{copy}.{ending}").read_bytes() for copy in "ab"]
    assert saved[0] == saved[1]
    assert saved[0][:4] == {"svg": b"<?xm", "png": b"\x89PNG", "pdf": b"%PDF"}[ending]
    assert not re.search(rb"20\d\d-\d\d-\d\d|D:20\d\d", saved[0]), "no date"


@pytest.mark.parametrize("kind", KINDS)
def test_drawing_it_twice_gives_the_same_page(kind):
    figure = KINDS[kind]()
    assert figure.svg(page=True) == figure.svg(page=True) == KINDS[kind]().svg(page=True)


def test_the_code_that_made_it_is_in_the_file(tmp_path):
    figure = some_map()
    for ending in ("svg", "png"):
        assert b"digsite.activation_patching(model, task," in figure.save(tmp_path / f"x.{ending}").read_bytes()
    assert "digsite.activation_patching(model" in figure.png().decode("latin-1")


def test_saving_writes_the_picture_alone_and_makes_its_folder(tmp_path):
    path = some_bars().save(tmp_path / "deep" / "x.svg")
    assert [found.name for found in path.parent.iterdir()] == ["x.svg"]


@pytest.mark.parametrize(("name", "found"), [("x.jpg", ".jpg"), ("x", "no ending")])
def test_another_format_is_refused(name, found, tmp_path):
    with pytest.raises(BadInput) as caught:
        some_bars().save(tmp_path / name)
    assert str(caught.value) == (
        f"A figure cannot be saved as {name!r}.\nFound: {found}.\nPossible: .svg, .png, .pdf.\nDo: Name it figure.svg."
    )
    assert not list(tmp_path.iterdir())


def test_a_saved_file_stands_alone_in_light_colours():
    text = some_map().svg()
    assert "var(" not in text and "#ffffff" in text and "system-ui" in text
    assert text.count("<text") > 10, "words stay words"


def settings() -> dict[str, object]:
    return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}


def test_the_style_of_the_notebook_neither_leaks_in_nor_is_changed():
    plain = some_map().svg()
    with matplotlib.rc_context({"axes.grid": True, "font.size": 30, "savefig.bbox": "tight", "svg.fonttype": "path"}):
        before = settings()
        assert some_map().svg() == plain
        assert settings() == before


def test_drawing_leaves_no_figure_open():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    some_map()
    assert not pyplot.get_fignums()


def test_a_notebook_gets_the_picture_and_its_colours():
    figure = some_map(caption="Two heads <stand> out.")
    html = "<p>Out</p>" + figure._repr_html_()
    assert (
        html.startswith("<p>Out</p><div")
        and "<svg" in html
        and "prefers-color-scheme:dark" in html
        and "Two heads &lt;stand&gt; out." in html
    )
    assert figure._repr_svg_() == figure.svg()


def test_a_figure_has_a_name_for_its_file():
    assert some_map().name == "share-of-the-logit-difference-that-each-head-restores"


def test_letters_that_the_drawing_font_lacks_do_not_stop_it():
    figure = some_map(title="日本語 🙂 $x_1$")
    assert "日本語 🙂 $x_1$" in figure.svg() and figure.png()
