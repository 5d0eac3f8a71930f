"""Correlations that fitted chains predict."""

from __future__ import annotations

import numpy as np
import xarray as xr

from isingmoe._text import about
from isingmoe.chain_lengths import chain_correlation
from isingmoe.chains import KineticChain
from isingmoe.fitted import Fit
from isingmoe.forward import Decay
from isingmoe.stationary import markov_chain, markov_correlation
from isingmoe.transfer import solve

__all__ = ["predicted_correlation"]

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
        `predicted` (layer, distance), summed over experts, and `predicted_error`, that of the
        run of a kinetic chain of too many states, zero where it is exact; `predicted_spread`,
        the standard error with that of the fit; `expert_predicted` and
        `expert_predicted_spread` (layer, expert, distance), the same of each expert.

    Raises
    ------
    ValueError
        If the chain cannot be solved.

    Notes
    -----
    The uncertainty of a fit is known to a distance of 64; at larger ones that at 64 stands.
    """
    data = fit.data
    if fit.is_regressed:
        rows = [
            _of_chain(fit, layer, max_distance, seed) for layer in data["layer"].values.tolist()
        ]
    else:
        _, transition, stationary = markov_chain(fit.log_weight())
        curves = markov_correlation(transition, stationary, max_distance)
        if data.attrs["chain"] == "ising":
            # Of each spin the second state is the occupancy.
            curves = curves[:, :, 1]
        rows = [Decay.exact(curve) for curve in curves]
    curve, error, expert_curve, expert_error = (np.array(part) for part in zip(*rows, strict=True))
    known = np.minimum(np.arange(max_distance + 1), data.sizes["correlation_distance"] - 1)
    spread = np.hypot(error, data["correlation_error"].values[:, known])
    expert_spread = np.hypot(expert_error, data["expert_correlation_error"].values[..., known])
    summed, of_expert = ("layer", "distance"), ("layer", "expert", "distance")
    declared = {
        "predicted": (summed, curve, "correlation predicted by the chain"),
        "predicted_error": (summed, error, "standard error of its simulation"),
        "predicted_spread": (summed, spread, "standard error with that of the fit"),
        "expert_predicted": (of_expert, expert_curve, "correlation of each expert, predicted"),
        "expert_predicted_spread": (
            of_expert,
            expert_spread,
            "standard error with that of the fit",
        ),
    }
    return xr.Dataset(
        {name: (dims, values, about(text)) for name, (dims, values, text) in declared.items()},
        coords={
            "layer": data["layer"],
            "expert": data["expert"],
            "distance": ("distance", np.arange(max_distance + 1), about("distance", "token")),
        },
    )


def _of_chain(fit: Fit, layer: int, max_distance: int, seed: int) -> Decay:
    chain = fit.chain(layer)
    if isinstance(chain, KineticChain):
        return chain_correlation(chain, max_distance, n_tokens=_N_TOKENS, seed=seed)
    return Decay.exact(solve(chain, max_distance=max_distance)["expert_correlation"].values.T)
