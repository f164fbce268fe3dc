"""What stands on a page follows its theme, says every value, and keeps to itself."""

import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from drawn import KINDS, SVG, count, marks, some_map

from digsite.viz import Axis, heatmap
from digsite.viz.theme import LIGHT


@pytest.mark.parametrize("kind", KINDS)
def test_every_mark_says_its_value_to_pointer_keyboard_and_screen_reader(kind):
    figure = KINDS[kind]()
    found = marks(figure)
    assert sorted(mark.attrib["aria-label"] for mark in found) == sorted(figure.canvas.marks.values())
    for mark in found:
        assert mark[0].tag == f"{SVG}title" and mark[0].text == mark.get("aria-label")
        assert (mark.get("tabindex"), mark.get("role")) == ("0", "img")


@pytest.mark.parametrize("kind", KINDS)
def test_every_colour_is_the_themes(kind):
    text = KINDS[kind]().svg(page=True)
    bare = re.sub(r"var\(--[a-z]+,#[0-9a-f]{6}\)", "", text)
    bare = re.sub(r"--(light|dark):#[0-9a-f]{6}", "", bare)
    assert not re.findall(r"#[0-9a-f]{6}\b", bare), "a colour that the dark theme cannot change"
    assert f"var(--ink,{LIGHT.ink})" in text or f"var(--soft,{LIGHT.soft})" in text


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_fetched(kind):
    text = KINDS[kind]().svg(page=True)
    assert re.findall(r"https?:[^\"]*", text) == ["http://www.w3.org/2000/svg"]
    assert "<style" not in text and "<script" not in text, "what it needs is the page's"


def test_ids_are_the_figures_own_and_every_reference_is_answered():
    values = np.array([[0.5, np.nan]])
    told: dict[str, Any] = {"title": "t", "rows": count("layer", 1), "columns": count("head", 2), "unit": "logits"}
    figure = heatmap(values, **told)
    texts = [figure.svg(page=True, prefix=prefix) for prefix in ("f1", "f2")]
    ids = [set(re.findall(r' id="([^"]+)"', text)) for text in texts]
    assert ids[0] and not ids[0] & ids[1]
    for text, own in zip(texts, ids, strict=True):
        assert set(re.findall(r"url\(#([^)]+)\)", text)) | set(re.findall(r'href="#([^"]+)"', text)) <= own
    other = heatmap(values + 1, **told)
    assert not set(re.findall(r' id="([^"]+)"', figure.svg(page=True))) & set(
        re.findall(r' id="([^"]+)"', other.svg(page=True))
    ), "without a prefix the data makes them differ"


def test_tokens_are_escaped():
    columns = Axis("token", ('·<script>alert("x")</script>', "&amp;"), tokens=True)
    text = heatmap(np.array([[0.5, 0.1]]), title="<b>", rows=count("layer", 1), columns=columns, unit="").svg(page=True)
    assert "<script" not in text and "&amp;amp;" in text
    root = ElementTree.fromstring(text)
    assert root.get("aria-label") == "<b>"
    assert '·<script>alert("x")</sc…' in {word.text for word in root.iter(f"{SVG}text")}, "cut to a tick's length"
    assert any('<script>alert("x")</script>' in (title.text or "") for title in root.iter(f"{SVG}title"))


def test_the_page_writes_the_title_and_the_view_leaves_it_out():
    figure = some_map()
    root = ElementTree.fromstring(figure.svg(page=True))
    assert figure.title not in {word.text for word in root.iter(f"{SVG}text")}
    assert root.get("aria-label") == figure.title
    _, top, _, height = (float(part) for part in root.attrib["viewBox"].split())
    assert top == 10 + figure.canvas.title_height and height == figure.canvas.height - figure.canvas.title_height


def test_a_number_on_a_coloured_cell_has_a_colour_for_each_theme():
    text = some_map().svg(page=True)
    assert len(re.findall(r'class="swap"', text)) == 2
    assert len(re.findall(r"--light:#[0-9a-f]{6};--dark:#[0-9a-f]{6}", text)) == 2


def test_a_map_of_many_heads_stays_small():
    assert len(some_map(32, 32).svg(page=True)) < 400 * 1024
