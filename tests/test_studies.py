"""Every study runs from end to end at its quick size."""

import os
import subprocess
import sys
from pathlib import Path

import numba
import pytest

ROOT = Path(__file__).parents[1]
STUDIES = sorted(ROOT.glob("fits/*/study.py")) + sorted(ROOT.glob("simulations/*/study.py"))
TRAINING = [study for study in STUDIES if "trained_models" in study.read_text("utf-8")]
by_name = {"ids": lambda path: path.parent.name}


def run(study, *options):
    if study in TRAINING:
        pytest.importorskip("torch")
    done = subprocess.run(
        [sys.executable, str(study), *map(str, options)],
        capture_output=True,
        text=True,
        env=os.environ | {"NUMBA_NUM_THREADS": str(numba.get_num_threads())},
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("study", STUDIES, **by_name)
def test_quick_run(study, tmp_path):
    run(study, "--quick", "--output", tmp_path)
    assert any(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    "study", [one for one in TRAINING if one.parent.name != "example_model"], **by_name
)
def test_size_of_a_gpu_starts(study, tmp_path):
    """With one step of few windows, on whatever there is."""
    models, few = tmp_path / "models", ("--steps", 1, "--batch", 4, "--seeds", 1, "--windows", 2)
    run(study, "--scale", "gpu", *few, "--models", models, "--output", tmp_path / "results")
    assert any((tmp_path / "results").glob("*.nc"))


@pytest.mark.parametrize("study", STUDIES, **by_name)
def test_study_is_documented(study):
    assert (study.parent / "README.md").exists()
    assert (study.parent / "results").is_dir()
