"""Every study runs from end to end at its quick size."""

import os
import subprocess
import sys
from pathlib import Path

import numba
import pytest

ROOT = Path(__file__).parents[1]
STUDIES = sorted(ROOT.glob("fits/*/study.py")) + sorted(ROOT.glob("simulations/*/study.py"))


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.parent.name)
def test_quick_run(study, tmp_path):
    if study.parent.name == "example_model":
        pytest.importorskip("torch")
    done = subprocess.run(
        [sys.executable, str(study), "--quick", "--output", str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ | {"NUMBA_NUM_THREADS": str(numba.get_num_threads())},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert any(tmp_path.iterdir())


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.parent.name)
def test_study_is_documented(study):
    assert (study.parent / "README.md").exists()
    assert (study.parent / "results").is_dir()
