"""What the study of encodings of position looks at."""

import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

SIMULATIONS = Path(__file__).parents[1] / "simulations"
sys.path[:0] = [str(SIMULATIONS), str(SIMULATIONS / "positional_encoding")]

from positions import inside  # noqa: E402
from trained_models.corpus import Windows  # noqa: E402
from trained_models.options import ModelStudy  # noqa: E402
from trained_models.results import kept  # noqa: E402
from trained_models.sizes import CPU, QUICK  # noqa: E402
from trained_models.store import Store  # noqa: E402


def windows(offset):
    offset = np.array(offset, np.int32)
    return Windows(np.arange(len(offset))[:, None], np.full(len(offset), "a speech"), offset)


def test_windows_that_begin_a_speech_are_left_out():
    assert inside(windows([0, 32, 64, 0, 32])).ravel().tolist() == [1, 2, 4]


def test_of_few_windows_all_are_kept():
    assert inside(windows([0, 32])).ravel().tolist() == [0, 1]


def test_results_are_kept_for_models_of_the_same_size(tmp_path):
    n_computed = 0

    def compute():
        nonlocal n_computed
        n_computed += 1
        return xr.Dataset({"x": 1.0})

    for _ in range(2):
        study = ModelStudy(tmp_path, quick=True, store=Store(tmp_path, QUICK))
        assert float(kept(study, "simulations/study/study.py", compute)["x"]) == 1
    assert n_computed == 1
    other = ModelStudy(tmp_path, quick=False, store=Store(tmp_path, CPU))
    with pytest.raises(SystemExit, match="got those of"):
        kept(other, "simulations/study/study.py", compute)
