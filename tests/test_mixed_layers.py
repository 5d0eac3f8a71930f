"""Traces whose layers differ in their numbers of experts: each layer is seen as its own."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import isingmoe as im
from isingmoe._schema import alike

SIZES = {3: (6, 2), 7: (4, 1), 11: (6, 2), 15: (8, 3)}
CHEAP = {"n_resamples": 4, "max_distance": 4}


@pytest.fixture(scope="module")
def alone() -> dict[int, xr.Dataset]:
    """A trace of each layer by itself, of a chain that remembers."""
    rng = np.random.default_rng(3)
    length = np.array([40, 60, 25, 60])
    traces = {}
    for layer, (n_experts, k) in SIZES.items():
        keys = rng.random((1, 4, 60, n_experts))
        for i in range(1, 60):
            keys[:, :, i] = np.where(rng.random((1, 4, 1)) < 0.4, keys[:, :, i - 1], keys[:, :, i])
        order = keys.argsort(-1)[..., :k]
        order[:, np.arange(60) >= length[:, None]] = -1
        weight = np.where(order < 0, np.float32(0), -np.sort(-rng.random(order.shape, np.float32)))
        traces[layer] = im.traces_from_arrays(
            order, num_experts=n_experts, length=length, layer=[layer], gate_weight=weight
        )
    return traces


@pytest.fixture(scope="module")
def mixed(alone) -> xr.Dataset:
    """All these layers in one trace."""

    def padded(name, nothing):
        return np.concatenate(
            [
                np.pad(t[name].values, [(0, 0)] * 3 + [(0, 3 - k)], constant_values=nothing)
                for t, (_, k) in zip(alone.values(), SIZES.values(), strict=True)
            ]
        )

    return im.traces_from_arrays(
        padded("expert_index", -1),
        num_experts=[n for n, _ in SIZES.values()],
        top_k=np.array([k for _, k in SIZES.values()]),
        length=alone[3]["length"].values,
        layer=list(SIZES),
        gate_weight=padded("gate_weight", 0),
    )


def without_provenance(data: xr.Dataset) -> xr.Dataset:
    return data.assign_attrs(provenance="")


@pytest.mark.parametrize("layer", SIZES)
def test_one_layer_is_trimmed_to_its_own_experts(mixed, alone, layer):
    xr.testing.assert_identical(
        without_provenance(alike(mixed.sel(layer=[layer]))), without_provenance(alone[layer])
    )


def test_layers_that_agree_stay_together(mixed, alone):
    both = alike(mixed.sel(layer=[3, 11]))
    assert both.sizes["rank"] == both.attrs["top_k"] == 2
    assert both.attrs["num_experts"] == 6
    for layer in (3, 11):
        assert both.sel(layer=[layer]).equals(alone[layer])


def test_logits_are_trimmed_too(mixed):
    logits = np.zeros((4, 4, 60, 8), np.float32)
    one = alike(
        mixed.assign(router_logit=(("layer", "sequence", "position", "expert"), logits)).sel(
            layer=[7]
        )
    )
    im.validate(one)
    assert one.sizes["expert"] == 4


def test_ordinary_traces_are_left_alone(make_traces):
    traces = make_traces()
    assert alike(traces) is traces


VERBS = {
    "fit": lambda t: im.fit(t).data,
    "fit ising": lambda t: im.fit(t, chain="ising").data,
    "fit potts": lambda t: im.fit(t, chain="potts").data,
    "cross_validate": lambda t: im.cross_validate(t, n_folds=2),
    "correlation": lambda t: im.correlation(t, **CHEAP),
    "expert_correlation": lambda t: im.expert_correlation(t, **CHEAP),
    "baseline_correlation": lambda t: im.baseline_correlation(t, max_distance=4, n_draws=3),
    "neighbour_overlap": im.neighbour_overlap,
    "load_balance": im.load_balance,
    "activation": im.activation,
    "mem": lambda t: im.mem(t, n_simulations=5),
    "irreversibility": lambda t: im.irreversibility(t, n_folds=2),
    "budget": lambda t: im.budget(t, n_folds=2, reach=1).data,
    "chapman_kolmogorov": lambda t: im.chapman_kolmogorov(t, n_resamples=4, n_simulations=3),
    "block_sizes": lambda t: im.block_sizes(t, n_simulations=1, n_resamples=4),
    "compare": lambda t: im.compare(im.fit(t), t, parts=(), n_folds=2, **CHEAP).data,
    "goodness_of_fit": lambda t: im.goodness_of_fit(im.fit(t), t, n_simulations=2),
    "info": lambda t: im.info(t).data,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", VERBS)
def test_every_verb_sees_the_layer_as_it_is(mixed, alone, name):
    verb = VERBS[name]
    one, other = verb(mixed.sel(layer=[15])), verb(alone[15])
    for result in (one, other):
        result.attrs = {
            k: v
            for k, v in result.attrs.items()
            if k not in ("provenance", "num_experts", "top_k", "variables")
        }
    one = one.drop_vars(["num_experts", "top_k"], errors="ignore")
    xr.testing.assert_identical(one, other)


@pytest.mark.parametrize("name", [n for n in VERBS if n != "info"])
def test_layers_that_differ_are_to_be_chosen(mixed, name):
    with pytest.raises(
        ValueError,
        match=r"^traces: num_experts: expected the same in all layers, got 4 in layer 7, 6 in "
        r"layer 3, 11, 8 in layer 15; choose layers that agree, with --layer \(traces\.sel\(",
    ):
        VERBS[name](mixed)


def test_fits_are_put_beside_their_own_layers(mixed):
    fit = im.fit(mixed.sel(layer=[3, 11]), coupling="diagonal", uncertainty="information")
    of_layers = im.goodness_of_fit(fit, mixed, n_simulations=2)
    assert of_layers["layer"].values.tolist() == [3, 11]
    with pytest.raises(ValueError, match=r"num_experts: expected 6 as in the fit, got 8"):
        im.compare(fit, mixed.isel(layer=[3]).assign_coords(layer=[3]))


def test_info_shows_layers_side_by_side(mixed, alone):
    found = im.info(mixed)
    assert found.data["layer"].values.tolist() == list(SIZES)
    for layer in SIZES:
        of_layer = im.info(alone[layer]).data
        for name in ("load_entropy", "overlap", "overlap_z"):
            assert np.array_equal(found.data[name].sel(layer=[layer]), of_layer[name])
    text = str(found)
    assert "4 layers, 4 to 8 experts, top-1 to 3" in text
    row = next(line.split() for line in text.splitlines() if line.split()[:1] == ["7"])
    assert row[-5:-3] == ["4", "1"]


@pytest.mark.parametrize("kind", ["random", "shuffled", "position-shuffled"])
def test_baselines_keep_every_layer_to_its_experts(mixed, kind):
    drawn = im.validate(im.baseline(mixed, kind))
    for name in ("num_experts", "top_k"):
        xr.testing.assert_identical(drawn[name], mixed[name])
    present = mixed["expert_index"] >= 0
    assert ((drawn["expert_index"] >= 0).sum("rank") == present.sum("rank")).all()


def test_windows_keep_what_is_said_of_layers(mixed):
    cut = im.validate(im.windows(mixed, 20))
    xr.testing.assert_identical(cut["top_k"], mixed["top_k"])


def test_files_keep_what_is_said_of_layers(mixed, tmp_path, run_cli):
    im.save_traces(mixed, tmp_path / "traces.nc")
    xr.testing.assert_identical(im.open_traces(tmp_path / "traces.nc"), mixed)
    fit = ("fit", tmp_path / "traces.nc", "-o", tmp_path / "fit.nc", "--coupling", "diagonal")
    ended = run_cli(*fit)
    assert ended.exit_code == 1
    assert "--layer" in ended.stderr
    ended = run_cli(*fit, "--uncertainty", "information", "--layer", 15)
    assert ended.exit_code == 0, ended.stderr
    assert im.open_fit(tmp_path / "fit.nc").data.attrs["top_k"] == 3
