"""Unigram and bigram models counted on tokens: what a language model has to beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize

FIRST_GUESS = (0.7, 1.0, 1.3)


def unigram_probability(documents: Sequence[np.ndarray], vocab_size: int) -> np.ndarray:
    """Compute each token's share of all tokens, with one count added so that none is zero."""
    counts = np.bincount(np.concatenate(documents), minlength=vocab_size) + 1.0
    return counts / counts.sum()


def bigram_counts(documents: Sequence[np.ndarray], vocab_size: int) -> np.ndarray:
    """Count neighbouring pairs inside documents, shape (previous, next)."""
    pairs = np.concatenate(
        [document[:-1].astype(np.int64) * vocab_size + document[1:] for document in documents]
    )
    return np.bincount(pairs, minlength=vocab_size**2).reshape(vocab_size, vocab_size)


def kneser_ney(counts: np.ndarray, discounts: Sequence[float]) -> np.ndarray:
    """Compute interpolated modified Kneser-Ney bigram probabilities (Chen and Goodman 1999).

    A pair seen once, twice, or three times and more loses the first, second or third discount.
    What is taken from the pairs that begin with a token is given back through the continuation
    probability: the share of distinct pairs that a next token ends.

    Parameters
    ----------
    counts : ndarray of int, shape (previous, next)
    discounts : sequence of 3 floats

    Returns
    -------
    ndarray of float64, shape (previous, next)
        Each row sums to one.
    """
    seen = counts > 0
    continuation = seen.sum(axis=0) + 1.0
    continuation /= continuation.sum()
    taken = np.concatenate([[0.0], discounts])[np.minimum(counts, 3)]
    total = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    kept = np.maximum(counts - taken, 0.0) / total
    return kept + (1.0 - kept.sum(axis=1, keepdims=True)) * continuation


def tune_discounts(counts: np.ndarray, documents: Sequence[np.ndarray]) -> np.ndarray:
    """Find the discounts that give documents not counted the highest likelihood.

    Parameters
    ----------
    counts : ndarray of int, shape (previous, next)
    documents : sequence of ndarray
        Tokens that are not in `counts`.

    Returns
    -------
    ndarray of float64, shape (3,)
    """
    target = bigram_counts(documents, len(counts))
    rows, columns = np.nonzero(target)
    weight = target[rows, columns]

    def loss(discounts: np.ndarray) -> float:
        return -np.average(np.log(kneser_ney(counts, discounts)[rows, columns]), weights=weight)

    bounds = [(0.01, 0.99), (0.01, 1.99), (0.01, 2.99)]
    options = {"xatol": 1e-3, "fatol": 1e-6}
    return minimize(loss, FIRST_GUESS, method="Nelder-Mead", bounds=bounds, options=options).x
