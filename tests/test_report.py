"""The page: what it says, that it is whole, and that names from files do no harm."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
import warnings
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from made_findings import findings, goodness

import isingmoe as im
from isingmoe.reports import citation
from isingmoe.reports.findings import Costs, gathered
from isingmoe.reports.page import render_page

# Small traces have few sequences and idle experts; the page says so, and so do warnings.
pytestmark = [
    pytest.mark.filterwarnings("ignore::isingmoe.ShortTraceWarning"),
    pytest.mark.filterwarnings("ignore::isingmoe.DegenerateTraceWarning"),
]

QUICK = {"n_resamples": 4, "n_simulations": 4, "n_folds": 0, "max_distance": 8}
DIST = np.arange(13)
ROOT = Path(__file__).parents[1]

HOSTILE = (
    "</title></script><script>alert(1)</script><img src=x onerror=alert(1)>\"'`&"
    "{{ 7*7 }}{% raw %}${{x}}$\\frac{1}{0}$ --><!-- ]]> "
    "\x1b[2J\x1b]0;title\x07\x9b31m\r\n\t\u202e\u2066\x00" + "y" * 10_000
)

# Elements without an end.
VOID = {"meta", "br", "img", "hr", "link", "input"}


class Page(HTMLParser):
    """The elements of a page; complains where they are not nested."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture(scope="module")
def found(make_traces):
    return findings(make_traces)


@pytest.fixture(scope="module")
def html(found):
    return render_page(found, Costs(), 0, "isingmoe report traces.nc", None)


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def check_harmless(html):
    """One script, ours; no handler, no address but the paper's; nothing that is loaded."""
    page = Page(html)
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert len(scripts) == len(page.all("script")) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    (policy,) = [m["content"] for m in page.all("meta") if "http-equiv" in m]
    assert policy.startswith("default-src 'none';")
    assert f"script-src 'sha256-{digest}'" in policy
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"img", "iframe", "object", "embed", "link", "form", "base", "foreignobject"}
    for tag, attrs in page.elements:
        for name, value in attrs.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("href", "xlink:href", "src"):
                assert value.startswith(("#", "data:image/png;base64,")) or (
                    (tag, value) == ("a", citation.PAPER_URL)
                )
            if name == "style":
                assert "url(" not in value.replace("url(#", "")
    assert all(c.isprintable() or c == "\n" for c in html)
    return page


def test_the_page_is_whole_and_loads_nothing(html):
    page = check_harmless(html)
    assert page.elements[0][0] == "html"
    assert page.all("html")[0]["lang"] == "en"
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = [a["href"][1:] for a in page.all("a") if a["href"].startswith("#")]
    assert set(targets) <= set(ids)


def test_every_reference_inside_a_figure_is_there(html):
    ids = set(re.findall(r' id="([^"]*)"', html))
    used = set(re.findall(r'url\(#([^)]*)\)|xlink:href="#([^"]*)"', html))
    assert used
    assert {one or other for one, other in used} <= ids


def test_every_figure_says_what_it_shows(page):
    figures = page.all("figure")
    pictures = [svg for svg in page.all("svg") if svg.get("class") == "figure"]
    assert len(figures) == len(pictures) == len(page.all("figcaption"))
    # Five over the depth, five of each layer.
    assert len(figures) == 5 + 2 * 5
    assert all(len(svg["aria-label"]) > 40 and svg["role"] == "img" for svg in pictures)


def test_figures_take_the_colours_of_the_page(html):
    for figure in re.findall(r'<svg class="figure".*?</svg>', html, re.DOTALL):
        assert "#000000" not in figure
        assert "#ffffff" not in figure
        assert "font-family" not in figure
        assert "<metadata" not in figure
    assert "var(--blue)" in html
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)[1]
    for name in set(re.findall(r"var\((--[a-z]+)\)", html)):
        # In the light, in the dark and in print.
        assert style.count(f"{name}:") == 3, name


def test_what_was_measured_is_said(page, found):
    for text in ("isingmoe report traces.nc", im.__version__, "synthetic", "seed 0", "top-2"):
        assert text in page.text
    assert citation.PAPER in page.text
    for layer in (3, 7):
        assert f"Layer {layer}" in page.text


def test_the_table_has_a_row_for_each_layer(html):
    table = re.search(r"<table.*?</table>", html, re.DOTALL)[0]
    head, *rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
    n = head.count("<th ")
    assert len(rows) == 2
    for row in rows:
        assert row.count("<td ") == n
        values = re.findall(r'data-value="([^"]*)"', row)
        assert len(values) == n
        assert values[0] in ("3", "7")


