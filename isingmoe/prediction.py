"""Correlations that fitted chains predict."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from isingmoe._text import about
from isingmoe.chain_lengths import chain_correlation
from isingmoe.chains import KineticChain
from isingmoe.fitted import Fit
from isingmoe.stationary import markov_chain
from isingmoe.transfer import solve

__all__ = ["predicted_correlation"]

Array = NDArray[Any]

# Tokens of a simulated chain: its error is below that of the traces there are.
_N_TOKENS = 1 << 19


def predicted_correlation(fit: Fit, max_distance: int, seed: int = 0) -> xr.Dataset:
    """Correlation of the occupancies that the fitted infinite chains predict.

    Parameters
    ----------
    fit : Fit
    max_distance : int
    seed : int
        Of what is simulated.

    Returns
    -------
    Dataset
        `predicted` (layer, distance), summed over experts, and `predicted_error`, zero where
        it is exact: a kinetic chain of too many states is simulated.

    Raises
    ------
    ValueError
        If the chain cannot be solved.
    """
    if fit.is_regressed:
        return _of_chains(fit, max_distance, seed)
    data = fit.data
    curve = np.empty((data.sizes["layer"], max_distance + 1))
    _, transition, stationary = markov_chain(fit.log_weight())
    if data.attrs["chain"] == "potts":
        # P - 1 pi in powers: the tail keeps its precision.
        decaying = transition - stationary[:, None, :]
        connected = np.eye(data.sizes["expert"]) - stationary[:, None, :]
        for d in range(max_distance + 1):
            curve[:, d] = (stationary * np.diagonal(connected, axis1=1, axis2=2)).sum(1)
            connected = connected @ decaying
    else:
        second = transition[..., 1, 1] - transition[..., 0, 1]
        variance = stationary[..., 0] * stationary[..., 1]
        for d in range(max_distance + 1):
            curve[:, d] = (variance * second**d).sum(1)
    return _labelled(curve, np.zeros_like(curve), data["layer"])


def _of_chains(fit: Fit, max_distance: int, seed: int) -> xr.Dataset:
    layers = fit.data["layer"]
    if fit.data.attrs["chain"] == "kinetic":
        chains = [fit.chain(layer) for layer in layers.values.tolist()]
        curves = [
            chain_correlation(chain, max_distance, n_tokens=_N_TOKENS, seed=seed)
            for chain in chains
            if isinstance(chain, KineticChain)
        ]
    else:
        exact = [
            solve(fit.chain(layer), max_distance=max_distance)["correlation"].values
            for layer in layers.values.tolist()
        ]
        curves = [(curve, np.zeros_like(curve)) for curve in exact]
    return _labelled(np.stack([c for c, _ in curves]), np.stack([e for _, e in curves]), layers)


def _labelled(curve: Array, error: Array, layers: xr.DataArray) -> xr.Dataset:
    dims = ("layer", "distance")
    return xr.Dataset(
        {
            "predicted": (dims, curve, about("correlation predicted by the chain")),
            "predicted_error": (dims, error, about("standard error of its simulation")),
        },
        coords={"layer": layers, "distance": np.arange(curve.shape[1])},
    )
