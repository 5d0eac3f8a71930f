"""Slow, obvious twins of the fits of decays, and data to fit."""

import itertools

import numpy as np
import xarray as xr
from scipy.optimize import brentq, minimize, minimize_scalar


def decay_length(curve, error, last, sign):
    """Length of A exp(-d / xi) by minimising chi2 over ln xi, first on a fine grid."""
    d = np.arange(1, last + 1)
    y, weight = (curve * sign)[1 : last + 1], error[1 : last + 1] ** -2.0
    if last == 1:
        return -1 / np.log(y[0] / (curve * sign)[0])

    def chi2(log_length):
        model = np.exp(-d / np.exp(log_length))
        amplitude = max((weight * y * model).sum() / (weight * model**2).sum(), 0)
        return (weight * (y - amplitude * model) ** 2).sum()

    grid = np.linspace(np.log(0.05), np.log(1e5), 2000)
    place = np.argmin([chi2(g) for g in grid])
    bracket = grid[max(place - 1, 0)], grid[min(place + 1, len(grid) - 1)]
    return np.exp(
        minimize_scalar(chi2, bounds=bracket, method="bounded", options={"xatol": 1e-9}).x
    )


def moment_length(curve, last, sign):
    """Length of the exponential with the same mean of d^2 over -last..last, by bisection."""

    def mean_square(values):
        weight = [values[abs(d)] for d in range(-last, last + 1)]
        return sum(w * d**2 for w, d in zip(weight, range(-last, last + 1), strict=True)) / sum(
            weight
        )

    wanted = mean_square(curve * sign)

    def excess(log_length):
        return mean_square(np.exp(-np.arange(last + 1) / np.exp(log_length))) - wanted

    return np.exp(brentq(excess, np.log(1e-2), np.log(1e6), xtol=1e-13))


def law_curve(name, p, d):
    """A decay law written out."""
    return {
        "exponential": lambda a, length: a * np.exp(-d / length),
        "power-law": lambda a, alpha: a * d**-alpha,
        "stretched": lambda a, length, beta: a * np.exp(-((d / length) ** beta)),
        "exponential+constant": lambda a, length, c: a * np.exp(-d / length) + c,
        "two-exponentials": lambda a, length, b, other: (
            a * np.exp(-d / length) + b * np.exp(-d / other)
        ),
    }[name](*p)


def law_chi2(name, distance, mean, data, covariance, start):
    """Chi2 of a law by direct minimisation over all its parameters, and those."""
    inverse = np.linalg.inv(covariance)
    inside = {"stretched": ((1, 1e-9, 1e9), (2, 0.2, 3.0))}.get(name, ())

    def chi2(p):
        if any(not low <= p[place] <= high for place, low, high in inside):
            return 1e300
        with np.errstate(all="ignore"):
            rest = data - mean @ law_curve(name, p, distance)
            value = rest @ inverse @ rest
        return value if np.isfinite(value) else 1e300

    p = np.array(start, float)
    for _ in range(3):
        p = minimize(
            chi2, p, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-10, "maxiter": 2000}
        ).x
    return chi2(p), p


def law_bins(distance, n_bins):
    """Bins of successive distances, one for each as far as they last, then in proportion."""
    for growth in np.geomspace(1, 4, 400):
        edges = [distance[0]]
        while edges[-1] <= distance[-1]:
            edges.append(max(edges[-1] + 1, round(edges[-1] * growth)))
        inside = [[d for d in distance if a <= d < b] for a, b in itertools.pairwise(edges)]
        inside = [members for members in inside if members]
        if len(inside) <= n_bins:
            return inside
    return [list(distance)]


def noisy_curves(mean, spread, n_sequences, rng, memory=5.0):
    """Curves (sequence, distance) whose noise is correlated over the distances."""
    z = rng.normal(size=(n_sequences, len(mean)))
    kept = np.exp(-1 / memory)
    noise = np.empty_like(z)
    noise[:, 0] = z[:, 0]
    for d in range(1, len(mean)):
        noise[:, d] = kept * noise[:, d - 1] + np.sqrt(1 - kept**2) * z[:, d]
    return mean + spread * noise


def measured_curves(curves, n_resamples, seed):
    """What `correlation` returns, for the mean of given curves (layer, sequence, distance)."""
    rng = np.random.default_rng(seed)
    n_layers, n_sequences, n_distances = curves.shape
    even = np.full(n_sequences, 1 / n_sequences)
    weights = rng.multinomial(n_sequences, even, size=n_resamples) / n_sequences
    resample = np.einsum("rs,lsd->lrd", weights, curves)
    return xr.Dataset(
        {
            "correlation": (("layer", "distance"), curves.mean(1)),
            "correlation_error": (("layer", "distance"), resample.std(1, ddof=1)),
            "resample": (("layer", "resample", "distance"), resample),
        },
        coords={"layer": np.arange(n_layers), "distance": np.arange(n_distances)},
        attrs={"n_sequences": n_sequences},
    )
