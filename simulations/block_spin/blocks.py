"""Correlations of block rates, and the lengths read off them."""

from __future__ import annotations

import numpy as np
import xarray as xr
from decimation import about
from numpy.typing import NDArray
from texts import Texts

Array = NDArray[np.floating]

CENTRES = ("global", "position", "text")
# Lags, in blocks, at every block size; the fit uses the first few, so that what it measures
# is the decay on the scale of the block.
N_LAGS = 32
N_FITTED = 8
# A correlation counts as seen above so many of its standard errors.
SEEN = 2.0
N_RESAMPLES = 400


def measured(texts: Texts, factors: list[int], seed: np.random.SeedSequence) -> xr.Dataset:
    """Correlation of block rates and its lengths, with errors by a bootstrap over sets.

    Parameters
    ----------
    texts : Texts
        All of one length.
    factors : list of int
        Block sizes, each twice the one before.
    seed : SeedSequence

    Returns
    -------
    Dataset
        Over (centre, block): `fitted_length` and `second_moment_length`, in tokens, each
        with `_low` and `_high` of a 95 % interval, and `n_seen`; `correlation` and its
        `correlation_error` over (centre, block, lag).
    """
    rng = np.random.default_rng(seed)
    n_sets = len(texts.sets)
    resampled = rng.multinomial(n_sets, np.full(n_sets, 1 / n_sets), N_RESAMPLES).astype(float)
    weights = np.vstack([np.ones(n_sets), resampled])
    rates = [np.eye(texts.n_states, dtype=np.float32)[labels] for labels in texts.sets]
    shape = (len(CENTRES), len(factors))
    curve, error = (np.full((*shape, N_LAGS + 1), np.nan) for _ in range(2))
    length = np.full((2, 3, *shape), np.nan)
    n_seen = np.zeros(shape, np.int64)
    for j, b in enumerate(factors):
        if j:
            rates = [(rate[:, ::2] + rate[:, 1::2]) / 2 for rate in rates]
        for i, centre in enumerate(CENTRES):
            curves = correlations(rates, centre, weights)
            n_lags = curves.shape[1]
            own, spread = curves[0], curves[1:].std(0)
            curve[i, j, :n_lags], error[i, j, :n_lags] = own, spread
            seen = int((own[1:] > SEEN * spread[1:]).cumprod().sum())
            n_seen[i, j] = seen
            for k, estimate in enumerate((fitted_length, second_moment_length)):
                values = b * estimate(curves, spread, seen)
                # Of resamples without decay some are infinite: take values, do not interpolate.
                ends = np.quantile(values[1:], [0.025, 0.975], method="nearest")
                length[k, :, i, j] = values[0], *ends
    dims = ("centre", "block")
    variables = {}
    for k, name in enumerate(("fitted_length", "second_moment_length")):
        for m, suffix in enumerate(("", "_low", "_high")):
            meaning = name.replace("_", " ") + suffix.replace("_", ", 95 % ")
            variables[name + suffix] = (dims, length[k, m], about(meaning, "token"))
    return xr.Dataset(
        {
            **variables,
            "n_seen": (dims, n_seen, about("lags seen above twice their error", "1")),
            "correlation": (
                (*dims, "lag"),
                curve.astype(np.float32),
                about("connected correlation of the block rates", "1"),
            ),
            "correlation_error": (
                (*dims, "lag"),
                error.astype(np.float32),
                about("standard error of the correlation", "1"),
            ),
            "own_length": ((), texts.length, about("correlation length of the chain", "token")),
        },
        coords={
            "centre": list(CENTRES),
            "block": ("block", factors, about("tokens in a block", "token")),
            "lag": ("lag", np.arange(N_LAGS + 1), about("distance", "block")),
        },
    )


