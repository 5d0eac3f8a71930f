"""The inverse-square chain: Kosterlitz's flow, fitted to K <m^2> at every length.

With y the fugacity of a domain wall and x = 2 K <m^2> - 1, on the scale l = ln L,
dx/dl = -4 y^2 and dy/dl = -x y (Kosterlitz, Phys. Rev. Lett. 37, 1577 (1976)), so that
C = x^2 - 4 y^2 is conserved and dx/dl = C - x^2. C is zero at K_c, positive in the ordered
phase, where x stays at sqrt(C), and negative above T_c. At K_c itself x = 1/(l + c): the
jump of the magnetization is 2 K_c m^2 = 1, reached with a logarithm.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from scipy.optimize import least_squares

__all__ = ["fit_flow", "solution"]


def solution(C: np.ndarray, s: np.ndarray) -> np.ndarray:
    """The x of dx/ds = C - x^2 that goes as 1/s for small s: regular in C at zero."""
    root = np.sqrt(np.abs(C)) * s
    small = root < 1e-3
    safe = np.where(small, 1.0, root)
    # cot beyond its branch has no meaning here: the flow has left the critical region.
    ordered = safe / np.tanh(safe)
    disordered = np.where(safe < np.pi, safe / np.tan(np.minimum(safe, 3.1)), -1e3)
    series = 1 + np.sign(C) * root**2 / 3
    return np.where(small, series, np.where(C > 0, ordered, disordered)) / s


def _model(parameters: np.ndarray, K: np.ndarray, log_size: np.ndarray) -> np.ndarray:
    K_c, a, b, c0, c1 = parameters
    t = K - K_c
    return solution(a * t + b * t**2, log_size + c0 + c1 * t)


def fit_flow(data: xr.Dataset) -> dict[str, Any]:
    """K_c with its error, fitted to all couplings and the lengths that the flow describes.

    Lengths are left out from below until chi-square per degree of freedom is at most 1.5,
    while three are left. Terms beyond the flow show where one more is left out: the error
    is the statistical one and that change, in quadrature.
    """
    K, n_sites = data["K"].values, data["n_sites"].values
    measured = (2 * data["square"] * data["K"] - 1).transpose("n_sites", "K").values
    error = (2 * data["square_error"] * data["K"]).transpose("n_sites", "K").values

    def fit(first: int) -> tuple[np.ndarray, float, float]:
        log_size = np.log(n_sites[first:])[:, None]

        def residual(parameters: np.ndarray) -> np.ndarray:
            difference = _model(parameters, K, log_size) - measured[first:]
            return (difference / error[first:]).ravel()

        found = least_squares(residual, [0.655, 1.0, 0.0, 6.0, 0.0], x_scale=[0.01, 1, 5, 2, 10])
        dof = max(len(found.fun) - len(found.x), 1)
        covariance = np.linalg.pinv(found.jac.T @ found.jac)
        chi_square = 2 * found.cost / dof
        return found.x, float(np.sqrt(covariance[0, 0] * max(chi_square, 1))), chi_square

    last = max(len(n_sites) - 3, 0)
    fits = [fit(first) for first in range(last + 1)]
    good = [i for i, (_, _, chi_square) in enumerate(fits) if chi_square <= 1.5]
    first = good[0] if good else last
    best, statistical, chi_square = fits[first]
    shifted = fits[min(first + 1, last)][0]
    return {
        "K_c": best[0],
        "K_c_error": float(np.hypot(statistical, best[0] - shifted[0])),
        "shortest": int(n_sites[first]),
        "K_c_statistical_error": statistical,
        "K_c_without_next_length": shifted[0],
        "chi_square_per_dof": chi_square,
        "magnetization_jump": float(1 / np.sqrt(2 * best[0])),
        "parameters": best,
    }
