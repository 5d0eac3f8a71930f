"""Independent samples, for whatever `solve` can do."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from isingmoe._kernels.exact_sampling import (
    alias_tables,
    draw_alike,
    draw_ends,
    draw_letters,
    draw_windows,
    returns,
)
from isingmoe._kernels.messages import ahead, backward_messages
from isingmoe._windows import Windows
from isingmoe.algorithms._kinetic import KineticSampler
from isingmoe.algorithms._sampler import Sampler, label_dtype
from isingmoe.chains import AnyChain, KineticChain
from isingmoe.infinite import StationaryChain, stationary_chain

__all__ = ["Exact"]

# Messages of a ring that are kept, each set for one first window.
_MESSAGE_BYTES = 1 << 28
# Relative change by an end of the chain below which sites are alike.
_SETTLED = 1e-13
# A ring so many correlation lengths long does not feel that it is one.
_LOST = 60
# A message smaller than this, the largest being one, has lost digits or all of them.
_SMALLEST = 1e-250
# Up to so many windows the powers of a whole matrix are quicker.
_FEW_WINDOWS = 512


@dataclass(frozen=True)
class Exact:
    """Independent samples by messages from one end and draws from the other.

    For every chain that `solve` can do: any reach, any couplings and fields, sets of
    experts, open ends and rings, up to 4096 transfer states; and for every kinetic chain,
    which is drawn from its start and needs no messages. A sweep draws a chain afresh.

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

    def prepare(self, chain: AnyChain) -> Sampler:
        """Make the tables for a chain.

        Raises
        ------
        ValueError
            If the chain is infinite, or in equilibrium and has more than 4096 transfer
            states.
        """
        if chain.n_sites is None:
            raise ValueError("n_sites: expected a finite chain to sample, got None; give n_sites")
        if isinstance(chain, KineticChain):
            return KineticSampler(chain)
        return _ExactSampler(chain)


