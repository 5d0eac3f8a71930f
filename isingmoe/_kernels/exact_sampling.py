"""Independent samples of a chain: messages from its end, then draws from its start.

A state of the sampler is a window, the last R letters of the chain in base Q with the last
one lowest. A letter is what a site holds: a label or a set of them.

The draws of one row wait for one another, each for the window that the one before leaves:
eight rows at a time hide that. What bounds the kernel then is the generator.
"""

import numba as nb
import numpy as np

from isingmoe._kernels.alias import alias_columns
from isingmoe._kernels.fields import drawn
from isingmoe._kernels.messages import ahead
from isingmoe._kernels.random import loaded, next_word, stored, unit

_HALF = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_TO_THRESHOLD = 2.0**32
_ROWS = 8


@nb.njit(cache=True, nogil=True)
def returns(transition, n_steps):
    """Chance that a chain is back at the window it started from, for each, (S,).

    Parameters
    ----------
    transition : float64 array (S, Q)
        Chance of a letter after a window.
    n_steps : int
    """
    n_windows = len(transition)
    chance = np.empty(n_windows)
    message, before = np.empty(n_windows), np.empty(n_windows)
    for x in range(n_windows):
        message[:] = 0
        message[x] = 1
        for _ in range(n_steps):
            ahead(transition, message, before)
            message, before = before, message
        chance[x] = message[x]
    return chance


@nb.njit(cache=True, nogil=True)
def alias_tables(probability):
    """Alias tables of the letters after each window.

    Parameters
    ----------
    probability : float64 array (S, Q)

    Returns
    -------
    threshold : uint32 array (S, Q)
        A column stands for its own letter where 32 random bits do not exceed it.
    alias : uint16 array (S, Q)
        The letter that it else stands for.
    """
    threshold = np.empty(probability.shape, np.uint32)
    alias = np.empty(probability.shape, np.uint16)
    for x in range(len(probability)):
        share, alias[x] = alias_columns(probability[x], probability.shape[1])
        for b in range(len(share)):
            threshold[x, b] = np.uint32(min(share[b] * _TO_THRESHOLD, 4294967295.0))
    return threshold, alias


@nb.njit(cache=True, nogil=True)
def draw_windows(words, cumulative, window):
    """Draw a first window for each row.

    Parameters
    ----------
    words : uint64 array (4,)
    cumulative : float64 array (S,)
        Probability of each window and all before it, the last one 1.
    window : int64 array (row,)
        Filled in.
    """
    random = loaded(words)
    for t in range(len(window)):
        word, random = next_word(random)
        window[t] = np.searchsorted(cumulative, unit(word), "right")
    stored(words, random)


@nb.njit(cache=True, nogil=True)
def draw_alike(words, threshold, alias, window, out):
    """Draw the letters of a stretch in which every site has the same tables.

    Parameters
    ----------
    words : uint64 array (4,)
    threshold : uint32 array (S, Q)
    alias : uint16 array (S, Q)
    window : int64 array (row,)
        Advanced to the end of the stretch.
    out : unsigned array (row, site)
        Filled in.
    """
    is_nearest = threshold.shape[0] == threshold.shape[1]
    random = loaded(words)
    for start in range(0, len(out), _ROWS):
        stop = min(start + _ROWS, len(out))
        if is_nearest and stop - start == _ROWS:
            random = _draw_eight(random, threshold, alias, window, out, start)
        else:
            random = _draw_any(random, threshold, alias, window, out, start, stop)
    stored(words, random)


@nb.njit(cache=True, nogil=True, inline="always")
def _letter(word, threshold, alias, row, n_letters):
    """A letter by the alias table in a row: the upper half of a word picks a column.

    The lower half decides between the column and its alias, without a branch: which of
    them it is cannot be foreseen.
    """
    column = ((word >> _HALF) * n_letters) >> _HALF
    place = row * n_letters + column
    other = np.uint64(alias[place])
    kept = np.uint64(0) - np.uint64((word & _LOW) <= np.uint64(threshold[place]))
    return other ^ ((other ^ column) & kept)


@nb.njit(cache=True, nogil=True)
def _draw_eight(random, threshold, alias, window, out, start):
    """Eight rows of a chain with nearest neighbours, whose windows are letters."""
    n_letters = np.uint64(len(threshold))
    threshold, alias = threshold.ravel(), alias.ravel()
    letter = np.empty(_ROWS, np.uint64)
    for t in range(_ROWS):
        letter[t] = np.uint64(window[start + t])
    for i in range(out.shape[1]):
        for t in range(_ROWS):
            word, random = next_word(random)
            letter[t] = _letter(word, threshold, alias, letter[t], n_letters)
            out[start + t, i] = letter[t]
    for t in range(_ROWS):
        window[start + t] = np.int64(letter[t])
    return random


@nb.njit(cache=True, nogil=True)
def _draw_any(random, threshold, alias, window, out, start, stop):
    """Some rows of a chain of any reach."""
    n_windows, n_letters = threshold.shape
    n_kept = n_windows // n_letters
    columns = np.uint64(n_letters)
    threshold, alias = threshold.ravel(), alias.ravel()
    for i in range(out.shape[1]):
        for t in range(start, stop):
            word, random = next_word(random)
            letter = _letter(word, threshold, alias, np.uint64(window[t]), columns)
            window[t] = (window[t] % n_kept) * n_letters + np.int64(letter)
            out[t, i] = letter
    return random


@nb.njit(cache=True, nogil=True)
def draw_ends(words, weight, field, message, row, window, out):
    """Draw the letters of a stretch in which every site differs from the next.

    Parameters
    ----------
    words : uint64 array (4,)
    weight : float64 array (S, Q)
        Weight of each letter after a window.
    field : float64 array (1 or site, Q)
        Factor of a letter at each site of the stretch.
    message : float64 array (site, S)
        Weight of what follows the window after each site.
    row : int64 array (row,)
        The rows to draw.
    window : int64 array (all rows,)
        Advanced to the end of the stretch.
    out : unsigned array (all rows, site)
        Filled in.
    """
    n_windows, n_letters = weight.shape
    n_kept = n_windows // n_letters
    running = np.empty(n_letters)
    random = loaded(words)
    for i in range(out.shape[1]):
        now = field[0] if len(field) == 1 else field[i]
        for t in row:
            x = window[t]
            follow = (x % n_kept) * n_letters
            total = 0.0
            for b in range(n_letters):
                total += weight[x, b] * now[b] * message[i, follow + b]
                running[b] = total
            word, random = next_word(random)
            bound = unit(word) * total
            letter = 0
            while letter < n_letters - 1 and running[letter] <= bound:
                letter += 1
            window[t] = follow + letter
            out[t, i] = letter
    stored(words, random)


@nb.njit(cache=True, nogil=True)
def draw_letters(words, log_weight, out):
    """Draw a letter for each row from its log-weights.

    Parameters
    ----------
    words : uint64 array (4,)
    log_weight : float64 array (row, Q)
        Overwritten.
    out : int64 array (row,)
        Filled in.
    """
    random = loaded(words)
    for t in range(len(out)):
        word, random = next_word(random)
        out[t] = drawn(log_weight[t], unit(word))
    stored(words, random)