def test_the_citation_is_that_of_the_file():
    text = (ROOT / "CITATION.cff").read_text("utf-8")
    assert f'title: "{citation.TITLE}"' in text
    assert f'name: "{citation.AUTHORS}"' in text
    assert f'url: "{citation.PAPER_URL}"' in text
    for name in ("Bershatsky", "Oseledets", "2025", "arXiv:2504.04444"):
        assert name in text
        assert name in citation.PAPER
        assert name in citation.bibtex("1")


def test_a_hostile_trace_makes_a_harmless_page(make_traces, found):
    hostile = dict.fromkeys(
        ("model", "text", "source", "licence", "router", "architecture", "provenance"), HOSTILE
    )
    bad = dataclasses.replace(
        found,
        traces=found.traces.assign_attrs(hostile),
        fit=im.Fit(found.fit.data.assign_attrs(hostile)),
        comparison=im.Comparison(found.comparison.data.assign_attrs(hostile)),
        absent={"ck": f"No test: {HOSTILE}"},
        cautions=[HOSTILE],
    )
    # What comes out of measuring is made plain there; here it is escaped all the same.
    bad.cautions[:] = [im._text.plain(HOSTILE, 400)]
    bad.absent["ck"] = im._text.plain(HOSTILE, 400)
    html = render_page(bad, Costs(), 0, f"isingmoe report {HOSTILE}", None)
    check_harmless(html)
    assert "49" not in html[html.index("<h1>") : html.index("</h1>")]
    assert "{{ 7*7 }}" in html
    assert html.count("y" * 3100) == 0
    assert len(html) < 1.3 * len(render_page(found, Costs(), 0, None, None)) + 30_000


def test_a_hostile_trace_on_the_command_line(make_traces, tmp_path, monkeypatch, run_cli):
    monkeypatch.chdir(tmp_path)
    traces = make_traces(n_sequences=6, n_positions=30).assign_attrs(
        dict.fromkeys(
            ("model", "text", "source", "licence", "router"),
            # What NetCDF can hold.
            HOSTILE.replace("\x00", ""),
        )
    )
    im.save_traces(traces, "traces.nc")
    ran = run_cli("report", "traces.nc", *OPTIONS)
    assert (ran.exit_code, ran.stdout) == (0, "Written: report.html\n")
    assert all(c.isprintable() or c == "\n" for c in ran.stderr)
    check_harmless(Path("report.html").read_text("utf-8"))


OPTIONS = ("--resamples", 4, "--simulations", 4, "--folds", 0, "--max-distance", 8)


@pytest.mark.parametrize(
    ("shape", "missing"),
    [
        ({}, ()),
        ({"ranked": False}, ("No Chapman-Kolmogorov test: ",)),
        ({"n_layers": 1}, ("Nothing over depth: there is one layer.",)),
        ({"n_sequences": 1, "n_positions": 60}, ()),
        ({"top_k": 1}, ()),
        ({"ragged": True, "gaps": 0.1, "n_sequences": 9}, ()),
        ({"num_experts": 2, "top_k": 1, "n_positions": 40}, ()),
        ({"n_sequences": 3, "n_positions": 8}, ()),
    ],
    ids=["plain", "unranked", "one layer", "one text", "top-1", "ragged", "two experts", "tiny"],
)
def test_odd_traces_have_a_page(make_traces, shape, missing):
    traces = make_traces(**{"n_sequences": 8, "n_positions": 40, **shape})
    page = check_harmless(im.report(traces, **QUICK).html)
    text = " ".join(page.text.split())
    for sentence in missing:
        assert sentence in text
    # Whatever is not drawn is accounted for.
    assert "No position, topic and token's id among the bits" in text
    assert "nan" not in re.findall(r"[a-z]+", text)


def test_a_fit_may_be_given(make_traces, found):
    fit = im.fit(found.traces, chain="potts", coupling="uniform", uncertainty="none")
    page = Page(im.report(found.traces, fit, **QUICK).html)
    assert "potts, coupling uniform" in page.text


def test_a_budget_is_drawn(make_traces):
    traces = make_traces(n_sequences=8, n_positions=40)
    budget = im.budget(traces, reach=1, coupling="diagonal", n_folds=2)
    page = Page(im.report(traces, budget=budget, **QUICK).html)
    assert any(attrs.get("id") == "figure-budget" for attrs in page.all("figure"))
    assert "token's id among the bits" not in page.text


def test_same_seed_same_page(make_traces):
    traces = make_traces(n_sequences=8, n_positions=40)
    one, two, other = (im.report(traces, **QUICK, seed=seed).html for seed in (1, 1, 2))
    assert one == two
    assert one != other


