"""The documentation site in a real browser, from a folder: the search finds, nothing is asked for, narrow and dark."""

import shutil

import pytest

from docs_site import built

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt install chromium)"),
]
PAGES = ("index", "docs/guide", "docs/methods", "docs/glossary", "docs/reference", "docs/reference/digsite.patching")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return built(tmp_path_factory.getbasetemp() / "site")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def opened(browser):
    """Opens a page; after the test no page may have complained, or asked for anything outside the folder."""
    pages, wrong, asked = [], [], []

    def open_page(**how):
        page = browser.new_page(**how)
        page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        pages.append(page)
        return page

    yield open_page
    assert wrong == [] and [url for url in asked if not url.startswith(("file:", "data:"))] == []
    for page in pages:
        page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_pages_read_well_and_ask_for_nothing(site, opened, width, scheme):
    page = opened(viewport={"width": width, "height": 900}, color_scheme=scheme)
    for name in PAGES:
        page.goto((site / f"{name}.html").as_uri())
        page.wait_for_selector("h1")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} sticks out at the side"
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == ("rgb(251, 250, 247)" if scheme == "light" else "rgb(20, 23, 29)"), name


def test_the_search_finds_a_method_from_any_page(site, opened):
    page = opened()
    page.goto((site / "docs" / "guide.html").as_uri())
    page.get_by_placeholder("Search").first.fill("activation patching")
    page.keyboard.press("Enter")
    found = page.locator("#search-results li a")
    found.first.wait_for()
    texts = found.all_inner_texts()
    assert "Methods" in texts and "digsite.patching.activation.activation_patching" in texts
    found.get_by_text("activation.activation_patching").click()
    page.get_by_text("How much of the behaviour each place carries").first.wait_for()
