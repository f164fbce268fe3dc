"""The documentation site: every page is in its contents, every link leads somewhere, every room has its reference."""

import ast
import html
import re
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from docs_site import built

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs" / "_ext"))
from reference import offered  # noqa: E402

SITE = sorted(
    page
    for pattern in ("docs/**/*.md", "design/*.md", "benchmarks/**/*.md", "src/**/weights/**/README.md", "C*.md")
    for page in ROOT.glob(pattern)
    if "_site" not in page.parts
)
ROOMS = [room for room in offered() if "._" not in room and room != "digsite"]
TOCTREE = re.compile(r"```\{toctree\}\n(.*?)```", re.DOTALL)


def entries(page: Path) -> set[Path]:
    """The pages that the contents of a page name."""
    found = set()
    for block in TOCTREE.findall(page.read_text(encoding="utf-8")):
        for line in filter(None, (line.strip() for line in block.splitlines())):
            if not line.startswith(":"):
                name = re.sub(r".*<(.*)>", r"\1", line)
                named = {path.resolve() for path in page.parent.glob(f"{name}.md")}
                assert named, f"{page.name} has {line!r} in its contents, and no such page is there"
                found |= named
    return found


def test_the_contents_name_every_page():
    named = set().union(*(entries(page) for page in SITE))
    left_out = {page.relative_to(ROOT).as_posix() for page in SITE if page not in named}
    assert left_out == {"docs/index.md"}, "a page that no contents name is found by nobody"


@pytest.mark.parametrize("page", [ROOT / "README.md", *SITE], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_of_a_page_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), f"{page.name} links to {link}, which is not there"


def test_the_reference_lists_every_room_and_nothing_else():
    listed = re.findall(r"^   (digsite\.\S+)$", (ROOT / "docs" / "reference.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted([*ROOMS, "digsite._core.errors"])


def test_every_value_that_a_room_offers_says_what_it_is():
    silent = []
    for module, names in (one for room in ROOMS for one in offered()[room].items()):
        body = ast.parse((ROOT / "src" / Path(*module.split("."))).with_suffix(".py").read_text()).body
        for node, below in pairwise([*body, ast.Pass()]):
            targets = getattr(node, "targets", [getattr(node, "target", None)])
            values = [one.id for one in targets if isinstance(one, ast.Name) and one.id in names]
            if not (isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)):
                silent += [f"{module}.{value}" for value in values]
    assert not silent, f"a string below the value is what the reference tells of it: {silent}"


@pytest.mark.slow
def test_the_site_is_whole_and_asks_for_nothing(tmp_path_factory):
    site = built(tmp_path_factory.getbasetemp() / "site")
    for page in SITE:
        assert (site / page.relative_to(ROOT)).with_suffix(".html").is_file()
    outside = re.compile(r"<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=\"((?:https?:)?//[^\"]*)\"")
    for made in site.rglob("*.html"):
        loads = outside.findall(made.read_text())
        assert not loads, f"{made.name} loads {loads}"


@pytest.mark.slow
def test_the_reference_tells_every_name_with_what_a_docstring_says(tmp_path_factory):
    site = built(tmp_path_factory.getbasetemp() / "site")
    for room in ROOMS:
        text = (site / "docs" / "reference" / f"{room}.html").read_text()
        names = [f"{module}.{name}" for module, several in offered()[room].items() for name in several]
        assert not [name for name in names if f'id="{name}"' not in text]
    page = (site / "docs" / "reference" / "digsite.patching.html").read_text()
    patching = " ".join(html.unescape(re.sub(r"<[^>]+>", "", page)).split())
    for said in ("denoise” puts clean into corrupt", "layers.*.attn.z[*]", "Parameters:", "Caveats", "'cell example'"):
        assert said in patching
