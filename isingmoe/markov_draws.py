"""Sequences of states drawn from a Markov chain, with the lengths and gaps of measured ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from isingmoe._kernels.exact_sampling import alias_tables, draw_alike, draw_windows
from isingmoe._seeds import Seed, generators

__all__ = ["MarkovDraws"]

Array = NDArray[np.floating]
States = NDArray[np.int16]


class MarkovDraws:
    """A Markov chain to draw from.

    Parameters
    ----------
    transition : ndarray (q, q)
        Rows that sum to one.
    law : ndarray (q,), optional
        Of the first state of a sequence; not needed where first states are given.
    """

    def __init__(self, transition: Array, law: Array | None = None) -> None:
        self._tables = alias_tables(np.ascontiguousarray(transition))
        self._cumulative = None
        if law is not None:
            self._cumulative = np.cumsum(law)
            self._cumulative[-1] = np.inf

    def like(self, states: States, seed: Seed, *, keep_first: bool = False) -> States:
        """Draw sequences of the same lengths and with the same gaps.

        Parameters
        ----------
        states : int16 ndarray (sequence, position)
            Those that were measured; -1 where there is none. The chain goes on across gaps.
        seed : int, SeedSequence or Generator
        keep_first : bool
            Whether every sequence begins with the first state that was measured.

        Returns
        -------
        int16 ndarray (sequence, position)
        """
        words = generators(seed, 1)[0]
        n, length = states.shape
        is_known = states >= 0
        begin = is_known.argmax(1) if keep_first else np.zeros(n, np.int64)
        window = np.zeros(n, np.int64)
        if keep_first:
            window = np.maximum(states[np.arange(n), begin], 0).astype(np.int64)
        else:
            draw_windows(words, self._cumulative, window)
        drawn = np.empty((n, length), np.int16)
        drawn[:, 0] = window
        after = np.empty((n, length - 1), np.uint16)
        draw_alike(words, *self._tables, window, after)
        drawn[:, 1:] = after
        if begin.any():
            place = np.maximum(np.arange(length) - begin[:, None], 0)
            drawn = np.take_along_axis(drawn, place, 1)
        drawn[~is_known] = -1
        return drawn
