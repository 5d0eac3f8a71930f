"""The house: what is imported when, and that nothing imports upwards."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

import isingmoe

ROOT = Path(__file__).parents[1]


def modules_after(statement):
    code = f"import sys; {statement}; print(*sorted(sys.modules))"
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()


def test_import_loads_neither_torch_nor_matplotlib():
    loaded = modules_after("import isingmoe")
    assert not {"torch", "matplotlib", "numba", "xarray", "pandas", "sklearn"} & set(loaded)


def test_fitting_loads_neither_torch_nor_matplotlib():
    loaded = modules_after("import isingmoe; isingmoe.fit; isingmoe.solve; isingmoe.compare")
    assert not {"torch", "matplotlib"} & set(loaded)


@pytest.mark.parametrize(("statement", "limit"), [("import isingmoe", 0.5)])
def test_import_is_quick(statement, limit):
    bare = min(_seconds("pass") for _ in range(3))
    assert min(_seconds(statement) for _ in range(3)) - bare < limit


def _seconds(statement):
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - start


def test_public_names_exist_and_are_documented():
    assert sorted(isingmoe.__all__) == isingmoe.__all__
    for name in isingmoe.__all__:
        assert getattr(isingmoe, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'anneal'"):
        isingmoe.anneal  # noqa: B018


def test_no_public_name_is_that_of_a_module():
    """The import system binds modules over what is bound on first use."""
    modules = {path.stem for path in (ROOT / "isingmoe").iterdir()}
    assert not modules & set(isingmoe.__all__)


def test_imports_point_one_way():
    found = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout


def test_files_keep_to_their_size():
    for file in (ROOT / "isingmoe").rglob("*.py"):
        assert len(file.read_text(encoding="utf-8").splitlines()) <= 400, file
