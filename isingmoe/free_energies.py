"""Energy, entropy and free energy of fitted chains at the load of traces."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import gammaln

from isingmoe._schema import alike
from isingmoe._text import about
from isingmoe._windows import MOST_WINDOWS, Windows
from isingmoe.fitted import Fit
from isingmoe.histories import Histories, histories
from isingmoe.infinite import stationary_chain
from isingmoe.kinetic import value_and_slope
from isingmoe.likelihood import check_counts, pair_counts, token_pairs
from isingmoe.scoring import fitted_layer
from isingmoe.stationary import leading_vectors
from isingmoe.traces import Track, each_layer, trace_name

__all__ = ["free_energies"]

Array = NDArray[np.floating]


def free_energies(fit: Fit, traces: xr.Dataset, *, track: Track | None = None) -> xr.Dataset:
    """Read fitted chains as thermodynamics, at the load and the pairs of traces.

    Parameters
    ----------
    fit : Fit
    traces : Dataset
        Of the same model; every layer must have been fitted.
    track : callable, optional
        Wraps the iteration over layers, for a progress bar.

    Returns
    -------
    Dataset
        Per layer, in nats per token, T = 1: `energy` U, minus the mean log-weight of a
        token's experts given those before it; `free_energy` F, minus the mean logarithm of
        what normalises it; `entropy` S = U - F, the mean of -ln P of a token; and
        `free_energy_uniform`, F of a router without preference.

    Raises
    ------
    ValueError
        If the traces have other experts, or layers that were not fitted.

    Notes
    -----
    A kinetic chain gives a set S the chance exp(sum of theta over S) / e_k(exp theta), so
    that U = -<sum of theta over S>, F = -<ln e_k>, both over the tokens as they are, each with
    the history it has. In the zero-sum gauge theta sums to zero over the experts, and F is at
    most -ln C(E, k), its value without couplings and fields. Fields over the text count;
    random fields between texts are left out. Of an equilibrium chain F = -ln lambda, the
    leading eigenvalue of its transfer matrix, and S is the rate of -ln of its Gibbs weight;
    it is NaN where the chain has more than 4096 windows, and S with it. For the chain that
    maximises the likelihood U and S are those of the chain itself (`solve`), as fields and
    couplings are fitted to the load and the pairs that U is made of. The Ising chains of a
    layer are summed over the experts, and their reference is independent experts, each on
    with the chance k / E.

    References
    ----------
    E. T. Jaynes, Phys. Rev. 106, 620 (1957); docs/theory.md.
    """
    traces = alike(traces)
    fit = _of_layers(fit, traces)
    name = fit.data.attrs["chain"]
    layers = traces["layer"].values.tolist()
    of_layer = _kinetic if name == "kinetic" else _equilibrium
    if not fit.is_regressed:
        of_layer = _counted
    rows = [of_layer(fit, traces, place) for place in each_layer(traces, track)]
    energy, free_energy = np.array(rows).T
    n_experts, k = int(fit.data.attrs["num_experts"]), int(fit.data.attrs["top_k"])
    uniform = np.full(len(layers), _uniform(name, n_experts, k))
    values = {
        "energy": (energy, "mean energy of a token's experts"),
        "entropy": (energy - free_energy, "entropy of a token's experts, given those before"),
        "free_energy": (free_energy, "free energy of a token's experts"),
        "free_energy_uniform": (uniform, "free energy of a router without preference"),
    }
    return xr.Dataset(
        {key: ("layer", value, about(text, "nat/token")) for key, (value, text) in values.items()},
        coords={"layer": traces["layer"]},
    )


def _of_layers(fit: Fit, traces: xr.Dataset) -> Fit:
    """The fit of the layers that the traces have, in their order."""
    for name in ("num_experts", "top_k"):
        expected, got = int(fit.data.attrs[name]), int(traces.attrs[name])
        if got != expected:
            raise ValueError(
                f"{trace_name(traces)}: {name}: expected {expected} as in the fit, got {got}; "
                "these traces are of another model"
            )
    layers = traces["layer"].values
    missing = np.setdiff1d(layers, fit.data["layer"].values)
    if missing.size:
        raise ValueError(
            f"{trace_name(traces)}: layer: expected layers of the fit, got {missing.tolist()} "
            "beside them; fit them too, or select layers"
        )
    return Fit(fit.data.sel(layer=layers))


def _kinetic(fit: Fit, traces: xr.Dataset, place: int) -> tuple[float, float]:
    problem, table = fitted_layer(fit, traces, place)
    energy = _energy(problem, table)
    values, _ = value_and_slope(problem, table)
    return energy, energy + float(values.mean())


def _equilibrium(fit: Fit, traces: xr.Dataset, place: int) -> tuple[float, float]:
    data = fit.data.isel(layer=place)
    chain = fit.chain(int(data["layer"]))
    J, h = data["J"].values, data["h"].values
    reach = len(J) if data.attrs["coupling"] != "none" else 0
    of = traces.isel(rank=[0]) if data.attrs["chain"] == "potts" else traces
    couplings = J.reshape(-1, len(h))[: reach * len(h)]
    energy = _energy(histories(of, place, reach), np.concatenate([couplings, h[None]]))
    letters = math.comb(chain.n_states, chain.top_k)
    if max(reach, 1) * math.log(letters) > math.log(MOST_WINDOWS) + 1e-9:
        return energy, np.nan
    return energy, -stationary_chain(Windows.of(chain)).log_eigenvalue


def _counted(fit: Fit, traces: xr.Dataset, place: int) -> tuple[float, float]:
    chain = fit.data.attrs["chain"]
    counts = pair_counts(traces, place, chain)
    check_counts(traces, place, counts, chain)
    log_weight = fit.log_weight()[place]
    log_eigenvalue, _, _ = leading_vectors(log_weight)
    energy = -float((counts * log_weight).sum()) / token_pairs(counts)
    return energy, -float(log_eigenvalue.sum())


def _energy(problem: Histories, table: Array) -> float:
    """Minus the mean log-weight of the experts that tokens have."""
    total = 0.0
    # One feature after the other: all of them at once would not fit.
    for row, strength in zip(problem.features.T, problem.strength, strict=True):
        total += strength * table[row[:, None], problem.sets].sum()
    return 0.0 - total / len(problem.sets)


def _uniform(chain: str, n_experts: int, k: int) -> float:
    if chain == "ising":
        rate = k / n_experts
        # Two cosh h of the field that makes the rate is one over the root of this.
        return float(n_experts / 2 * np.log(rate * (1 - rate))) if k < n_experts else np.nan
    if chain == "potts":
        return -np.log(n_experts)
    return float(gammaln(k + 1) + gammaln(n_experts - k + 1) - gammaln(n_experts + 1))
