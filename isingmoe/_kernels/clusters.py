"""Cluster updates: Swendsen and Wang's of all clusters, Wolff's of one.

R. H. Swendsen and J.-S. Wang, Phys. Rev. Lett. 58, 86 (1987); U. Wolff, Phys. Rev. Lett. 62,
361 (1989). A field is a ghost spin of every label, with the bonds to it summed out: a
cluster takes a label by the weight of all its sites in the field, or refuses it. Bonds to
ghosts that are drawn would hold on to a label as long as any other is disfavoured.
"""

import math

import numba as nb
import numpy as np

from isingmoe._kernels.placing import draw_events, equal_pairs, fetch_partners, room
from isingmoe._kernels.random import below, loaded, next_word, stored, unit

_ZERO = np.uint64(0)
_ONE = np.uint64(1)

# Clusters of up to so many sites have their chances of each label ready.
_N_SMALL = 32


@nb.njit(cache=True, nogil=True)
def _connect(parent, n_pairs, pairs):
    """Join the clusters of pairs of sites.

    Every site has a parent, an earlier site of its cluster, or is its own. Rem's way of joining
    ends as soon as two parents agree, mostly at once: M. M. A. Patwary, J. Blair and F. Manne,
    Experimental Algorithms (SEA 2010), 411.
    """
    for p in range(n_pairs):
        a, b = pairs.place[p], pairs.distance[p]
        above_a, above_b = parent[a], parent[b]
        while above_a != above_b:
            if above_a < above_b:
                a, b = b, a
                above_a, above_b = above_b, above_a
            # The site with the later parent takes the earlier one instead.
            parent[a] = above_b
            if a == above_a:
                break
            a = above_a
            above_a = parent[a]


@nb.njit(cache=True, nogil=True)
def _sum_fields(parent, field, total):
    """Size of each cluster, or its field for every label where sites differ, at its first site."""
    total[:] = 0
    for i in range(len(parent)):
        # The parent is an earlier site and has the first one for its own by now.
        root = parent[parent[i]]
        parent[i] = root
        if len(field) == 1:
            total[root, 0] += 1
        else:
            for a in range(field.shape[1]):
                total[root, a] += field[i, a]


@nb.njit(cache=True, nogil=True)
def _cumulative(log_weight, out):
    """Cumulative probabilities of labels with these log-weights."""
    top = log_weight.max()
    total = 0.0
    for a in range(len(out)):
        total += math.exp(log_weight[a] - top)
        out[a] = total
    out /= total
    # Above any random number, whatever rounding has made of it.
    out[-1] = 2.0


@nb.njit(cache=True, nogil=True)
def _relabel(labels, parent, n_states, state):
    """Draw the label of every cluster; leave every site on its own."""
    for i in range(len(labels)):
        above = parent[i]
        parent[i] = i
        word, state = next_word(state)
        # The parent is an earlier site and has its new label by now.
        label = labels[above]
        labels[i] = below(word, n_states) if above == i else label
    return state


@nb.njit(cache=True, nogil=True)
def _relabel_in_field(labels, parent, field, total, small, state):
    """The same in a field, from the sums of `_sum_fields`.

    `small` (size, label) are the cumulative probabilities of clusters of 1, 2, .. sites
    where all sites have one field.
    """
    row = np.empty(field.shape[1])
    for i in range(len(labels)):
        above = parent[i]
        parent[i] = i
        if above != i:
            labels[i] = labels[above]
            continue
        if len(field) > 1:
            _cumulative(total[i], row)
        elif total[i, 0] > len(small):
            _cumulative(total[i, 0] * field[0], row)
        else:
            row[:] = small[np.int64(total[i, 0]) - 1]
        word, state = next_word(state)
        label = 0
        while unit(word) >= row[label]:
            label += 1
        labels[i] = label
    return state


