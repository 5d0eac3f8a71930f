"""Cluster updates: Swendsen and Wang's of all clusters, Wolff's of one.

R. H. Swendsen and J.-S. Wang, Phys. Rev. Lett. 58, 86 (1987); U. Wolff, Phys. Rev. Lett. 62,
361 (1989). A field joins every site to the ghost of its label; a cluster that is joined to a
ghost keeps its label. `ghost` (1 or site, label) is the field above its least over the labels.
"""

import math

import numba as nb
import numpy as np

from isingmoe._kernels.placing import draw_events, equal_pairs
from isingmoe._kernels.random import below, loaded, next_word, stored, unit

_LOW_32 = np.uint64(0xFFFFFFFF)
_ZERO = np.uint64(0)
_ONE = np.uint64(1)
_HALF = np.uint64(32)


@nb.njit(cache=True, nogil=True)
def random_labels(labels, n_states, words):
    """Fill `labels` with labels drawn uniformly from 0..n_states-1."""
    state = loaded(words)
    for i in range(len(labels)):
        word, state = next_word(state)
        labels[i] = below(word, n_states)
    stored(words, state)


@nb.njit(cache=True, nogil=True, inline="always")
def _root(parent, i):
    """The first site of the cluster of i; halves the path to it."""
    above = parent[i]
    while above != i:
        further = parent[above]
        parent[i] = further
        i = further
        above = parent[i]
    return i


@nb.njit(cache=True, nogil=True)
def _connect(parent, left, right, n_pairs):
    """Join the clusters of pairs of sites, under the earlier of their first sites."""
    for p in range(n_pairs):
        a = _root(parent, left[p])
        b = _root(parent, right[p])
        if a < b:
            parent[b] = a
        else:
            parent[a] = b


@nb.njit(cache=True, nogil=True)
def _pin(labels, parent, pinned, ghost, state):
    """Mark the first site of each cluster that is joined to its ghost."""
    pinned[:] = False
    for i in range(len(labels)):
        root = parent[parent[i]]
        parent[i] = root
        word, state = next_word(state)
        if unit(word) < -math.expm1(-ghost[min(i, len(ghost) - 1), labels[i]]):
            pinned[root] = True
    return state


@nb.njit(cache=True, nogil=True)
def _relabel(labels, parent, pinned, n_states, state):
    """Draw the label of every cluster that is not pinned; leave every site on its own."""
    for i in range(len(labels)):
        above = parent[i]
        parent[i] = i
        word, state = next_word(state)
        # The site above is an earlier one and has its new label already.
        if above == i:
            if not pinned[i]:
                labels[i] = below(word, n_states)
        else:
            labels[i] = labels[above]
    return state


