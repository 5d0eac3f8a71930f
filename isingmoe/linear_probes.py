"""Multinomial logistic regression of labels on features, scored on tokens it has not seen."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from isingmoe.folds import ratio_error

__all__ = [
    "MAX_ITERATIONS",
    "SPLITS",
    "Interval",
    "Scored",
    "counting_error",
    "interval_of",
    "prediction_interval",
    "scored",
]

SPLITS = ("token", "sequence")
# Steps of the regression; most need a tenth.
MAX_ITERATIONS = 1000

Array = NDArray[Any]


class Scored(NamedTuple):
    """A probe on tokens that it has not seen.

    Attributes
    ----------
    correct, majority : bool ndarray (token,)
        Whether the probe, and the commonest class of the training tokens, is right.
    n_unconverged, n_fits : int
        Regressions that stopped before their gradient vanished, and all.
    """

    correct: NDArray[np.bool_]
    majority: NDArray[np.bool_]
    n_unconverged: int
    n_fits: int


class Interval(NamedTuple):
    """A value with its standard error and its 95 % interval."""

    value: float
    error: float
    low: float
    high: float


def scored(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    sequence: NDArray[np.int64],
    *,
    split: str,
    n_folds: int,
    seed: int,
) -> Scored:
    """Score a probe by stratified cross-validation.

    Parameters
    ----------
    features : float32 ndarray (token, feature)
    labels, sequence : int ndarray (token,)
    split : {"token", "sequence"}
        Whether tokens or whole sequences are held out.
    n_folds : int
    seed : int
        Of the folds.

    Returns
    -------
    Scored

    Raises
    ------
    ImportError
        If scikit-learn is not installed.
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise ImportError("probing needs scikit-learn: pip install 'isingmoe[probe]'") from error
    if split == "token":
        tokens = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
        folds = tokens.split(features, labels)
    else:
        sequences = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
        folds = sequences.split(features, labels, sequence)
    correct, majority = np.zeros((2, len(labels)), bool)
    n_unconverged = n_fits = 0
    for train, test in folds:
        known, number = np.unique(labels[train], return_counts=True)
        commonest = known[number.argmax()]
        majority[test] = labels[test] == commonest
        if len(known) < 2 or not len(test):
            correct[test] = majority[test]
            continue
        regression = LogisticRegression(max_iter=MAX_ITERATIONS)
        model = make_pipeline(StandardScaler(), regression)
        with warnings.catch_warnings():
            # Told once for all of them, by the number below.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(features[train], labels[train])
        correct[test] = model.predict(features[test]) == labels[test]
        n_fits += 1
        n_unconverged += int(regression.n_iter_.max() >= MAX_ITERATIONS)
    return Scored(correct, majority, n_unconverged, n_fits)


def interval_of(correct: NDArray[np.bool_], sequence: NDArray[np.int64]) -> Interval:
    """The share of tokens that are right, its error by the spread of the sequences.

    Returns
    -------
    Interval
        With error and interval NaN for a single sequence.
    """
    _, unit = np.unique(sequence, return_inverse=True)
    sums, counts = np.bincount(unit, correct), np.bincount(unit)
    value, error = float(correct.mean()), ratio_error(sums, counts)
    if np.isnan(error):
        return Interval(value, np.nan, np.nan, np.nan)
    half = float(student.ppf(0.975, len(counts) - 1)) * error
    return Interval(value, error, max(value - half, 0.0), min(value + half, 1.0))


def prediction_interval(
    draws: Iterable[float], value: float, least_spread: float = 0.0
) -> tuple[Interval, float]:
    """Where a value lies 95 % of the time that is drawn as some draws were.

    Parameters
    ----------
    draws : iterable of float
    value : float
    least_spread : float
        Standard deviation that the value has at least, for its p-value.

    Returns
    -------
    Interval
        Of the next draw; its value is the mean. NaN with fewer than two draws.
    float
        The chance that a draw is as large as the value, or larger.
    """
    known = np.array(list(draws))
    if len(known) < 2:
        return Interval(*[np.nan] * 4), np.nan
    mean, n = float(known.mean()), len(known)
    spread = float(known.std(ddof=1)) * np.sqrt(1 + 1 / n)
    half = float(student.ppf(0.975, n - 1)) * spread
    interval = Interval(mean, spread, max(mean - half, 0.0), min(mean + half, 1.0))
    scale = max(spread, least_spread)
    # Where nothing scatters, nothing is told.
    p = float(student.sf((value - mean) / scale, n - 1)) if scale > 0 else 1.0
    return interval, p


def counting_error(found: Scored) -> float:
    """How far an accuracy scatters by the tokens in which the probe leaves the commonest class.

    A probe that all but always tells the commonest class has controls that do the same, all
    of one accuracy; the few tokens in which it differs may be right by chance.
    """
    return float(np.sqrt((found.correct != found.majority).sum()) / len(found.correct))
