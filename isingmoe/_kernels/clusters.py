"""Cluster updates: Swendsen and Wang's of all clusters, Wolff's of one.

R. H. Swendsen and J.-S. Wang, Phys. Rev. Lett. 58, 86 (1987); U. Wolff, Phys. Rev. Lett. 62,
361 (1989). A field h joins a site of label a to the ghost of a with the chance
1 - exp(min h - h[a]), and a cluster that is joined to a ghost keeps its label.
"""

import math

import numba as nb
import numpy as np

from isingmoe._kernels.placing import draw_events, equal_pairs, fetch_partners, room
from isingmoe._kernels.random import below, loaded, next_word, stored, unit

_ZERO = np.uint64(0)
_ONE = np.uint64(1)


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
def _pin(labels, parent, pinned, ghost, state):
    """Mark the first site of each cluster that is joined to its ghost."""
    pinned[:] = False
    for i in range(len(labels)):
        # The parent is an earlier site and has the first one for its own by now.
        root = parent[parent[i]]
        parent[i] = root
        word, state = next_word(state)
        if unit(word) < ghost[min(i, len(ghost) - 1), labels[i]]:
            pinned[root] = True
    return state


@nb.njit(cache=True, nogil=True)
def _relabel(labels, parent, pinned, n_states, state):
    """Draw the label of every cluster that is not pinned; leave every site on its own."""
    may_be_pinned = len(pinned) > 0
    for i in range(len(labels)):
        above = parent[i]
        parent[i] = i
        word, state = next_word(state)
        # The parent is an earlier site and has its new label by now.
        label = labels[above]
        is_free = above == i and not (may_be_pinned and pinned[i])
        labels[i] = below(word, n_states) if is_free else label
    return state


@nb.njit(cache=True, nogil=True)
def advance_swendsen_wang(labels, words, out, n_sweeps, parent, n_states, ghost, is_ring, tables):
    """Sweep all clusters; a state in each row of `out`, and the events on its equal pairs.

    Parameters
    ----------
    labels : unsigned array (site,)
        Advanced in place.
    words : uint64 array (4,)
        The generator, advanced in place.
    out : unsigned array (sample, site)
    n_sweeps : int
        From one row to the next.
    parent : uint32 array (site,)
        0, 1, 2 and so on; it is so again at the end.
    n_states : int
    ghost : float64 array (0, 1 or site, label)
        Chance that a site is joined to the ghost of its label; no row without a field.
    is_ring : bool
    tables : Tables

    Returns
    -------
    int64 array (sample,)
    """
    state = loaded(words)
    pinned = np.empty(len(labels) if len(ghost) else 0, np.bool_)
    events = room(tables)
    row = np.uint64(len(tables.counts) - 1)
    n_events = np.zeros(len(out), np.int64)
    for sweep in range(len(out) * n_sweeps + 1):
        # The events of a sweep fall on the state that the sweep before has left. Those on the
        # last state are for counting alone: the next call draws them again.
        is_last = sweep == len(out) * n_sweeps
        if is_last:
            stored(words, state)
        total = _ZERO
        for block in range(0, len(labels), 1 << (len(tables.counts) - 1)):
            first = np.uint64(block)
            n, n_distant, state = draw_events(row, events, tables, state)
            fetch_partners(labels, first, n_distant, events)
            fetch_partners(parent, first, n_distant, events)
            n_pairs = equal_pairs(labels, first, n, events, is_ring)
            total += n_pairs
            if not is_last:
                _connect(parent, n_pairs, events)
        if sweep > 0 and sweep % n_sweeps == 0:
            n_events[sweep // n_sweeps - 1] = np.int64(total)
        if is_last:
            break
        if len(ghost):
            state = _pin(labels, parent, pinned, ghost, state)
        state = _relabel(labels, parent, pinned, n_states, state)
        if (sweep + 1) % n_sweeps == 0:
            out[sweep // n_sweeps] = labels
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


@nb.njit(cache=True, nogil=True)
def _flip(labels, queue, fresh, ghost, is_ring, events, tables, state):
    """Give the cluster of the site queue[0] a fresh label, unless it is joined to its ghost."""
    old = labels[queue[0]]
    labels[queue[0]] = fresh
    # The cluster is joined to its ghost once its fields add up to more than this.
    limit = np.inf
    if len(ghost):
        word, state = next_word(state)
        limit = -math.log1p(-unit(word))
    field = 0.0
    head, tail = _ZERO, _ONE
    while head < tail:
        # The events of a run of sites are drawn together: 2**(row - 1) sites, two ways each.
        row = _ONE
        while row + _ONE < np.uint64(len(tables.counts)) and head + (_ONE << row) <= tail:
            row += _ONE
        run = _ONE << (row - _ONE)
        if len(ghost):
            for p in range(head, head + run):
                field += ghost[min(np.int64(queue[p]), len(ghost) - 1), old]
            if field > limit:
                for p in range(tail):
                    labels[queue[p]] = old
                break
        n_events, _, state = draw_events(row, events, tables, state)
        tail = _join(labels, queue, head, tail, fresh, old, n_events, events, is_ring)
        head += run
    return state


@nb.njit(cache=True, nogil=True)
def advance_wolff(labels, words, out, n_sweeps, n_clusters, n_states, ghost, is_ring, tables):
    """Sweep single clusters; a state in each row of `out`, and the events on its equal pairs.

    Parameters
    ----------
    labels, words, out, n_sweeps, n_states, is_ring, tables
        As for `advance_swendsen_wang`.
    n_clusters : int
        Clusters of a sweep, which has one more with a chance of a half: always as many would,
        without coupling, flip an odd or an even number of sites for ever.
    ghost : float64 array (0, 1 or site, label)
        The field above its least over the labels; no row without a field.

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
                state = _flip(labels, queue, fresh, ghost, is_ring, events, tables, state)
        out[sample] = labels
        for block in range(0, n_sites, 1 << (len(tables.counts) - 1)):
            first = np.uint64(block)
            n, n_distant, state = draw_events(row, events, tables, state)
            fetch_partners(labels, first, n_distant, events)
            n_events[sample] += np.int64(equal_pairs(labels, first, n, events, is_ring))
    stored(words, state)
    return n_events
