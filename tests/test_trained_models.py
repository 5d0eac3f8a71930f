"""What the studies of trained models share: measurements, intervals, folders of results."""

import argparse
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scipy.stats import t

import isingmoe as im

pytest.importorskip("torch")
pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parents[1] / "simulations"))

from common import folder_of
from trained_models.intervals import interval, told
from trained_models.measuring import routing

N_TEXTS, LENGTH, N_EXPERTS = 40, 96, 6


def drawn(strength, seed=0):
    """Two experts of each token, by a load of each text and by the set before."""
    rng = np.random.default_rng(seed)
    field = rng.normal(0, 1, (N_TEXTS, N_EXPERTS))
    before, sets = np.zeros((N_TEXTS, N_EXPERTS)), []
    for _ in range(LENGTH):
        chosen = (field + strength * before + rng.gumbel(size=field.shape)).argsort(1)[:, -2:]
        before = np.zeros_like(before)
        np.put_along_axis(before, chosen, 1, 1)
        sets.append(chosen)
    return im.traces_from_arrays(np.stack(sets, 1)[None], num_experts=N_EXPERTS)


def test_topics_are_neither_couplings_nor_what_couplings_tell():
    alone, coupled = (routing(drawn(strength)).squeeze("layer") for strength in (0.0, 1.0))
    assert abs(alone["self_coupling"]) < 0.05
    assert abs(alone["gain_bits"]) < 0.02
    assert alone["overlap"] == pytest.approx(float(alone["overlap_shuffled"]), abs=0.02)
    # The two largest of Gumbel draws are nearly, not exactly, a set of the chain.
    assert coupled["self_coupling"] == pytest.approx(1.0, rel=0.25)
    assert coupled["gain_bits"] > 0.1
    assert coupled["overlap"] > coupled["overlap_shuffled"] + 0.1


def test_interval_is_of_the_seeds_that_have_a_value():
    values = xr.DataArray(
        [[1.0, 2.0, np.nan], [3.0, 4.0, 8.0], [5.0, np.nan, np.nan]], dims=("x", "seed")
    )
    mean, half = interval(values)
    np.testing.assert_allclose(mean, [1.5, 5.0, 5.0])
    np.testing.assert_allclose(half[0], t.ppf(0.975, 1) * np.std([1, 2], ddof=1) / 2**0.5)
    np.testing.assert_allclose(half[1], t.ppf(0.975, 2) * np.std([3, 4, 8], ddof=1) / 3**0.5)
    assert np.isnan(half[2])
    assert told(values[1], 1) == "5.0 ± 6.6"
    assert told(values[0] * np.nan) == "–"


def test_again_removes_what_a_run_would_begin_from(tmp_path):
    def made(again, **options):
        for name in ("measured.nc", "other.json"):
            (tmp_path / name).write_text("x")
        (tmp_path / "runs").mkdir(exist_ok=True)
        chosen = argparse.Namespace(output=tmp_path, quick=False, again=again)
        folder_of(chosen, __file__, **options)
        return sorted(path.name for path in tmp_path.iterdir())

    everything = ["measured.nc", "other.json", "runs"]
    assert made(False) == everything
    assert made(True, kept=("measured.nc", "runs", "not there")) == ["other.json"]
    assert made(True) == []
