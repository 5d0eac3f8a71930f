"""Bands of the position encoding: their subspaces in a model, and probes inside them."""

from __future__ import annotations

import numpy as np
import planted
import pytest
import xarray as xr

import isingmoe as im
from isingmoe.subspaces import CONVENTIONS, random_basis

pytest.importorskip("sklearn")


def of_features(n_bands=3, n_directions=2, layer=(7,)):
    """Band b reads the features 2 b and 2 b + 1, in a basis turned about."""
    rng = np.random.default_rng(0)
    basis = np.zeros((len(layer), n_bands, n_directions, planted.FEATURES))
    for band in range(n_bands):
        turn, _ = np.linalg.qr(rng.normal(size=(2, 2)))
        basis[:, band, :, 2 * band : 2 * band + 2] = turn[:n_directions]
    return xr.Dataset(
        {"basis": (("layer", "band", "direction", "feature"), basis)},
        coords={"layer": list(layer), "wavelength": ("band", [6.0, 60.0, 600.0][:n_bands])},
        attrs={"conventions": CONVENTIONS, "model": "planted"},
    )


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    """Blocks of 16 have means of their own in the features 2 and 3."""
    states = planted.noise()
    angle = 2 * np.pi * (np.arange(planted.LENGTH) // planted.BLOCK) / 4
    states[..., 2:4] += 3 * np.stack([np.cos(angle), np.sin(angle)], -1)
    return planted.traces_of(states, tmp_path_factory.mktemp("r") / "traces.nc")


def probe(traces, subspaces, **options):
    given = {"inputs": ["hidden_state"], "targets": ["block"], "splits": ["sequence"]}
    return im.probe(
        traces,
        **{**given, "block_length": 16, "n_shuffles": 4, "subspaces": subspaces, **options},
    )


@pytest.fixture(scope="module")
def found(traces):
    return probe(traces, of_features())


def test_a_signal_in_one_band_shows_in_that_band_alone(found):
    one = found.data.isel(layer=0, target=0, split=0)
    low, mid, high = one["band_accuracy"].values
    assert one["wavelength"].values.tolist() == [6, 60, 600]
    assert mid > 0.9
    assert mid > float(one["random_high"])
    error = one["band_accuracy_error"].values
    for other, e in ((low, error[0]), (high, error[2])):
        assert abs(other - 0.25) < 4 * e + 0.01
    # Random planes hold a part of it.
    assert 0.25 < float(one["random_accuracy"]) < 0.8
    assert one["random_low"] < one["random_accuracy"] < one["random_high"]


def test_bands_are_in_the_report_the_file_and_the_figure(found, tmp_path):
    import matplotlib as mpl

    mpl.use("Agg")
    assert "By wavelength, in tokens" in str(found)
    row = next(line for line in str(found).splitlines()[::-1] if "block 16" in line)
    assert row.split()[4] == "60"
    found.save(tmp_path / "probe.nc")
    again = im.open_probe(tmp_path / "probe.nc")
    xr.testing.assert_identical(again.data, found.data)
    axes = im.plot_probe(found)
    assert axes.shape == (2, 1)
    line = axes[1, 0].lines
    np.testing.assert_allclose(
        next(one.get_ydata() for one in line if len(one.get_xdata()) == 3),
        found.data["band_accuracy"].values.ravel(),
    )
    assert axes[1, 0].get_xscale() == "log"
    with pytest.raises(ValueError, match="axes: expected 2, got 1"):
        im.plot_probe(found, axes=axes[:1])
    mpl.pyplot.close("all")


def test_subspaces_are_a_file_and_back(tmp_path):
    made = of_features()
    im.save_subspaces(made, tmp_path / "rope.nc")
    xr.testing.assert_identical(im.open_subspaces(tmp_path / "rope.nc"), made)
    with pytest.raises(OSError, match="exists and is kept"):
        im.save_subspaces(made, tmp_path / "rope.nc")
    im.save_traces(im.example_traces().isel(sequence=[0]), tmp_path / "traces.nc")
    with pytest.raises(ValueError, match=r"make some with isingmoe\.rope_subspaces"):
        im.open_subspaces(tmp_path / "traces.nc")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda s: s.drop_vars("basis"), "basis: missing"),
        (lambda s: s.drop_vars("layer"), "layer: missing"),
        (lambda s: s.isel(layer=0, drop=True), r"basis: expected dims \(layer, band, "),
        (lambda s: s.assign(basis=s["basis"] * np.nan), "basis: expected finite floats"),
        (lambda s: s.assign_coords(layer=[8]), "layer: expected layer 7 of the traces, got 8"),
        (lambda s: s.isel(feature=slice(4)), "feature: expected 6, .*, got 4; name the model"),
    ],
)
def test_subspaces_that_do_not_fit(traces, change, text):
    with pytest.raises(ValueError, match=text):
        probe(traces, change(of_features()))


def test_bands_are_of_hidden_states(traces):
    with pytest.raises(ValueError, match="subspaces: expected hidden states to project, got none"):
        probe(traces, of_features(), inputs=["expert_index"])


def test_random_directions_are_orthonormal():
    basis = random_basis(3, 7, np.random.default_rng(0))
    np.testing.assert_allclose(basis @ basis.T, np.eye(3), atol=1e-6)
