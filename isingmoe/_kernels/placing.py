"""Events on pairs of sites, as many as Poisson's law gives, in one pass over the chain.

K. Fukui and S. Todo, J. Comput. Phys. 228, 2629 (2009): each pair r sites apart has a Poisson
number of events with a mean that falls with r. Here the events of a block of sites are drawn
together: first how many, then for each its site and its distance from one random word. Near
distances are in a table that stays in the first cache. Far ones come by bins of distances: an
event at the largest rate of its bin is kept in proportion to the rate of its distance, so that
neither the time nor the tables grow with the reach.
"""

from typing import NamedTuple

import numba as nb
import numpy as np
from numpy.typing import NDArray

from isingmoe._kernels.alias import alias_columns
from isingmoe._kernels.prefetch import prefetch
from isingmoe._kernels.random import next_word

_HALF = np.uint64(32)
_LOW_32 = np.uint64(0xFFFFFFFF)
_ZERO = np.uint64(0)
_ONE = np.uint64(1)


class Tables(NamedTuple):
    """How many events there are and how far they reach.

    Attributes
    ----------
    counts : uint64 array (row, column)
        Row b draws the number of events that go right from 2**b sites.
    near : uint64 array (column,)
        Draws a distance below len(near), or 0 for a far one.
    far : uint64 array (column, 3)
        Draws a bin of far distances. Beside the table: the first distance of each bin; its
        number of distances, a power of two, less one, with the least of `keep` above it.
    keep : uint32 array (distance - len(near),)
        Chance that an event at a far distance is kept, in units of 2**-32, less one.
    """

    counts: NDArray[np.uint64]
    near: NDArray[np.uint64]
    far: NDArray[np.uint64]
    keep: NDArray[np.uint32]


class Events(NamedTuple):
    """Room for the events of a block, as many as a row of `counts` has columns.

    Attributes
    ----------
    place, distance : uint32 arrays (event,)
        The site, counted from the first of the block, and how far its partner is; then the
        two sites of a pair.
    distant : uint32 array (event,)
        Which events have far partners.
    """

    place: NDArray[np.uint32]
    distance: NDArray[np.uint32]
    distant: NDArray[np.uint32]


@nb.njit(cache=True, nogil=True)
def walker_table(weights, n_columns):
    """Table that draws an index with a chance in proportion to its weight.

    A column holds, in one word, the chance of its own index in units of 2**-32 (upper half)
    and the other index that it may give (lower half). It rounds its chance by no more than
    2**-32 / n_columns.

    Parameters
    ----------
    weights : float64 array (index,)
        Not negative, with a positive sum.
    n_columns : int
        A power of two, at least as many as there are weights.

    Returns
    -------
    uint64 array (n_columns,)
    """
    share, other = alias_columns(weights, n_columns)
    table = np.empty(n_columns, np.uint64)
    for i in range(n_columns):
        # A column of one index only names it twice.
        chance = 0.0 if other[i] == i else min(share[i] * 2.0**32, 2.0**32 - 1)
        table[i] = (np.uint64(chance) << _HALF) | np.uint64(other[i])
    return table


@nb.njit(cache=True, nogil=True, inline="always")
def outcome(entry, column, word):
    """The index that a column of a Walker table gives, by the upper half of a word."""
    return column if (word >> _HALF) < (entry >> _HALF) else entry & _LOW_32


@nb.njit(cache=True, nogil=True)
def bins(rate, first, slack):
    """Bins of distances, as wide as powers of two, in which the rate is nearly the same.

    Parameters
    ----------
    rate : float64 array (reach,)
        At the distances 1 to reach, not negative.
    first : int
        The distance at which the bins start.
    slack : float
        The least rate of a bin is within this fraction of its largest.

    Returns
    -------
    start, width : int64 arrays (bin,)
    largest, smallest : float64 arrays (bin,)
        The extreme rates of each bin.
    """
    reach = len(rate)
    start = np.empty(reach, np.int64)
    width = np.empty(reach, np.int64)
    largest = np.empty(reach)
    smallest = np.empty(reach)
    n_bins = 0
    distance = first
    while distance <= reach:
        w = 1
        low = high = rate[distance - 1]
        while distance + 2 * w - 1 <= reach:
            added = rate[distance + w - 1 : distance + 2 * w - 1]
            wider_low, wider_high = min(low, added.min()), max(high, added.max())
            if wider_low < (1.0 - slack) * wider_high:
                break
            low, high = wider_low, wider_high
            w *= 2
        start[n_bins], width[n_bins] = distance, w
        largest[n_bins], smallest[n_bins] = high, low
        n_bins += 1
        distance += w
    return start[:n_bins], width[:n_bins], largest[:n_bins], smallest[:n_bins]