@nb.njit(cache=True, nogil=True)
def advance_swendsen_wang(
    labels, words, out, n_sweeps, n_states, has_field, ghost, is_ring, counts, near, far, keep
):
    """Sweep all clusters; a state in each row of `out` and the events placed on it.

    Parameters
    ----------
    labels : unsigned array (site,)
        Advanced in place.
    words : uint64 array (4,)
        Advanced in place.
    out : unsigned array (sample, site)
    n_sweeps, n_states : int
    has_field, is_ring : bool
    ghost : float64 array (1 or site, label)
    counts, near, far, keep : arrays
        The tables of `placing`.

    Returns
    -------
    int64 array (sample,)
        Events on equal labels.
    """
    state = loaded(words)
    n_sites = len(labels)
    parent = np.arange(n_sites).astype(np.uint32)
    pinned = np.zeros(n_sites, np.bool_)
    left = np.empty(counts.shape[1], np.uint32)
    right = np.empty(counts.shape[1], np.uint32)
    row = np.uint64(len(counts) - 1)
    block = 1 << (len(counts) - 1)
    events = np.zeros(len(out), np.int64)
    for sweep in range(len(out) * n_sweeps + 1):
        # The events of a sweep fall on the state that the sweep before has left. Those on the
        # last state are for counting alone: the next call draws them again.
        is_last = sweep == len(out) * n_sweeps
        if is_last:
            stored(words, state)
        total = 0
        for first in range(0, n_sites, block):
            n, state = draw_events(row, left, right, counts, near, far, keep, state)
            n = equal_pairs(labels, np.uint64(first), n, left, right, is_ring, left, right)
            total += np.int64(n)
            if not is_last:
                _connect(parent, left, right, n)
        if sweep > 0 and sweep % n_sweeps == 0:
            events[sweep // n_sweeps - 1] = total
        if is_last:
            break
        if has_field:
            state = _pin(labels, parent, pinned, ghost, state)
        state = _relabel(labels, parent, pinned, n_states, state)
        if (sweep + 1) % n_sweeps == 0:
            out[sweep // n_sweeps] = labels
    return events


@nb.njit(cache=True, nogil=True)
def _join(labels, queue, head, tail, n_events, place, distance, fresh, old, is_ring):
    """Take the partners of a run of sites into the cluster.

    Parameters
    ----------
    labels : unsigned array (site,)
    queue : uint32 array (site + 1,)
        The cluster's sites; the run starts at `head`, new ones are put at `tail`.
    head, tail, n_events : uint64
    place, distance : uint32 arrays
        The events of the run, in both directions: the lowest bit of `place` is the direction.
    fresh, old : labels
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
        which, r = np.uint64(place[event]), np.uint64(distance[event])
        j = np.uint64(queue[head + (which >> _ONE)]) + (r if which & _ONE else period - r)
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
def _flip(
    labels, queue, fresh, has_field, ghost, is_ring, place, distance, counts, near, far, keep, state
):
    """Give the cluster of the site queue[0] a fresh label, unless it is joined to its ghost."""
    old = labels[queue[0]]
    labels[queue[0]] = fresh
    # The cluster is joined to its ghost once its fields add up to more than this.
    limit = np.inf
    if has_field:
        word, state = next_word(state)
        limit = -math.log1p(-unit(word))
    field = 0.0
    head, tail = _ZERO, _ONE
    while head < tail:
        # The events of a run of sites are drawn together: 2**(row - 1) sites, two ways each.
        row = _ONE
        while row + _ONE < np.uint64(len(counts)) and head + (_ONE << row) <= tail:
            row += _ONE
        run = _ONE << (row - _ONE)
        if has_field:
            for p in range(head, head + run):
                field += ghost[min(np.int64(queue[p]), len(ghost) - 1), old]
            if field > limit:
                for p in range(tail):
                    labels[queue[p]] = old
                break
        n, state = draw_events(row, place, distance, counts, near, far, keep, state)
        tail = _join(labels, queue, head, tail, n, place, distance, fresh, old, is_ring)
        head += run
    return state


@nb.njit(cache=True, nogil=True)
def advance_wolff(
    labels,
    words,
    out,
    n_sweeps,
    n_clusters,
    n_states,
    has_field,
    ghost,
    is_ring,
    counts,
    near,
    far,
    keep,
):
    """Sweep single clusters; a state in each row of `out` and the events placed on it.

    As `advance_swendsen_wang`, but that a sweep is `n_clusters` clusters, or one more, with
    equal chances: without coupling a fixed number would flip an odd or an even number of
    sites for ever.
    """
    state = loaded(words)
    n_sites = len(labels)
    queue = np.empty(n_sites + 1, np.uint32)
    left = np.empty(counts.shape[1], np.uint32)
    right = np.empty(counts.shape[1], np.uint32)
    last = np.uint64(len(counts) - 1)
    events = np.zeros(len(out), np.int64)
    for sample in range(len(out)):
        for _ in range(n_sweeps):
            word, state = next_word(state)
            for _ in range(n_clusters + np.int64(word & _ONE)):
                word, state = next_word(state)
                queue[0] = below(word, n_sites)
                word, state = next_word(state)
                fresh = below(word, n_states - 1)
                fresh += np.int64(fresh >= labels[queue[0]])
                state = _flip(
                    labels, queue, fresh, has_field, ghost, is_ring, left, right, counts, near,
                    far, keep, state,
                )
        out[sample] = labels
        for first in range(0, n_sites, 1 << (len(counts) - 1)):
            n, state = draw_events(last, left, right, counts, near, far, keep, state)
            n = equal_pairs(labels, np.uint64(first), n, left, right, is_ring, left, right)
            events[sample] += np.int64(n)
    stored(words, state)
    return events
