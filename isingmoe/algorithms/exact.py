"""Independent samples, for whatever `solve` can do."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from isingmoe._kernels.exact_sampling import (
    alias_tables,
    backward_messages,
    draw_alike,
    draw_ends,
    draw_windows,
)
from isingmoe._windows import Windows
from isingmoe.algorithms._sampler import Sampler, label_dtype
from isingmoe.chains import Chain

__all__ = ["Exact"]

# Messages of a ring that are kept, each set for one first window.
_MESSAGE_BYTES = 1 << 28


@dataclass(frozen=True)
class Exact:
    """Independent samples by messages from one end and draws from the other.

    For every chain that `solve` can do: any reach, any couplings and fields, sets of
    experts, open ends and rings, up to 4096 transfer states. A sweep draws a chain afresh.

    Notes
    -----
    Forward filtering and backward sampling, read from the other end: the messages run
    backwards from the last site, each site is drawn given those before it. Away from the
    ends all sites share one alias table, whose probabilities are those of the chain to
    2^-32.

    References
    ----------
    S. Fruhwirth-Schnatter, Finite Mixture and Markov Switching Models (2006), chapter 11;
    A. J. Walker, ACM Trans. Math. Softw. 3, 253 (1977).
    """

    def prepare(self, chain: Chain) -> Sampler:
        """Make the tables for a chain.

        Raises
        ------
        ValueError
            If the chain is infinite, or has more than 4096 transfer states.
        """
        if chain.n_sites is None:
            raise ValueError("n_sites: expected a finite chain to sample, got None; give n_sites")
        return _ExactSampler(chain)


class _ExactSampler:
    lanes = 1
    is_independent = True
    offset = 0.0

    def __init__(self, chain: Chain) -> None:
        self._windows = windows = Windows.of(chain)
        self._n_sites = int(chain.n_sites)  # type: ignore[arg-type]
        self._is_ring = chain.boundary == "periodic"
        # Weights of each row over the largest: what a row has in common cancels.
        self._transfer = np.exp(windows.step - windows.step.max(1, keepdims=True))
        self._field = np.exp(windows.site - windows.site.max(1, keepdims=True))
        self._dtype = label_dtype(chain.n_states)
        self._top_k = chain.top_k
        kept = _MESSAGE_BYTES // (8 * windows.n_windows * min(self._n_sites, 1 << 12))
        self._ring_messages = lru_cache(maxsize=max(kept, 1))(self._messages_to)
        self._first = self._ring_first() if self._is_ring else self._open_first()

    @cached_property
    def _scaled(self) -> NDArray:
        """Transfer weights over one common scale, for the messages."""
        step = self._windows.step
        return np.exp(step - step.max())

    @cached_property
    def _end_messages(self) -> NDArray:
        """Messages from an open end, (letters to come, S)."""
        start = self._windows.reach
        field = self._field if len(self._field) == 1 else self._field[start:]
        n_steps = max(self._n_sites - start, 0)
        if not len(field):
            field = self._field[:1]
        return backward_messages(self._scaled, field, np.ones(self._windows.n_windows), n_steps)[0]

    def _messages_to(self, first: int) -> tuple[NDArray, NDArray]:
        """Messages round the ring, back to its first window."""
        end = np.zeros(self._windows.n_windows)
        end[first] = 1
        return backward_messages(self._scaled, self._field, end, self._n_sites)

    def _open_first(self) -> NDArray:
        windows = self._windows
        log_weight = windows.first.copy()
        for r in range(1, windows.reach + 1):
            site = windows.site[windows.reach - r if len(windows.site) > 1 else 0]
            log_weight += site[windows.letter(r)]
        with np.errstate(divide="ignore"):
            log_weight += np.log(self._end_messages[-1])
        return _cumulative(log_weight)

    def _ring_first(self) -> NDArray:
        n = self._n_sites
        log_weight = np.empty(self._windows.n_windows)
        for first in range(len(log_weight)):
            messages, log_scale = self._ring_messages(first)
            m = len(messages) - 1
            slope = log_scale[m] - log_scale[m - 1]
            with np.errstate(divide="ignore"):
                log_weight[first] = log_scale[m] + (n - m) * slope + np.log(messages[m, first])
        return _cumulative(log_weight)

    @cached_property
    def _alike(self) -> tuple[NDArray, NDArray]:
        """Alias tables of the sites that the ends do not reach."""
        windows = self._windows
        message = self._ring_messages(0)[0][-1] if self._is_ring else self._end_messages[-1]
        x, b = np.arange(windows.n_windows)[:, None], np.arange(windows.n_letters)
        weight = self._transfer * self._field[0] * message[windows.after(x, b)]
        return alias_tables(weight / weight.sum(1, keepdims=True))

    def start(self, words: NDArray[np.uint64]) -> NDArray:
        """A first sample."""
        shape = (self._n_sites,) if self._top_k == 1 else (self._n_sites, self._top_k)
        state = np.empty(shape, self._dtype)
        self.advance(state, words, np.empty((1, *shape), self._dtype), 1)
        return state

    def advance(
        self, state: NDArray, words: NDArray[np.uint64], out: NDArray, n_sweeps: int
    ) -> None:
        """Fill `out` with independent samples; more sweeps would make no difference."""
        windows, n = self._windows, self._n_sites
        letters = out
        if self._top_k > 1:
            letters = np.empty(out.shape[:2], label_dtype(windows.n_letters))
        window = np.empty(len(out), np.int64)
        draw_windows(words, self._first, window)
        first = window.copy()
        for r in range(1, min(windows.reach, n) + 1):
            letters[:, windows.reach - r] = windows.letter(r)[window]
        if self._is_ring:
            for x in np.unique(first):
                rows = np.flatnonzero(first == x)
                self._draw_rest(words, self._ring_messages(int(x))[0], rows, window, letters)
        else:
            self._draw_rest(words, self._end_messages, np.arange(len(out)), window, letters)
        if self._top_k > 1:
            out[:] = windows.members[letters]
        state[:] = out[-1]

    def _draw_rest(
        self,
        words: NDArray[np.uint64],
        messages: NDArray,
        rows: NDArray[np.int64],
        window: NDArray[np.int64],
        letters: NDArray,
    ) -> None:
        """Draw the sites after the first window in some rows."""
        start, n = self._windows.reach, self._n_sites
        # The letters to come after the last site: those that lead back round a ring.
        beyond = start if self._is_ring else 0
        n_alike = max(n - start - max(len(messages) - 1 - beyond, 0), 0)
        if len(self._field) > 1:
            n_alike = 0
        if n_alike:
            stretch = letters[:, start : start + n_alike]
            if len(rows) == len(letters):
                draw_alike(words, *self._alike, window, stretch)
            else:
                part, drawn = window[rows], np.empty((len(rows), n_alike), letters.dtype)
                draw_alike(words, *self._alike, part, drawn)
                window[rows], stretch[rows] = part, drawn
        place = start + n_alike
        if place < n:
            to_come = n - 1 - np.arange(place, n) + beyond
            field = self._field if len(self._field) == 1 else self._field[place:]
            draw_ends(
                words,
                self._transfer,
                field,
                messages[np.minimum(to_come, len(messages) - 1)],
                rows,
                window,
                letters[:, place:],
            )


def _cumulative(log_weight: NDArray) -> NDArray:
    weight = np.exp(log_weight - log_weight.max())
    total = np.cumsum(weight)
    return total / total[-1]