def test_pages_are_saved_whole(make_traces, tmp_path, found, html):
    page = im.Report(html)
    path = page.save(tmp_path / "a.html")
    assert path.read_text("utf-8") == html
    with pytest.raises(FileExistsError, match="exists and is kept"):
        page.save(path)
    with pytest.raises(ValueError, match=r"expected a name that ends in \.html"):
        page.save(tmp_path / "a.pdf")
    assert [p.name for p in tmp_path.iterdir()] == ["a.html"]
    assert "sandbox" in page._repr_html_()


@pytest.mark.parametrize(
    ("command", "status", "line"),
    [
        (("traces.nc", "-o", "a.txt"), 1, r"a\.txt: expected a name that ends in \.html"),
        (("absent.nc",), 1, r"absent\.nc: no such file"),
        (("traces.nc", "--fit", "traces.nc"), 1, "expected 'isingmoe-fit-1'"),
        (("traces.nc", "--budget", "traces.nc"), 1, "expected 'isingmoe-budget-1'"),
        (("traces.nc", "--layer", "99"), 1, "layer: expected some of 3, 7, got 99"),
        (("traces.nc", "--fit", "fit.nc", "--chain", "potts"), 2, "the chain is that of the fit"),
        (("traces.nc", "--simulations", "0"), 2, "simulations"),
    ],
)
def test_bad_input_in_one_line(make_traces, tmp_path, monkeypatch, run_cli, command, status, line):
    monkeypatch.chdir(tmp_path)
    im.save_traces(make_traces(n_sequences=6, n_positions=30), "traces.nc")
    ran = run_cli("report", *command)
    assert ran.exit_code == status
    assert ran.stdout == ""
    assert ran.stderr.startswith("isingmoe: error: ")
    assert ran.stderr.count("\n") == 1
    assert re.search(line, ran.stderr), ran.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["traces.nc"]


def test_the_folder_of_a_file_is_not_told(make_traces, tmp_path):
    folder = tmp_path / "secret"
    folder.mkdir()
    im.save_traces(make_traces(n_sequences=6, n_positions=30, ranked=False), folder / "t.nc")
    html = im.report(im.open_traces(folder / "t.nc"), **QUICK).html
    assert "secret" not in html
    assert "t.nc: ranked" in html


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 3000, "[1, " * 50_000, "1" * 5000])
def test_a_hostile_provenance_is_cut(found, text):
    """Neither its depth nor its length does harm."""
    bad = dataclasses.replace(found, traces=found.traces.assign_attrs(provenance=text))
    html = render_page(bad, Costs(), 0, None, None)
    shown = re.findall(r"<pre>(.*?)</pre>", html, re.DOTALL)
    assert any(block.startswith(("[", "{", "1")) for block in shown)
    assert max(map(len, shown)) < 20_000


def test_a_warning_is_given_once(make_traces):
    """However many stages of a report come upon it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        im.report(make_traces(n_sequences=3, n_positions=8), **QUICK)
    assert caught
    said = [(warning.category, str(warning.message)) for warning in caught]
    assert len(said) == len(set(said))


def test_the_number_of_simulations_is_that_of_each_test(found, page):
    assert "19 simulated data sets for the decay and 99 simulated data sets for Chapman" in (
        page.text
    )
    alike = dataclasses.replace(
        found, parts={**found.parts, "goodness": goodness(found.traces["layer"].values, DIST, 99)}
    )
    text = Page(render_page(alike, Costs(), 0, None, None)).text
    assert " texts, 99 simulated data sets, 3 folds" in text


def test_fits_that_did_not_converge_are_told(found):
    part = found.parts["goodness"].assign(n_unfinished=("layer", [0, 3]))
    comparison = im.Comparison(
        found.comparison.data.assign(
            {
                name: variable.assign_attrs(part="goodness")
                for name, variable in part.data_vars.items()
            }
        )
    )
    again = gathered(found.traces, found.fit, comparison, None, ["first"])
    assert again.cautions[0] == "first"
    assert "3 of 38 fits to simulated data did not converge (layer 7)" in again.cautions[1]
    assert not found.cautions


def test_progress_names_its_stages(make_traces):
    seen = []

    def track(items, what):
        seen.append(what)
        return items

    im.report(make_traces(n_sequences=6, n_positions=30), track=track, **QUICK)
    assert {"fit", "goodness of fit", "figures"} <= set(seen)


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize(
    "name",
    ["gpt-oss-20b", "deepseek-v2-lite", "olmoe-1b-7b-layer0", "flame-moe-290m", "mixtral-8x7b"],
)
def test_real_traces_have_a_page_of_less_than_5_mb(shared_traces, name):
    html = im.report(im.open_traces(shared_traces / f"{name}.nc")).html
    check_harmless(html)
    assert len(html.encode()) < 5e6
