"""Crossings of Binder cumulants, and where they go as rings get longer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xarray as xr
from scipy.optimize import least_squares
from scipy.special import zeta

import isingmoe as im

__all__ = ["critical_coupling", "follow", "image_ring"]

# Redrawn data sets behind an error.
_DRAWS = 200

# Correction exponents between which the extrapolation may choose.
_EXPONENTS = 0.3, 2.0


def image_ring(K: float, n_sites: int, alpha: float) -> im.IsingChain:
    """A ring of odd length where a spin also feels every periodic image of the others.

    Its couplings add up to those of the infinite chain, 2 K zeta(alpha). Without images a
    share L**-(alpha - 1) of them is missing, at alpha = 1.1 half of it for 1000 sites, and
    crossings say more about that than about the transition.
    """
    # Odd, so that every pair has one shorter distance.
    r = np.arange(1, (n_sites + 1) // 2) / n_sites
    decay = (zeta(alpha, r) + zeta(alpha, 1 - r)) / n_sites**alpha
    return im.IsingChain(
        J=K * decay[0], n_sites=n_sites, boundary="periodic", decay=decay / decay[0]
    )


def follow(
    sample: Callable[[np.ndarray, int, int], xr.Dataset],
    mean_field: float,
    sizes: list[int],
    n_samples: int,
) -> xr.Dataset:
    """Binder cumulants about the crossing, which is followed from length to length.

    `sample` takes couplings, length and number of samples. The couplings, seven to a
    length, are the variable K (n_sites, point).
    """
    K = mean_field * np.linspace(1.0, 2.4, 15)
    rough = [sample(K, n, n_samples // 2)["binder_cumulant"].values for n in (65, sizes[1])]
    # The longer ring has the smaller cumulant below the crossing and the larger one above.
    last = int(np.cumsum(rough[1] - rough[0])[:-1].argmin())
    centre = K[last : last + 2].mean()
    found: list[xr.Dataset] = []
    for n_sites in sizes:
        width = 0.04 * (sizes[0] / n_sites) ** 0.45
        now = sample(centre * np.linspace(1 - width, 1 + width, 7), n_sites, n_samples)
        found.append(now.reset_index("K").reset_coords("K").rename_dims(K="point"))
        if len(found) > 1:
            met = _crossing(*(_parabola(data, None) for data in found[-2:]), found[-1]["K"].values)
            centre = centre if np.isnan(met[0]) else met[0]
    return xr.concat(found, "n_sites").assign_coords(n_sites=sizes)


def critical_coupling(data: xr.Dataset, rng: np.random.Generator) -> dict[str, float]:
    """K_c of the infinite chain, from crossings that go as K_c + a L**-p.

    The whole way from the cumulants to K_c is repeated with redrawn cumulants: crossings
    share the data of a length. The error holds the spread, and what leaving out the
    shortest length changes.
    """
    couplings, cumulants = _crossings(data, None)
    draws = [_crossings(data, rng) for _ in range(_DRAWS)]
    spread = np.nanstd([K for K, _ in draws], axis=0)
    size = data["n_sites"].values[1:]
    K_c, p, cost = _extrapolate(size, couplings, spread)
    shorter = _extrapolate(size[1:], couplings[1:], spread[1:])[0]
    redrawn = [_extrapolate(size, K, spread)[0] for K, _ in draws if np.isfinite(K).all()]
    statistical = float(np.std(redrawn))
    return {
        "K_c": K_c,
        "K_c_error": float(np.hypot(statistical, K_c - shorter)),
        "K_c_statistical_error": statistical,
        "correction_exponent": p,
        "chi_square_per_dof": 2 * cost / max(len(size) - 3, 1),
        "last_crossing": float(couplings[-1]),
        "binder": float(cumulants[-1]),
        "binder_error": float(np.nanstd([U[-1] for _, U in draws])),
    }


def _parabola(data: xr.Dataset, rng: np.random.Generator | None) -> np.poly1d:
    """Through the cumulants of one length, redrawn within their errors if asked for."""
    K, U = data["K"].values, data["binder_cumulant"].values
    error = data["binder_cumulant_error"].values
    if rng is not None:
        U = U + error * rng.normal(size=len(U))
    return np.poly1d(np.polyfit(K, U, 2, w=1 / error))


def _crossing(small: np.poly1d, large: np.poly1d, K: np.ndarray) -> tuple[float, float]:
    """Coupling and cumulant where two lengths meet, at or near those sampled; else NaN."""
    difference = large - small
    real = np.real(difference.roots[np.isreal(difference.roots)])
    near = np.abs(real - K.mean()) <= 0.75 * np.ptp(K)
    fits = real[near & (difference.deriv()(real) > 0)]
    if not len(fits):
        return np.nan, np.nan
    return float(fits[0]), float(large(fits[0]))


def _crossings(data: xr.Dataset, rng: np.random.Generator | None) -> tuple[np.ndarray, ...]:
    """Couplings and cumulants where every length meets the one before."""
    rows = [data.isel(n_sites=i) for i in range(data.sizes["n_sites"])]
    curves = [_parabola(row, rng) for row in rows]
    met = [
        _crossing(small, large, row["K"].values)
        for small, large, row in zip(curves[:-1], curves[1:], rows[1:], strict=True)
    ]
    K, U = np.transpose(met)
    return K, U


def _extrapolate(size: np.ndarray, K: np.ndarray, error: np.ndarray) -> tuple[float, float, float]:
    """K_c, the exponent of the correction, and half the sum of squares."""
    scaled = size / size[-1]
    known = np.isfinite(K)

    def residual(parameters: np.ndarray) -> np.ndarray:
        K_c, a, p = parameters
        return ((K_c + a * scaled**-p - K) / error)[known]

    start = [K[known][-1], 0.0, 0.8]
    low, high = _EXPONENTS
    found = least_squares(
        residual,
        start,
        x_scale=[0.01 * start[0], 0.01 * start[0], 1],
        bounds=([0, -np.inf, low], [np.inf, np.inf, high]),
    )
    return float(found.x[0]), float(found.x[2]), float(found.cost)
