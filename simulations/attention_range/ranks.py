"""Whether couplings are in the order of the attention."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from scipy.stats import spearmanr
from trained_models.intervals import told

__all__ = ["rank_correlation", "rank_correlations"]


def rank_correlation(one: xr.DataArray, other: xr.DataArray, dim: str) -> xr.DataArray:
    """Spearman's rank correlation along a dim; NaN where one of the two is constant."""

    def of_rows(x: np.ndarray, y: np.ndarray) -> float:
        is_known = np.isfinite(x) & np.isfinite(y)
        x, y = x[is_known], y[is_known]
        if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
            return float("nan")
        return float(spearmanr(x, y).statistic)

    return xr.apply_ufunc(of_rows, one, other, input_core_dims=[[dim], [dim]], vectorize=True)


def rank_correlations(
    data: xr.Dataset, more: xr.Dataset, windows: Mapping[str, int]
) -> dict[str, dict[str, dict[str, str]]]:
    """Between arms at one distance, and between distances in one arm; intervals over seeds.

    Between all arms, and without those of which a correlation of ranks would say no more than
    that what cannot be seen has no effect: the one that sees nothing, and all that do not see
    as far as couplings are fitted.

    Parameters
    ----------
    data : Dataset (recipe, seed, kind, layer, ..)
    more : Dataset (recipe, seed, layer, distance)
        What the context adds to the couplings.
    windows : mapping of str to int
        Tokens before its own that a token sees, in the recipes that do not see all.
    """
    attention = data["attention"].sel(lag=data["distance"].values).rename(lag="distance")
    whole = data.sel(kind="data", drop=True)
    own = data.sel(kind="exchanged", drop=True)
    couplings = {
        "strength": whole["strength"],
        "strength of exchanged tokens": own["strength"],
        "strength, added by context": more["strength"],
        "self-coupling": whole["self_coupling"],
        "self-coupling, added by context": more["self_coupling"],
    }
    farthest = int(data["distance"][-1])
    names = data["recipe"].values.tolist()
    subsets = {
        "all": names,
        "that see a token before": [one for one in names if windows.get(one, farthest) > 0],
        f"that see {farthest} before": [
            one for one in names if windows.get(one, farthest) >= farthest
        ],
    }
    result = {}
    for name, values in couplings.items():
        between = {
            title: rank_correlation(values.sel(recipe=some), attention.sel(recipe=some), "recipe")
            for title, some in subsets.items()
        }
        arms = between["all"]
        distances = rank_correlation(values, attention, "distance").mean("recipe")
        result[name] = {
            "between arms, by layer": _each(arms.mean("distance"), "layer"),
            "between arms, by distance": _each(arms.mean("layer"), "distance"),
            "between arms": {
                title: told(found.mean(("layer", "distance"))) for title, found in between.items()
            },
            "between distances, by layer": _each(distances, "layer"),
        }
    return result


def _each(values: xr.DataArray, dim: str) -> dict[str, str]:
    return {str(place): told(values.sel({dim: place})) for place in values[dim].values.tolist()}
