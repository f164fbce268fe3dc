"""A report is one file that asks nothing of the network and says everything to everybody."""

import base64
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from drawn import some_bars, some_histogram, some_lines, some_map

from digsite.viz import Chip, Claim, Report, Section, TokenPair, claims_table, data_table, token_rows
from digsite.viz.theme import DARK, LIGHT

VOID = {"meta", "br", "img", "input", "hr", "link", "path", "use", "rect"}


def claim(**changes: Any) -> Claim:
    told: dict[str, Any] = {
        "claim": "`layers.3.attn.z[2]` writes it",
        "effect": 2.31,
        "low": 2.18,
        "high": 2.44,
        "null": 0.03,
        "n": 1200,
        "unit": "logits",
        "status": Chip("supported", "good"),
    }
    return Claim(**told | changes)


def report(**changes: Any) -> Report:
    pair = TokenPair(clean=("<bos>", "a", " <script>alert(1)</script>"), corrupt=("<bos>", "a", " b"))
    told: dict[str, Any] = {
        "title": "How does `digsite/tinyworld` know <who>?",
        "verdict": "It does & `layers.3` knows.",
        "meta": ("Task ioi", "200 pairs"),
        "sections": (
            Section(
                title="The prompts",
                chips=(Chip("BOS added"),),
                body=(token_rows([pair, pair]), "Clean <above> corrupt."),
            ),
            Section(
                title="Where", chips=(Chip("equal", "good"),), body=(some_lines(), some_map(), "Look at the last.")
            ),
            Section(
                title="Enough", chips=(Chip("lost", "bad"),), body=(some_histogram(), some_histogram(), some_bars())
            ),
            Section(title="Claims", body=(claims_table([claim()]),)),
        ),
        "cost": ("1,240 forward passes", "41 s"),
        "command": "digsite investigate --model 'a<b' --task ioi",
        "provenance": {"weights": "9f3ac1", "seed": "0"},
    }
    return Report(**told | changes)


PAGE = report().html()


class Reader(HTMLParser):
    """Checks that every element is closed where it should be, and gathers what is in it."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.seen = [], [], []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.seen.append((tag, values))
        self.ids += [values["id"]] if "id" in values else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert tag in VOID or self.open.pop() == tag, f"</{tag}> closes another element"


@pytest.fixture(scope="module")
def read() -> Reader:
    reader = Reader()
    reader.feed(PAGE)
    return reader


def test_the_page_is_well_formed_and_its_ids_are_unique(read):
    assert not read.open
    assert len(read.ids) == len(set(read.ids))


def test_nothing_is_asked_of_the_network(read):
    shown = re.sub(r"data:[a-z/+]+;base64,[A-Za-z0-9+/=]+", "", PAGE)
    assert set(re.findall(r"\w+://[^\s\"'<)]*", shown)) == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in PAGE, "and the browser would refuse"
    for tag, values in read.seen:
        assert tag not in ("link", "img", "iframe", "base")
        assert values.get("src") is None
        assert values.get("href", "#").startswith(("#", "data:"))


def test_both_themes_are_there_and_the_system_chooses():
    light, dark = PAGE.split("@media screen and (prefers-color-scheme:dark){:root{", 1)
    assert LIGHT.variables() in light and dark.startswith(DARK.variables())
    assert "@media print" in PAGE and "prefers-reduced-motion" in PAGE and 'name="viewport"' in PAGE


def test_what_was_written_is_shown_as_it_was_written():
    assert "<h1>How does <code>digsite/tinyworld</code> know &lt;who&gt;?</h1>" in PAGE
    assert "<title>How does digsite/tinyworld know &lt;who&gt;?</title>" in PAGE
    assert "It does &amp; <code>layers.3</code> knows." in PAGE
    assert "Clean &lt;above&gt; corrupt." in PAGE
    assert "·&lt;script&gt;alert(1)&lt;/script&gt;" in PAGE
    assert "digsite investigate --model &#39;a&lt;b&#39; --task ioi</pre>" in PAGE
    assert PAGE.count("<script>") == 1, "the page's own"


def test_the_order_is_question_verdict_evidence_cost():
    places = [PAGE.index(part) for part in ("<h1>", 'verdict">', "The prompts", "Where", "Enough", "Claims", "41 s")]
    assert places == sorted(places)
    assert re.findall(r'class="step" aria-hidden="true">(\d)', PAGE) == ["1", "2", "3", "4", "5"]


def test_a_status_has_a_sign_besides_its_colour():
    assert re.search(r'class="chip good"><span aria-hidden="true">✓</span> equal', PAGE)
    assert re.search(r'class="chip bad"><span aria-hidden="true">✗</span> lost', PAGE)
    assert '<span class="chip plain">BOS added</span>' in PAGE


def test_figures_that_follow_each_other_stand_in_one_row():
    rows = [row.count("<figure ") for row in PAGE.split('<div class="figures">')[1:]]
    assert rows == [2, 3]


def test_every_figure_has_its_table_and_its_files(read):
    files = [values for tag, values in read.seen if tag == "a"]
    assert len([name for name in files if name["download"].endswith(".svg")]) == 5
    assert all(name["aria-label"].startswith("Save ") for name in files)
    csv = next(name for name in files if name["download"].endswith(".csv"))
    assert base64.b64decode(csv["href"].split(",")[1]).decode().startswith("line,layer,value,low,high,n\n")
    png = next(name for name in files if name["download"].endswith(".png"))
    assert base64.b64decode(png["href"].split(",")[1])[:4] == b"\x89PNG"
    assert PAGE.count("<details>") == 5 and '<span class="count">10 rows</span>' in PAGE


def test_the_same_report_is_the_same_page():
    assert report().html() == PAGE


def test_a_report_is_written_whole(tmp_path):
    path = report().write(tmp_path / "deep" / "report.html")
    assert path.read_text() == PAGE and [found.name for found in path.parent.iterdir()] == ["report.html"]


@pytest.mark.slow
def test_a_notebook_frames_the_page():
    html = report()._repr_html_()
    assert html.startswith('<iframe srcdoc="&lt;!doctype html&gt;') and "&amp;lt;who&amp;gt;" in html


def test_without_meta_cost_and_provenance_nothing_empty_is_left():
    page = report(meta=(), cost=(), provenance={}, sections=()).html()
    assert '<p class="meta"></p>' not in page and "<dl>" not in page


def test_a_claim_never_stands_alone():
    html = claims_table([claim(), claim(effect=0.91, low=0.88, high=0.94, null=0.12, unit="share")])
    cells = re.findall(r'data-name="([^"]+)">([^<]+)', html)
    assert cells[:4] == [("effect", "2.31 "), ("95 %", "2.18 – 2.44"), ("null", "0.03"), ("n", "1,200")]
    assert cells[4:7] == [("effect", "91 %"), ("95 %", "88 – 94 %"), ("null", "12 %")]
    assert '<th scope="row" role="rowheader"><code>layers.3.attn.z[2]</code> writes it</th>' in html
    assert '<span class="unit">logits</span>' in html


def test_a_claim_without_numbers_says_so():
    html = claims_table([claim(effect=None, low=None, high=None, null=float("nan"))])
    assert html.count("no value") == 3


def test_long_tables_say_what_they_leave_out():
    figure = some_map(20, 20)
    html = data_table(figure.data, most=50)
    assert html.count("<tr>") == 51 and "350 more rows in the CSV file." in html
    assert "−0.400" in html and ">–</td>" not in html


def test_what_is_missing_in_a_table_is_a_dash():
    assert data_table(some_histogram().data).count(">–</td>") > 100
