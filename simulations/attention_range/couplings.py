"""Couplings of experts at each distance."""

from __future__ import annotations

import numpy as np
import xarray as xr
from trained_models.measuring import couplings

import isingmoe as im

__all__ = ["at_distances"]


def at_distances(traces: xr.Dataset, reach: int, max_lag: int) -> xr.Dataset:
    """Fitted couplings and measured correlations of each layer.

    Parameters
    ----------
    traces : Dataset
    reach : int
        Largest distance with a coupling.
    max_lag : int
        Largest distance of the correlations.

    Returns
    -------
    Dataset
        `strength` (layer, distance): root mean square of the elements of J at that distance;
        `self_coupling` (layer, distance): of an expert to itself, weighted with the load;
        `correlation` (layer, lag): C(d) / C(0) about the mean of each sequence. NaN where all
        tokens of a layer that the fit predicts have the same experts.
    """
    sets = np.sort(traces["expert_index"].values[:, :, reach:], -1)
    varies = np.flatnonzero([(one != one[0, 0]).any() for one in sets])
    if not varies.size:
        nothing = np.full((len(sets), reach), np.nan)
        return xr.Dataset(
            {
                "strength": (("layer", "distance"), nothing),
                "self_coupling": (("layer", "distance"), nothing),
                "correlation": (("layer", "lag"), np.full((len(sets), max_lag + 1), np.nan)),
            },
            {"layer": traces["layer"].values, "distance": np.arange(1, reach + 1)},
        ).assign_coords(lag=np.arange(max_lag + 1))
    some = traces.isel(layer=varies)
    fit = couplings(some, reach).data
    curve = im.expert_correlation(
        some, primary=False, centre="sequence", max_distance=max_lag, n_resamples=0
    )["correlation"].sum("expert")
    curve = curve.rename(distance="lag")
    strength = np.sqrt((fit["J"] ** 2).mean(("expert", "next_expert")))
    result = xr.Dataset(
        {
            "strength": strength.assign_attrs(
                long_name="root mean square of the couplings at a distance", units="1"
            ),
            "self_coupling": fit["self_coupling_at"],
            "correlation": (curve / curve.sel(lag=0)).assign_attrs(
                long_name="C(d) / C(0) about the mean of each sequence", units="1"
            ),
        }
    )
    return result.reindex(layer=traces["layer"].values)
