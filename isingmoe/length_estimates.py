"""One correlation length by three estimators, and how they compare."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from isingmoe import _provenance
from isingmoe._text import about

__all__ = ["ESTIMATORS", "correlation_lengths"]

Array = NDArray[np.floating]

ESTIMATORS = ("transfer", "exponential", "second-moment")
_MEASURED = ("correlation_length", "second_moment_length")
_NORMAL = float(norm.ppf(0.975))


def correlation_lengths(
    measured: xr.Dataset, length: ArrayLike, length_error: ArrayLike
) -> xr.Dataset:
    """Correlation length of the fitted chain beside the two that are measured.

    Parameters
    ----------
    measured : Dataset
        From `correlation`: `correlation_length` and `second_moment_length`, each with `_low`
        and `_high` (layer).
    length : array_like (layer,)
        Correlation length of the fitted chain, in tokens: -1 / ln of the second eigenvalue's
        modulus of its transfer matrix.
    length_error : array_like (layer,)
        Its standard error; NaN where it is not known.

    Returns
    -------
    Dataset
        Over (layer, estimator), the estimators "transfer" (the fitted chain), "exponential" and
        "second-moment" (the data): `length` in tokens with `length_low` and `length_high`
        of a 95 % interval, and `length_ratio`, each over that of the fitted chain, with
        `length_ratio_low` and `length_ratio_high`, NaN of the chain itself.

    Raises
    ------
    TypeError
        If `measured` is not a Dataset.
    ValueError
        If it lacks a length, or the numbers of layers differ.

    Notes
    -----
    A length is positive: its error is taken as normal in its logarithm. Intervals of ratios
    join the two intervals' distances to their estimates in quadrature, again in logarithms
    (Zou and Donner 2008), as if fit and measurement were independent; of the same traces they
    err together, and the interval is rather too wide. Where a measured length is 0 or
    infinite, or one end is, the ends of the two intervals are divided.

    References
    ----------
    G. Y. Zou and A. Donner, Stat. Med. 27, 1693 (2008).
    """
    names = [name + end for name in _MEASURED for end in ("", "_low", "_high")]
    if not isinstance(measured, xr.Dataset):
        raise TypeError(
            f"measured: expected a Dataset from isingmoe.correlation, got {type(measured).__name__}"
        )
    missing = [name for name in names if name not in measured or measured[name].dims != ("layer",)]
    if missing:
        raise ValueError(
            f"measured: expected {missing[0]} (layer), got none; make it with isingmoe.correlation"
        )
    predicted, error = np.asarray(length, float), np.asarray(length_error, float)
    n_layers = measured.sizes["layer"]
    if predicted.shape != (n_layers,) or error.shape != (n_layers,):
        raise ValueError(
            f"length, length_error: expected shape ({n_layers},) as measured, got "
            f"{predicted.shape} and {error.shape}"
        )
    chain = (predicted, *_log_normal(predicted, error))
    found = [
        [measured[name + end].values.astype(float) for end in ("", "_low", "_high")]
        for name in _MEASURED
    ]
    ratios = [_ratio(own, chain) for own in found]
    itself = (np.where(predicted > 0, 1.0, np.nan), *2 * (np.full(n_layers, np.nan),))
    columns = {
        "length": ([chain, *found], about("correlation length", "token")),
        "length_ratio": ([itself, *ratios], about("correlation length over the chain's")),
    }
    ends = ("", ", lower end of the 95 % interval", ", upper end of the 95 % interval")
    return xr.Dataset(
        {
            name + suffix: (
                ("layer", "estimator"),
                np.stack([row[i] for row in rows], 1),
                text | {"long_name": text["long_name"] + ends[i]},
            )
            for name, (rows, text) in columns.items()
            for i, suffix in enumerate(("", "_low", "_high"))
        },
        coords={"layer": measured["layer"], "estimator": list(ESTIMATORS)},
        attrs={
            "provenance": _provenance.record(
                "correlation_lengths", {}, inputs={"measured": _provenance.describe(measured)}
            )
        },
    )


def _log_normal(value: Array, error: Array) -> tuple[Array, Array]:
    """Ends of the interval of a positive quantity; NaN where it is not positive and finite."""
    is_usual = (value > 0) & np.isfinite(value) & (error >= 0)
    safe = np.where(is_usual, value, 1.0)
    reach = _NORMAL * np.where(is_usual, error, np.nan) / safe
    with np.errstate(over="ignore"):
        return safe * np.exp(-reach), safe * np.exp(reach)


def _ratio(over: Sequence[Array], under: Sequence[Array]) -> tuple[Array, Array, Array]:
    """Quotient of two quantities with intervals; NaN where it has no meaning."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        value, low, high = map(np.log, over)
        other, other_low, other_high = map(np.log, under)
        ratio = value - other
        by_quadrature = (
            ratio - np.hypot(value - low, other_high - other),
            ratio + np.hypot(high - value, other - other_low),
        )
        by_ends = (low - other_high, high - other_low)
        is_usual = np.isfinite(value) & np.isfinite(other)
        ends = [
            np.where(is_usual & np.isfinite(end), joined, divided)
            for joined, divided, end in zip(by_quadrature, by_ends, (low, high), strict=True)
        ]
        return np.exp(ratio), np.exp(ends[0]), np.exp(ends[1])
