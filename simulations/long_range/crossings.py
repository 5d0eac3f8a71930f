"""Crossings of Binder cumulants, and where they go as chains get longer."""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy.optimize import brentq, curve_fit

__all__ = ["critical_coupling", "crossing", "crossings", "rough_crossing"]

_DRAWS = 400


def _curve(K: np.ndarray, U: np.ndarray, error: np.ndarray, centre: float) -> np.ndarray:
    """A parabola through cumulants, by weighted least squares."""
    return np.polyfit(K - centre, U, 2, w=1 / error)


def _root(first: np.ndarray, second: np.ndarray, low: float, high: float) -> float:
    """Where two parabolas meet between two couplings; NaN where they do not."""
    difference = np.polysub(second, first)
    grid = np.linspace(low, high, 200)
    value = np.polyval(difference, grid)
    change = np.flatnonzero((value[:-1] < 0) & (value[1:] >= 0))
    if not len(change):
        return np.nan
    middle = change[np.abs(grid[change] - (low + high) / 2).argmin()]
    return brentq(lambda x: np.polyval(difference, x), grid[middle], grid[middle + 1])


def crossing(
    small: xr.Dataset, large: xr.Dataset, rng: np.random.Generator | None = None
) -> tuple[float, float, float, float]:
    """Coupling and cumulant where two lengths agree, each with its error.

    The longer chain has the smaller cumulant in the disordered phase and the larger one in
    the ordered phase. Errors are the spread over redrawn data; NaN without a generator.
    """
    centre = float(large["K"].mean())
    low, high = float(large["K"].min()) - centre, float(large["K"].max()) - centre

    def meet(redraw: bool) -> tuple[float, float]:
        curves = []
        for data in (small, large):
            U, error = data["binder_cumulant"].values, data["binder_cumulant_error"].values
            if redraw and rng is not None:
                U = U + error * rng.normal(size=len(U))
            curves.append(_curve(data["K"].values, U, error, centre))
        root = _root(*curves, low, high)
        return root + centre, float(np.polyval(curves[1], root))

    found = meet(redraw=False)
    if rng is None:
        return found[0], np.nan, found[1], np.nan
    spread = np.nanstd([meet(redraw=True) for _ in range(_DRAWS)], axis=0)
    return found[0], spread[0], found[1], spread[1]


def rough_crossing(small: xr.Dataset, large: xr.Dataset) -> float:
    """Coupling below which the longer chain has the smaller cumulant, above which the larger."""
    difference = (large["binder_cumulant"] - small["binder_cumulant"]).values
    K = large["K"].values
    last = int(np.cumsum(difference)[:-1].argmin())
    return float(K[last : last + 2].mean())


def crossings(data: xr.Dataset, rng: np.random.Generator) -> np.ndarray:
    """Crossing of every length with the one before: length, K, error, U, error."""
    sizes = data["n_sites"].values
    pairs = zip(range(len(sizes) - 1), range(1, len(sizes)), strict=True)
    return np.array(
        [(sizes[j], *crossing(data.isel(n_sites=i), data.isel(n_sites=j), rng)) for i, j in pairs]
    )


def critical_coupling(data: xr.Dataset, rng: np.random.Generator) -> dict[str, float]:
    """K_c of the infinite chain, from crossings that go as K_c + a L^-p.

    With at least four crossings p is fitted, within 0.3 and 2; the error holds what not
    knowing p adds. The cumulant is that of the last crossing.
    """
    found = crossings(data, rng)
    found = found[np.isfinite(found).all(1) & (found[:, 2] > 0)]
    size, K, error = found[:, 0] / found[-1, 0], found[:, 1], found[:, 2]
    result = {"binder": found[-1, 3], "binder_error": found[-1, 4]}
    if len(found) < 4:
        return {"K_c": K[-1], "K_c_error": error[-1], "chi_square_per_dof": np.nan, **result}
    start = [K[-1], K[0] - K[-1], 0.8]
    bounds = ([0, -np.inf, 0.3], [np.inf, np.inf, 2.0])
    best, covariance = curve_fit(
        lambda x, K_c, a, p: K_c + a * x**-p, size, K, start, error, True, bounds=bounds
    )
    residual = (K - best[0] - best[1] * size ** -best[2]) / error
    chi_square = (residual**2).sum() / max(len(K) - 3, 1)
    widening = max(1.0, np.sqrt(chi_square))
    return {
        "K_c": best[0],
        "K_c_error": np.sqrt(covariance[0, 0]) * widening,
        "chi_square_per_dof": chi_square,
        **result,
    }