@nb.njit(cache=True, nogil=True)
def room(tables):
    """Room for the events of the largest block."""
    n = tables.counts.shape[1]
    return Events(np.empty(n, np.uint32), np.empty(n, np.uint32), np.empty(n, np.uint32))


# The kernels below call no other that takes arrays: numba would count references at each call,
# in memory that the threads of all replicas share.


@nb.njit(cache=True, nogil=True)
def draw_events(row, events, tables, state):
    """Fill `events` with those that go right from a block of 2**row sites.

    Parameters
    ----------
    row : uint64
    events : Events
    tables : Tables
    state : tuple
        The generator.

    Returns
    -------
    n_events, n_distant : uint64
    state : tuple
    """
    place, distance, distant = events.place, events.distance, events.distant
    counts, near, far, keep = tables.counts, tables.near, tables.far, tables.keep
    near_mask = np.uint64(len(near) - 1)
    far_mask = np.uint64(len(far) - 1)
    n_near = np.uint64(len(near))
    shift = _HALF - row
    word, state = next_word(state)
    column = word & np.uint64(counts.shape[1] - 1)
    n_events = n_distant = _ZERO
    for _ in range(outcome(counts[row, column], column, word)):
        # The distance takes the upper half of the word and the lowest bits, its place the rest.
        word, state = next_word(state)
        place[n_events] = (word & _LOW_32) >> shift
        column = word & near_mask
        r = outcome(near[column], column, word)
        if r == _ZERO:
            word, state = next_word(state)
            column = word & far_mask
            found = outcome(far[column, 0], column, word)
            word, state = next_word(state)
            width = far[found, 2]
            r = far[found, 1] + (word & width & _LOW_32)
            # Nearly always the least chance of the bin decides, and `keep` is left alone.
            chance = word >> _HALF
            if chance > (width >> _HALF) and chance > keep[r - n_near]:
                continue
            distant[n_distant] = n_events
            n_distant += _ONE
        distance[n_events] = r
        n_events += _ONE
    return n_events, n_distant, state


@nb.njit(cache=True, nogil=True)
def fetch_partners(array, first, n_distant, events):
    """Have the far partners of a block's sites on their way from the memory.

    A miss takes as long as tens of events; these wait for theirs together.

    Parameters
    ----------
    array : array (site,)
    first, n_distant : uint64
    events : Events
    """
    n_sites = np.uint64(len(array))
    for which in range(n_distant):
        event = events.distant[which]
        j = first + np.uint64(events.place[event]) + np.uint64(events.distance[event])
        prefetch(array, j - n_sites if j >= n_sites else j)


@nb.njit(cache=True, nogil=True)
def equal_pairs(labels, first, n_events, events, is_ring):
    """The pairs of equal labels among the events that go right from a block of sites.

    Parameters
    ----------
    labels : unsigned array (site,)
    first : uint64
        First site of the block. It may reach beyond the last site: what does is discarded.
    n_events : uint64
    events : Events
        The left and the right site of every pair take the place of the events.
    is_ring : bool

    Returns
    -------
    uint64
        Number of pairs.
    """
    n_sites = np.uint64(len(labels))
    left, right = events.place, events.distance
    n_pairs = _ZERO
    for event in range(n_events):
        i = first + np.uint64(events.place[event])
        j = i + np.uint64(events.distance[event])
        if j >= n_sites:
            if not is_ring or i >= n_sites:
                continue
            j -= n_sites
        # Written always, counted if it counts: no branch that cannot be foreseen.
        left[n_pairs] = i
        right[n_pairs] = j
        n_pairs += np.uint64(labels[i] == labels[j])
    return n_pairs
