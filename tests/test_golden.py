"""The text that a newcomer sees first, to the letter."""

from pathlib import Path

import pytest

import isingmoe as im

GOLDEN = Path(__file__).parent / "golden"


def test_report_of_the_bundled_trace(run_cli, tmp_path, monkeypatch):
    """A change here is a change of a published number: look why before renewing the file."""
    monkeypatch.chdir(tmp_path)
    im.save_traces(im.example_traces(), "traces.nc")
    idle = "experts that are never chosen: 0 in layer 2; 10 in layer 3"
    with pytest.warns(im.DegenerateTraceWarning, match=idle):
        ran = run_cli("fit", "traces.nc")
    assert ran.exit_code == 0
    assert ran.stderr == (
        "isingmoe: 2 experts to a token: kinetic chains of whole sets; --chain names another\n"
    )
    assert ran.stdout == (GOLDEN / "example_fit.txt").read_text("utf-8")


def test_readme_shows_the_same_numbers():
    report = (GOLDEN / "example_fit.txt").read_text("utf-8")
    rows = [line.split("  ") for line in report.splitlines() if line.strip()[:1].isdigit()]
    readme = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
    for row in rows:
        cells = [cell.strip() for cell in row if cell.strip()]
        assert f"| {' | '.join(cells)} |" in readme
