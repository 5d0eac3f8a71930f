"""The page in a browser: Debian's chromium, driven by playwright."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from made_findings import findings

from isingmoe.reports.findings import Costs
from isingmoe.reports.page import render_page

CHROMIUM = Path("/usr/bin/chromium")

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="no chromium")

# What is looked at on the page.
CHECKS = (Path(__file__).parent / "report_page.js").read_text("utf-8")


def look(page, name):
    return page.evaluate(f"{CHECKS.rstrip()}['{name}']()")


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as known:
        browser = known.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def file(make_traces, tmp_path_factory):
    found = findings(make_traces, n_layers=4)
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_page(found, Costs(), 0, "isingmoe report traces.nc", None), "utf-8")
    return path


@pytest.fixture(
    params=[(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")],
    ids=lambda p: f"{p[0]}-{p[1]}",
)
def page(request, chromium, file):
    """The page, every layer open; whatever it asks for or complains of is in `said`."""
    width, scheme = request.param
    context = chromium.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page = context.new_page()
    said, failed = [], {}
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url))
    page.on("requestfailed", lambda request: failed.update({request.url: request.failure}))
    page.goto(file.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    page.said, page.failed, page.scheme = said, failed, scheme
    yield page
    context.close()


def outside(page):
    """What was said, but for the page itself and what it has inside."""
    return [text for text in page.said if not text.startswith(("file:///", "data:"))]


def test_nothing_leaves_the_page(page):
    page.wait_for_load_state("networkidle")
    assert outside(page) == []
    assert sum(text.startswith("file:///") for text in page.said) == 1


def test_the_browser_forbids_what_the_page_does_not_do(page):
    """The policy holds: a picture and a script put in later are not loaded and not run."""
    page.evaluate(
        """() => {
          const picture = document.createElement("img");
          picture.src = "https://example.org/a.png";
          document.body.append(picture);
          const script = document.createElement("script");
          script.textContent = "window.ran = true";
          document.body.append(script);
        }"""
    )
    page.wait_for_timeout(200)
    assert page.evaluate("window.ran") is None
    assert page.failed == {"https://example.org/a.png": "csp"}
    assert sum("Content Security Policy" in text for text in page.said) >= 2


def test_figures_render(page):
    sizes = look(page, "ink")
    assert len(sizes) == 5 + 4 * 5
    for width, height, drawn, letters in sizes:
        assert width > 250
        assert height > 150
        assert drawn > 5
        assert letters > 3


def test_nothing_overlaps(page):
    assert look(page, "siblings") == []
    assert look(page, "letters") == []
    assert look(page, "cut") == []


def test_nothing_is_wider_than_the_screen(page):
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert look(page, "wide") == []


def test_letters_are_legible(page):
    assert look(page, "pale") == []
    assert min(look(page, "sizes")) > 6.5


def column(page, number):
    return page.evaluate(
        "n => [...document.querySelectorAll('tbody tr')].map(r => r.cells[n].dataset.value)",
        number,
    )


def test_tables_sort_by_click_and_by_key(page):
    head = page.locator("th").nth(1)
    button = head.locator("button")
    assert head.get_attribute("aria-sort") is None
    before = [float(v) for v in column(page, 1)]
    button.click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert [float(v) for v in column(page, 1)] == sorted(before)
    button.focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert [float(v) for v in column(page, 1)] == sorted(before, reverse=True)
    page.locator("th").nth(0).locator("button").focus()
    page.keyboard.press("Space")
    assert page.locator("th[aria-sort]").count() == 1
    assert [int(v) for v in column(page, 0)] == [3, 7, 11, 15]
    assert outside(page) == []


def test_rows_without_a_value_come_last(page):
    page.evaluate("document.querySelectorAll('tbody tr')[1].cells[2].dataset.value = ''")
    button = page.locator("th").nth(2).locator("button")
    for _ in range(2):
        button.click()
        assert column(page, 2)[-1] == ""


def test_a_link_of_the_table_opens_its_layer(page):
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = false; })")
    page.locator("td a", has_text="11").click()
    # The browser tells the script of a new address in its own time.
    page.wait_for_function("document.getElementById('layer-11').open", timeout=10_000)
    assert not page.evaluate("document.getElementById('layer-7').open")


def test_light_and_dark_differ(page):
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    ink = page.evaluate("getComputedStyle(document.querySelector('svg.figure text')).fill")
    dark_ground = sum(map(int, re.findall(r"\d+", ground)[:3])) < 200
    light_ink = sum(map(int, re.findall(r"\d+", ink)[:3])) > 500
    assert (page.scheme == "dark") == dark_ground == light_ink


def test_a_hostile_name_is_text(chromium, make_traces, tmp_path):
    """It runs nothing, asks for nothing, and fits a phone."""
    name = (
        "</title></script><script>document.title = 'ran'</script>"
        "<img src=https://example.org/x onerror=document.title='ran'>{{ 7*7 }}$x^2$" + "y" * 10_000
    )
    hostile = dict.fromkeys(("model", "text", "source", "licence", "router"), name)
    found = findings(make_traces, n_layers=1)
    found = replace(found, traces=found.traces.assign_attrs(hostile), cautions=[name[:400]])
    path = tmp_path / "report.html"
    path.write_text(render_page(found, Costs(), 0, f"isingmoe report {name}", None), "utf-8")
    page = chromium.new_page(viewport={"width": 390, "height": 844})
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.on("request", lambda request: said.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_load_state("networkidle")
    assert [text for text in said if not text.startswith(("file:///", "data:"))] == []
    assert page.title().startswith("Routing of </title></script><script>")
    assert "{{ 7*7 }}" in page.locator("dd").first.inner_text()
    assert page.locator("img").count() == 0
    assert look(page, "wide") == []
    assert look(page, "siblings") == []
    page.close()


def test_print_is_white_and_has_every_layer(page):
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = false; })")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details.layer[open]").count() == 4
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details.layer[open]").count() == 0
    assert page.pdf()[:5] == b"%PDF-"
