"""A dig's report in a real browser: no error, no request, narrow, dark, by keyboard; from a claim to its evidence."""

import shutil

import pytest

from adding import add_up
from digsite.journal import Dig
from digsite.viz.dig import dig_report, write_site

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt install chromium)")


@pytest.fixture(scope="module")
def dig(tmp_path_factory):
    made = Dig.init(
        tmp_path_factory.mktemp("digs") / "sums", title="Sums", question="What is the *sum*? <script>1</script>"
    )
    with made:
        add_up(4)
        with pytest.raises(RuntimeError):
            add_up(-1)
    finding = made.findings.add("The sum is near two", level="behaviour", subject="behaviour")
    made.findings.add_evidence(finding.id, 1, words="four numbers of one half")
    return made


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_the_report_reads_well_and_asks_for_nothing(dig, browser, tmp_path, width, scheme):
    path = dig_report(dig, None).write(tmp_path / "report.html")
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    wrong, asked = [], []
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out at the side"
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(251, 250, 247)" if scheme == "light" else "rgb(20, 23, 29)")
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == [] and wrong == []
    assert "<script>1</script>" in page.locator("section").first.inner_text(), "what is typed is shown, not run"
    page.close()


def test_three_clicks_from_a_claim_to_its_evidence(dig, browser, tmp_path):
    page = browser.new_page()
    page.goto(dig_report(dig, None).write(tmp_path / "report.html").as_uri())
    page.get_by_text("The sum is near two").first.click()
    page.locator("#finding-1 a", has_text="run 1").click()
    run = page.locator("#run-1")
    assert run.get_attribute("open") is not None and "add_up(4, seed=0)" in run.inner_text()
    run.get_by_text("again").wait_for()
    page.close()


def test_the_keyboard_alone_is_enough(dig, browser, tmp_path):
    page = browser.new_page()
    page.goto(dig_report(dig, None).write(tmp_path / "report.html").as_uri())
    focused = None
    for _ in range(40):
        page.keyboard.press("Tab")
        focused = page.evaluate("document.activeElement.closest('details')?.id")
        if focused == "finding-1":
            break
    assert focused == "finding-1"
    page.keyboard.press("Enter")
    assert page.locator("#finding-1").get_attribute("open") is not None
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.close()


def test_every_link_of_the_site_leads_somewhere(dig, browser, tmp_path):
    site = write_site(dig, tmp_path / "site", None)
    page, missing = browser.new_page(), []
    page.on("requestfailed", lambda request: missing.append(request.url))
    for file in sorted(site.rglob("*.html")):
        page.goto(file.as_uri())
        for href in page.eval_on_selector_all("a[href]", "links => links.map(a => a.getAttribute('href'))"):
            if not href.startswith(("data:", "#")):
                assert (file.parent / href).exists(), f"{file.name} links to {href}"
    assert missing == [] and {path.name for path in site.rglob("*.html")} >= {"index.html", "1.html", "2.html"}
    page.close()
