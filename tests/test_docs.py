"""What the documentation shows, run."""

import doctest
import importlib
import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
MODULES = (
    "isingmoe.chains",
    "isingmoe.inference",
    "isingmoe.probing",
    "isingmoe.sweeping",
    "isingmoe.transfer",
)


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings(module):
    found = doctest.testmod(importlib.import_module(module))
    assert found.failed == 0


@pytest.mark.filterwarnings("ignore:traces.nc. experts that are never chosen")
@pytest.mark.filterwarnings("ignore:traces.nc. [0-9]+ pairs of tokens for")
@pytest.mark.parametrize("page", ["README.md", "docs/start.md", "docs/moe.md", "docs/probe.md"])
def test_python_on_the_page_runs(page, tmp_path, monkeypatch):
    import matplotlib.pyplot as plt

    import isingmoe as im

    plt.switch_backend("Agg")
    monkeypatch.chdir(tmp_path)
    few = im.example_traces().isel(layer=[2], sequence=slice(12), position=slice(96))
    im.save_traces(few.assign(length=np.minimum(few["length"], 96)), "traces.nc")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL)
    assert blocks
    names = {}
    for block in blocks:
        exec(compile(block, page, "exec"), names)
    plt.close("all")


@pytest.mark.parametrize("page", ["README.md", "docs/start.md", "docs/commands.md"])
def test_commands_on_the_page_exist(page):
    from isingmoe.cli import app

    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    text = (ROOT / page).read_text("utf-8")
    shown = re.findall(r"```(?!python)\w*\n(.*?)```|`(isingmoe [a-z][^`]*)`", text, re.DOTALL)
    lines = "\n".join(block + "\n" + inline for block, inline in shown)
    mentioned = set(re.findall(r"^isingmoe ([a-z-]+)", lines, re.MULTILINE))
    assert mentioned
    assert mentioned <= known


def test_every_command_is_documented():
    from isingmoe.cli import app

    text = (ROOT / "docs/commands.md").read_text("utf-8")
    for command in app.registered_commands:
        assert f"`isingmoe {command.name or command.callback.__name__}`" in text


def test_every_public_name_is_in_the_reference():
    import isingmoe

    text = (ROOT / "docs/reference.md").read_text("utf-8")
    for name in isingmoe.__all__:
        assert re.search(rf":: {name}$", text, re.MULTILINE), name
