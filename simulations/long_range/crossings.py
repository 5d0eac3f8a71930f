"""Crossings of Binder cumulants, and where they go as rings get longer."""

from __future__ import annotations

import numpy as np
import xarray as xr
from rings import sample
from scipy.optimize import least_squares
from scipy.special import zeta

import isingmoe as im

__all__ = ["critical_coupling", "follow"]

# Redrawn data sets behind an error.
_DRAWS = 200

# Correction exponents between which the extrapolation may choose.
_EXPONENTS = 0.3, 2.0


def follow(
    chain: im.IsingChain, *, sizes: tuple[int, ...], n_samples: int, seed: np.random.SeedSequence
) -> xr.Dataset:
    """Binder cumulants about the crossing, which is followed from length to length.

    For the decay of the chain on rings with images. The couplings, seven to a length, are
    the variable K (n_sites, point).
    """
    alpha = chain.decay.alpha
    entropy = [int(word) for word in seed.generate_state(4)]

    def scan(K: np.ndarray, n_sites: int, count: int, stage: int) -> xr.Dataset:
        data = sample(K, n_sites, alpha, count, (*entropy, stage))
        return data.reset_index("K").reset_coords("K").rename_dims(K="point")

    # The longer ring has the smaller cumulant below the crossing and the larger one above.
    K = np.linspace(1.0, 2.4, 29) / (2 * zeta(alpha))
    small, large = (scan(K, n, n_samples // 2, 0)["binder_cumulant"] for n in (65, sizes[1]))
    last = int(np.cumsum((large - small).values)[:-1].argmin())
    centre = K[last : last + 2].mean()
    K = centre * np.linspace(0.92, 1.08, 15)
    first = [scan(K, n, n_samples // 2, 1) for n in sizes[:2]]
    centre = _met(*first, centre)
    found: list[xr.Dataset] = []
    for n_sites in sizes:
        width = 0.04 * (sizes[0] / n_sites) ** 0.45
        K = centre * np.linspace(1 - width, 1 + width, 7)
        found.append(scan(K, n_sites, n_samples, 2))
        if len(found) > 1:
            centre = _met(*found[-2:], centre)
    return xr.concat(found, "n_sites").assign_coords(n_sites=list(sizes))


def critical_coupling(data: xr.Dataset, rng: np.random.Generator) -> dict[str, float]:
    """K_c of the infinite chain, from crossings that go as K_c + a L**-p.

    The whole way from the cumulants to K_c is repeated with redrawn cumulants: crossings
    share the data of a length. The error holds the spread, widened where crossings lie
    farther from the curve than it lets expect, and what leaving out the shortest changes.
    """
    couplings, cumulants = _crossings(data, None)
    known = np.isfinite(couplings)
    if not known.any():
        raise ValueError("binder_cumulant: no two lengths cross; take more samples")
    draws = [_crossings(data, rng) for _ in range(_DRAWS)]
    spread = np.full(len(couplings), np.inf)
    spread[known] = np.nanstd([K[known] for K, _ in draws], axis=0)
    size = data["n_sites"].values[1:]
    K_c, p, cost = _extrapolate(size, couplings, spread)
    shorter = _extrapolate(size[1:], couplings[1:], spread[1:])[0] if known[1:].any() else K_c
    redrawn = [_extrapolate(size, K, spread)[0] for K, _ in draws if np.isfinite(K).any()]
    statistical = float(np.std(redrawn))
    chi_square = 2 * cost / max(int(known.sum()) - 3, 1)
    widened = statistical * max(1.0, np.sqrt(chi_square))
    return {
        "K_c": K_c,
        "K_c_error": float(np.hypot(widened, K_c - shorter)),
        "K_c_statistical_error": statistical,
        "correction_exponent": p,
        "chi_square_per_dof": chi_square,
        "last_crossing": float(couplings[known][-1]),
        "binder": float(cumulants[known][-1]),
        "binder_error": float(np.nanstd([U[known][-1] for _, U in draws])),
    }


def _met(small: xr.Dataset, large: xr.Dataset, centre: float) -> float:
    """Where two lengths cross, or the centre again."""
    met = _crossing(_parabola(small, None), _parabola(large, None), large["K"].values)[0]
    return centre if np.isnan(met) else met


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
