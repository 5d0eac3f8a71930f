"""What the tests of readers share."""

from __future__ import annotations

import xarray as xr

import isingmoe as im

EXPERTS = 6


def assert_same(found: xr.Dataset, traces: xr.Dataset, without: tuple[str, ...] = ()) -> None:
    im.validate(found)
    expected = traces.drop_vars([*without, "gate_weight"], errors="ignore")
    assert set(found.variables) == set(expected.variables)
    for name in expected.variables:
        xr.testing.assert_equal(found[name], expected[name])
        if name != "layer":
            assert found[name].dtype == expected[name].dtype
    for name in ("num_experts", "top_k", "ranked"):
        assert found.attrs[name] == traces.attrs[name]


def known(traces: xr.Dataset) -> dict[str, object]:
    return {"num_experts": traces.attrs["num_experts"], "ranked": bool(traces.attrs["ranked"])}


def layers(traces: xr.Dataset) -> list[int]:
    return traces["layer"].values.tolist()


def sglang(traces: xr.Dataset, n_dense: int = 0) -> dict[str, object]:
    of_arrays = {"num_layers": traces.sizes["layer"] + n_dense, "top_k": traces.attrs["top_k"]}
    return {**known(traces), "layers": layers(traces), **of_arrays}