def correlations(rates: list[Array], centre: str, weights: Array) -> Array:
    """Connected correlation of block rates summed over experts, for each row of weights.

    Parameters
    ----------
    rates : list of ndarray (text, block, expert)
        One for each set.
    centre : str
        The mean that is taken off: of all, at each position, or of each text.
    weights : ndarray (resample, set)

    Returns
    -------
    ndarray (resample, lag)
    """
    n_blocks = rates[0].shape[1]
    lags = np.arange(min(N_LAGS, n_blocks - 1) + 1)
    n_texts = np.array([len(rate) for rate in rates])
    correction = 1.0
    if centre == "position":
        mean = np.concatenate(rates).mean(0)
        correction = n_texts.sum() / (n_texts.sum() - 1)
        rates = [rate - mean for rate in rates]
    shared = np.array([products(rate)[: len(lags)] for rate in rates])
    pairs = n_texts[:, None] * (n_blocks - lags)
    raw = (weights @ shared) / (weights @ pairs)
    if centre == "position":
        return raw * correction
    if centre == "global":
        load = (weights @ np.array([rate.sum((0, 1), dtype=float) for rate in rates])) / (
            weights @ n_texts * n_blocks
        )[:, None]
        return raw - (load**2).sum(1)[:, None]
    total = [rate.sum(1, dtype=float) for rate in rates]
    different = np.array([(sums**2).sum() for sums in total]) - shared[:, 0]
    chance = (weights @ different) / (weights @ n_texts * n_blocks * (n_blocks - 1))
    # The mean over pairs of different blocks holds the correlated pairs too; what they add
    # is given back, for lags up to a quarter of the text.
    share = 2 * (n_blocks - lags) / (n_blocks * (n_blocks - 1))
    share[(lags == 0) | (4 * lags > n_blocks)] = 0
    excess = raw - chance[:, None]
    return excess + (excess @ share / (1 - share.sum()))[:, None]


def products(rate: Array) -> Array:
    """Sums over texts, pairs of blocks and experts, for every lag."""
    n_blocks = rate.shape[1]
    spectrum = np.fft.rfft(rate.astype(float), 2 * n_blocks, axis=1)
    return np.fft.irfft((np.abs(spectrum) ** 2).sum((0, 2)), 2 * n_blocks)[:n_blocks]


def fitted_length(curve: Array, error: Array, n_seen: int) -> Array:
    """Length of A exp(-d / xi) fitted to the first lags that are seen, from 1 on, in blocks.

    Parameters
    ----------
    curve : ndarray (resample, lag)
    error : ndarray (lag,)
    n_seen : int
        Last lag that is seen.

    Returns
    -------
    ndarray (resample,)
        NaN with fewer than two lags; inf where the curve does not fall.

    Notes
    -----
    Least squares of ln C with weights (C / error)^2. C(0) stays out: it holds the variance
    of a block's own tokens, which does not lie on the curve of the others.
    """
    if n_seen < 2:
        return np.full(len(curve), np.nan)
    n_seen = min(n_seen, N_FITTED)
    d = np.arange(1, n_seen + 1)
    value = curve[:, 1 : n_seen + 1]
    weight = np.where(value > 0, value / error[1 : n_seen + 1], 0) ** 2
    weight /= np.maximum(weight.sum(1, keepdims=True), 1e-300)
    log_value = np.log(np.maximum(value, 1e-300))
    centred = d - (weight * d).sum(1, keepdims=True)
    variance = (weight * centred**2).sum(1)
    slope = (weight * centred * log_value).sum(1) / np.maximum(variance, 1e-300)
    falls = slope < -1e-12
    return np.where(falls, -1 / np.where(falls, slope, -1), np.inf)


def second_moment_length(curve: Array, _error: Array, n_seen: int) -> Array:
    """Length from the second moment over the lags that are seen and lag 0, in blocks.

    With m = sum d^2 C(d) / (2 sum C(d)) over all integers d, an exponential on a lattice has
    m = 1 / (4 sinh^2(1 / (2 xi))). NaN without a lag beyond 0.
    """
    if n_seen < 1:
        return np.full(len(curve), np.nan)
    d = np.arange(n_seen + 1)
    value = np.maximum(curve[:, : n_seen + 1], 0) * np.where(d == 0, 1, 2)
    m = (value * d**2).sum(1) / (2 * np.maximum(value.sum(1), 1e-300))
    return 1 / (2 * np.arcsinh(1 / (2 * np.sqrt(np.maximum(m, 1e-300)))))


def exact_blocks(correlation: Array, b: int) -> Array:
    """Correlation of block rates from that of tokens, at lags 0 to `N_LAGS`."""
    d = b * np.arange(N_LAGS + 1)[:, None]
    j = np.arange(-b + 1, b)
    return ((b - np.abs(j)) * correlation[np.abs(d + j)]).sum(1) / b**2
