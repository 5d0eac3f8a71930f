"""The chains of the study, what is taken from them, and the lines drawn on their maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import isingmoe as im

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Model:
    """A nearest-neighbour chain with a field on one expert, at temperature 1.

    Attributes
    ----------
    name : str
        Part of the names of its files.
    label : str
        In figures.
    q : int
        Number of states.
    unit : float
        J and h in units of those of a Potts chain: 1/2 for Ising, whose chain with J and h
        is the two-state Potts chain with 2 J and the field 2 h on one state.
    strongest : float
        Of the Potts chain; where the map ends.
    """

    name: str
    label: str
    q: int
    unit: float
    strongest: float

    def chain(self, n_sites: int | None) -> Callable[[float, float], Any]:
        """What makes the chain of a point; a ring where it is finite."""
        boundary = "open" if n_sites is None else "periodic"

        def make(J: float, h: float) -> Any:
            if self.name == "ising":
                return im.IsingChain(J=J, h=h, n_sites=n_sites, boundary=boundary)
            field = np.r_[h, np.zeros(self.q - 1)]
            return im.PottsChain(J=J, h=field, n_sites=n_sites, boundary=boundary)

        return make

    def coupling_of_length(self, xi: float) -> float:
        """The J at which the zero-field correlation length is xi."""
        t = np.exp(-1 / xi)
        return self.unit * float(np.log((1 + (self.q - 1) * t) / (1 - t)))


MODELS = (
    Model("ising", "Ising", 2, 0.5, 6.0),
    Model("potts_2", "Potts, q = 2", 2, 1.0, 6.0),
    Model("potts_8", "Potts, q = 8", 8, 1.0, 8.0),
    Model("potts_64", "Potts, q = 64", 64, 1.0, 10.0),
)

MEANING = {
    "correlation_length": ("correlation length of the infinite chain", "site"),
    "neighbour_length": ("-1 / ln(C(1)/C(0))", "site"),
    "magnetization": ("(q p_0 - 1)/(q - 1), p_0 the load of the expert with the field", "1"),
    "susceptibility": ("response of the load p_0 (Ising: of the spin) to its field", "1/coupling"),
    "equal_neighbours": ("probability that neighbours are equal", "1"),
}


def named(variables: dict[str, xr.DataArray], attrs: dict[str, Any]) -> xr.Dataset:
    """A Dataset whose variables say what they are."""
    result = xr.Dataset(variables, attrs=attrs)
    for name in result.data_vars:
        kind, _, suffix = str(name).partition("_error")
        long_name, units = MEANING[kind]
        prefix = "standard error of " if str(name) != kind and not suffix else ""
        result[name].attrs = {"long_name": prefix + long_name, "units": units}
    for name, long_name in (("J", "coupling over temperature"), ("h", "field over temperature")):
        result[name].attrs = {"long_name": long_name, "units": "1"}
    return result


def of_one_expert(model: Model, exact: xr.Dataset) -> xr.Dataset:
    """What the study shows of solved chains.

    Parameters
    ----------
    model : Model
    exact : Dataset
        Of `solve` with the correlations at distances 0 and 1, over a grid.

    Returns
    -------
    Dataset
    """
    square = exact["correlation"]
    if model.name == "ising":
        magnetization, response = exact["magnetization"], exact["susceptibility"]
        equal = (1 + square.isel(distance=1) + magnetization**2) / 2
    else:
        load = exact["marginal"]
        magnetization = (model.q * load.isel(expert=0) - 1) / (model.q - 1)
        response = exact["susceptibility"].isel(expert=0)
        equal = square.isel(distance=1) + (load**2).sum("expert")
    return named(
        {
            "correlation_length": exact["correlation_length"],
            "neighbour_length": neighbour_length(square),
            "magnetization": magnetization,
            "susceptibility": response,
            "equal_neighbours": equal,
        },
        exact.attrs,
    )


def neighbour_length(correlation: xr.DataArray) -> xr.DataArray:
    """The length of an exponential through C(0) and C(1); 0 without correlation."""
    ratio = correlation.isel(distance=1) / correlation.isel(distance=0)
    with np.errstate(divide="ignore"):
        return -1 / np.log(ratio.where(ratio > 1e-12, 0))


def sampled(
    chain: Any, algorithm: Any, n_samples: int, n_replicas: int, n_sweeps: int, seed: Any
) -> xr.Dataset:
    """Monte Carlo values of one chain, in the form that `of_one_expert` gives.

    Errors are those of `simulate`, but for the length from neighbours: it is a ratio of
    two means over the same states, and its error is the spread over the replicas.
    """
    run = im.simulate(
        chain,
        algorithm,
        n_samples=n_samples,
        n_replicas=n_replicas,
        n_sweeps=n_sweeps,
        max_distance=-1,
        keep_states=True,
        seed=seed,
    )
    q = chain.n_states
    if isinstance(chain, im.IsingChain):
        magnetization, magnetization_error = run["magnetization"], run["magnetization_error"]
        response, response_error = run["susceptibility"], run["susceptibility_error"]
    else:
        scale = q / (q - 1)
        magnetization = scale * run["marginal"][0] - 1 / (q - 1)
        magnetization_error = scale * run["marginal_error"][0]
        response, response_error = run["susceptibility"][0], run["susceptibility_error"][0]
    length, length_error = _lengths(run["state"].values, q)
    return xr.Dataset(
        {
            "magnetization": ((), float(magnetization)),
            "magnetization_error": ((), float(magnetization_error)),
            "susceptibility": ((), float(response)),
            "susceptibility_error": ((), float(response_error)),
            "neighbour_length": ((), length),
            "neighbour_length_error": ((), length_error),
        }
    )


def _lengths(states: NDArray[np.integer], q: int) -> tuple[float, float]:
    """Length from neighbours on rings, and its error by a jackknife over the replicas."""
    n_replicas = len(states)
    equal = (states == np.roll(states, 1, axis=-1)).mean((1, 2))
    load = np.stack([np.bincount(state.ravel(), minlength=q) for state in states])
    load = load / load.sum(1, keepdims=True)
    keep = 1 - np.eye(n_replicas)
    weights = np.vstack([np.ones(n_replicas), keep])
    weights /= weights.sum(1, keepdims=True)
    by_chance = ((weights @ load) ** 2).sum(1)
    length = -1 / np.log((weights @ equal - by_chance) / (1 - by_chance))
    spread = np.sqrt((n_replicas - 1) * np.var(length[1:]))
    return float(length[0]), float(spread)


def field_lines(q: int, J: Array) -> dict[str, Array]:
    """The fields at which the favoured expert and the rest change places, of a Potts chain.

    Parameters
    ----------
    q : int
    J : ndarray
        Over the temperature.

    Returns
    -------
    dict of ndarray
        h at which the load of the expert is (1 - 1/sqrt 2)/2, 1/2 and (1 + 1/sqrt 2)/2.

    Notes
    -----
    The other q - 1 experts are equal, and the leading eigenvector lies in the space of two
    states: [[e^(J + h), b], [b, e^J + q - 2]] with b = sqrt(q - 1) e^(h / 2). The load is
    (1 + x / sqrt(1 + x^2)) / 2, where x is the difference of the diagonal over 2 b: the
    lines are x = -1, 0 and 1, quadratic equations for e^(h / 2).
    """
    lines = {}
    for name, x in (("lower", -1.0), ("half", 0.0), ("upper", 1.0)):
        b = x * np.sqrt(q - 1) * np.exp(-J)
        lines[name] = 2 * np.log(b + np.sqrt(b**2 + 1 + (q - 2) * np.exp(-J)))
    return lines