class _ExactSampler:
    """Draws letter by letter, with the weight of everything that follows a letter.

    With one field for all sites the weights are those of the infinite chain, read as a
    Markov chain, and the messages say how an end of the chain changes them: far from it
    they are one, and there all sites share a table. With a field for each site the weights
    are those of the bonds, and every site has a message.
    """

    lanes = 1
    is_independent = True
    offset = 0.0

    def __init__(self, chain: AnyChain) -> None:
        self.windows = windows = Windows.of(chain)
        self._n_sites = int(chain.n_sites)  # type: ignore[arg-type]
        self._is_ring = chain.boundary == "periodic"
        self._dtype = label_dtype(chain.n_states)
        self._top_k = chain.top_k
        self._is_alike = len(windows.site) == 1
        self._is_wide = False
        if not self._is_alike:
            self._weight = np.exp(windows.step - windows.step.max(1, keepdims=True))
            self._field = np.exp(windows.site - windows.site.max(1, keepdims=True))
            messages = self._field_messages()
            self._is_wide = messages is None
            self._end_messages = self._log_messages() if messages is None else messages
            self._first = self._open_first(np.zeros(windows.n_windows))
            return
        infinite = stationary_chain(windows)
        self._weight = infinite.transition
        self._field = np.ones((1, windows.n_letters))
        self._alike = alias_tables(infinite.transition)
        self._right = infinite.right
        if self._is_ring:
            kept = _MESSAGE_BYTES // (8 * windows.n_windows * min(self._n_sites, 1 << 12))
            self._ring_messages = lru_cache(maxsize=max(kept, 1))(self._messages_to)
            self._first = self._ring_first(infinite)
        else:
            n_steps = max(self._n_sites - windows.reach, 0)
            self._end_messages = backward_messages(self._weight, 1 / self._right, n_steps, _SETTLED)
            self._first = self._open_first(np.log(self._right))

    def _field_messages(self) -> NDArray | None:
        """Messages from an open end, with a field for each site; None where some are lost."""
        windows, n = self.windows, self._n_sites
        # Over one common scale, as rows are compared with each other.
        bonds = np.exp(windows.step - windows.step.max())
        messages = np.ones((max(n - windows.reach, 0) + 1, windows.n_windows))
        for i in range(1, len(messages)):
            ahead(bonds * self._field[n - i], messages[i - 1], messages[i])
            top = messages[i].max()
            if not messages[i].min() > _SMALLEST * top:
                return None
            messages[i] /= top
        return messages

    def _log_messages(self) -> NDArray:
        """The logarithms of the messages, for weights beyond the range of a double."""
        windows, n = self.windows, self._n_sites
        after = _followers(windows)
        messages = np.zeros((max(n - windows.reach, 0) + 1, windows.n_windows))
        for i in range(1, len(messages)):
            weight = windows.step + windows.site[n - i] + messages[i - 1][after]
            messages[i] = logsumexp(weight, axis=1)
            messages[i] -= messages[i].max()
        return messages

    def _messages_to(self, first: int) -> NDArray:
        """Messages round a ring, back to its first window."""
        end = np.zeros(self.windows.n_windows)
        end[first] = 1 / self._right[first]
        return backward_messages(self._weight, end, self._n_sites, _SETTLED)

    def _open_first(self, log_right: NDArray) -> NDArray:
        """Windows of the first sites, from what is inside them and what follows."""
        windows = self.windows
        log_weight = windows.first.copy()
        for r in range(1, windows.reach + 1):
            site = windows.site[0 if self._is_alike else windows.reach - r]
            log_weight += site[windows.letter(r)]
        last = self._end_messages[-1]
        log_weight += log_right + (last if self._is_wide else np.log(last))
        return _cumulative(np.exp(log_weight - log_weight.max()))

    def _ring_first(self, infinite: StationaryChain) -> NDArray:
        """Windows of the first sites, by their chance to come round to themselves."""
        n = self._n_sites
        if n > infinite.memory * _LOST:
            return _cumulative(infinite.stationary)
        if infinite.windows.n_windows > _FEW_WINDOWS:
            return _cumulative(returns(infinite.transition, n))
        whole = np.zeros((self.windows.n_windows,) * 2)
        np.put_along_axis(whole, _followers(self.windows), infinite.transition, axis=1)
        return _cumulative(np.diag(np.linalg.matrix_power(whole, n)).copy())

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
        windows, n = self.windows, self._n_sites
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
                self._draw_rest(words, self._ring_messages(int(x)), rows, window, letters)
        elif self._is_wide:
            self._draw_wide(words, window, letters)
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
        start, n = self.windows.reach, self._n_sites
        # The letters to come after the last site: those that lead back round a ring.
        beyond = start if self._is_ring else 0
        n_alike = max(n - start - (len(messages) - 1 - beyond), 0) if self._is_alike else 0
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
            draw_ends(
                words,
                self._weight,
                self._field if self._is_alike else self._field[place:],
                messages[np.minimum(to_come, len(messages) - 1)],
                rows,
                window,
                letters[:, place:],
            )

    def _draw_wide(self, words: NDArray[np.uint64], window: NDArray, letters: NDArray) -> None:
        """Draw the sites after the first window, site by site, by their log-weights."""
        windows, n = self.windows, self._n_sites
        drawn = np.empty(len(window), np.int64)
        letter = np.arange(windows.n_letters)
        for site in range(windows.reach, n):
            log_weight = windows.step[window] + windows.site[site]
            log_weight += self._end_messages[n - 1 - site][windows.after(window[:, None], letter)]
            draw_letters(words, log_weight, drawn)
            letters[:, site] = drawn
            window = windows.after(window, drawn)


def _followers(windows: Windows) -> NDArray[np.int64]:
    """The window that each letter leads to, (S, Q)."""
    window = np.arange(windows.n_windows)[:, None]
    return windows.after(window, np.arange(windows.n_letters))


def _cumulative(weight: NDArray) -> NDArray:
    total = np.cumsum(weight)
    return total / total[-1]