@nb.njit(cache=True, nogil=True)
def advance_swendsen_wang(labels, words, out, n_sweeps, parent, n_states, field, is_ring, tables):
    """Sweep all clusters; a state in each row of `out`, and the events on its equal pairs.

    Parameters
    ----------
    labels : unsigned array (site,)
        Advanced in place, one sweep beyond the last row.
    words : uint64 array (4,)
        The generator, advanced in place.
    out : unsigned array (sample, site)
    n_sweeps : int
        From one row to the next.
    parent : uint32 array (site,)
        0, 1, 2 and so on; it is so again at the end.
    n_states : int
    field : float64 array (0, 1 or site, label)
        Log-weight of every label; no row without a field.
    is_ring : bool
    tables : Tables

    Returns
    -------
    int64 array (sample,)
    """
    state = loaded(words)
    total = np.empty((len(labels) if len(field) else 0, n_states if len(field) > 1 else 1))
    small = np.empty((_N_SMALL if len(field) == 1 else 0, n_states))
    for size in range(len(small)):
        _cumulative((size + 1) * field[0], small[size])
    events = room(tables)
    row = np.uint64(len(tables.counts) - 1)
    n_events = np.zeros(len(out), np.int64)
    for sweep in range(len(out) * n_sweeps):
        # Events fall on the state that a sweep begins with: it is this one that is measured.
        is_measured = (sweep + 1) % n_sweeps == 0
        if is_measured:
            out[sweep // n_sweeps] = labels
        n_equal = _ZERO
        for block in range(0, len(labels), 1 << (len(tables.counts) - 1)):
            first = np.uint64(block)
            n, n_distant, state = draw_events(row, events, tables, state)
            fetch_partners(labels, first, n_distant, events)
            fetch_partners(parent, first, n_distant, events)
            n_pairs = equal_pairs(labels, first, n, events, is_ring)
            n_equal += n_pairs
            _connect(parent, n_pairs, events)
        if is_measured:
            n_events[sweep // n_sweeps] = np.int64(n_equal)
        if len(field):
            _sum_fields(parent, field, total)
            state = _relabel_in_field(labels, parent, field, total, small, state)
        else:
            state = _relabel(labels, parent, n_states, state)
    stored(words, state)
    return n_events


@nb.njit(cache=True, nogil=True)
def _join(labels, queue, head, tail, fresh, old, n_events, events, is_ring):
    """Take the partners of a run of sites into the cluster.

    Parameters
    ----------
    labels : unsigned array (site,)
    queue : uint32 array (site + 1,)
        The cluster's sites; the run starts at `head`, new ones are put at `tail`.
    head, tail : uint64
    fresh, old : label
    n_events : uint64
    events : Events
        In both directions: the lowest bit of a place is the direction, the others the place.
    is_ring : bool

    Returns
    -------
    uint64
        The new tail.
    """
    n_sites = np.uint64(len(labels))
    # A step to the left ends beyond the last site, as one to the right may: there a ring
    # starts anew, and on open ends there is nobody.
    period = n_sites if is_ring else _ZERO
    for event in range(n_events):
        place, r = np.uint64(events.place[event]), np.uint64(events.distance[event])
        j = np.uint64(queue[head + (place >> _ONE)]) + (r if place & _ONE else period - r)
        if j >= n_sites:
            if not is_ring:
                continue
            j -= n_sites
        # Written always, counted if it counts: no branch that cannot be foreseen.
        label = labels[j]
        joins = label == old
        labels[j] = fresh if joins else label
        queue[tail] = j
        tail += np.uint64(joins)
    return tail


@nb.njit(cache=True, nogil=True, inline="always")
def _gain(field, queue, tail, old, fresh):
    """What the first sites of a cluster gain in their fields by a fresh label."""
    if len(field) == 0:
        return 0.0
    if len(field) == 1:
        return tail * (field[0, fresh] - field[0, old])
    gain = 0.0
    for p in range(tail):
        gain += field[queue[p], fresh] - field[queue[p], old]
    return gain


@nb.njit(cache=True, nogil=True)
def _flip(labels, queue, fresh, field, is_ring, events, tables, state):
    """Give the cluster of the site queue[0] a fresh label, unless its fields refuse it."""
    old = labels[queue[0]]
    labels[queue[0]] = fresh
    limit = -np.inf
    if len(field):
        word, state = next_word(state)
        limit = math.log1p(-unit(word))
    head, tail = _ZERO, _ONE
    while head < tail:
        # With one field for all sites a loss can only grow.
        if len(field) == 1 and _gain(field, queue, tail, old, fresh) < limit:
            break
        # The events of a run of sites are drawn together: 2**(row - 1) sites, two ways each.
        row = _ONE
        while row + _ONE < np.uint64(len(tables.counts)) and head + (_ONE << row) <= tail:
            row += _ONE
        n_events, _, state = draw_events(row, events, tables, state)
        tail = _join(labels, queue, head, tail, fresh, old, n_events, events, is_ring)
        head += _ONE << (row - _ONE)
    if _gain(field, queue, tail, old, fresh) < limit:
        for p in range(tail):
            labels[queue[p]] = old
    return state


@nb.njit(cache=True, nogil=True)
def advance_wolff(labels, words, out, n_sweeps, n_clusters, n_states, field, is_ring, tables):
    """Sweep single clusters; a state in each row of `out`, and the events on its equal pairs.

    Parameters
    ----------
    labels, words, out, n_sweeps, n_states, field, is_ring, tables
        As for `advance_swendsen_wang`.
    n_clusters : int
        Clusters of a sweep, which has one more with a chance of a half: always as many would,
        without coupling, flip an odd or an even number of sites for ever.

    Returns
    -------
    int64 array (sample,)
    """
    state = loaded(words)
    n_sites = len(labels)
    queue = np.empty(n_sites + 1, np.uint32)
    events = room(tables)
    row = np.uint64(len(tables.counts) - 1)
    n_events = np.zeros(len(out), np.int64)
    for sample in range(len(out)):
        for _ in range(n_sweeps):
            word, state = next_word(state)
            for _ in range(n_clusters + np.int64(word & _ONE)):
                word, state = next_word(state)
                queue[0] = below(word, n_sites)
                word, state = next_word(state)
                fresh = below(word, n_states - 1)
                fresh += np.int64(fresh >= labels[queue[0]])
                state = _flip(labels, queue, fresh, field, is_ring, events, tables, state)
        out[sample] = labels
        for block in range(0, n_sites, 1 << (len(tables.counts) - 1)):
            first = np.uint64(block)
            n, n_distant, state = draw_events(row, events, tables, state)
            fetch_partners(labels, first, n_distant, events)
            n_events[sample] += np.int64(equal_pairs(labels, first, n, events, is_ring))
    stored(words, state)
    return n_events
