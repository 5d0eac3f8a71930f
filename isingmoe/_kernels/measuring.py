"""What is read off a state: its weight, how often each label occurs, its first wave, and pairs.

Labels come as (sample, site, rank); a chain with one label to a site has one rank.
"""

import numba as nb
import numpy as np

from isingmoe._kernels.bits import count_bits

_LOWEST_BITS = np.uint64(0x0101010101010101)
_GATHER = np.uint64(0x0102040810204080)
_TOP_BYTE = np.uint64(56)
_ONE = np.uint64(1)
_WORD = 64


@nb.njit(cache=True, nogil=True)
def _pair_weight(left, right, bond):
    """Sum of the bonds between two stretches of sites, site by site."""
    k = left.shape[1]
    weight = 0.0
    if k == 1:
        for i in range(len(left)):
            weight += bond[left[i, 0], right[i, 0]]
        return weight
    for i in range(len(left)):
        for a in range(k):
            for b in range(k):
                weight += bond[left[i, a], right[i, b]]
    return weight


@nb.njit(cache=True, nogil=True)
def log_weights(states, bond, strength, site, periodic, out):
    """Minus the energy over the temperature of each state.

    Parameters
    ----------
    states : unsigned array (sample, site, rank)
    bond : float64 array (1 or reach, q, q)
    strength : float64 array (reach,)
    site : float64 array (1 or site, q)
    periodic : bool
    out : float64 array (sample,)
        Filled in.
    """
    n_samples, n, k = states.shape
    has_field = np.any(site != 0)
    for t in range(n_samples):
        state = states[t]
        weight = 0.0
        for i in range(n if has_field else 0):
            field = site[0] if len(site) == 1 else site[i]
            for a in range(k):
                weight += field[state[i, a]]
        for r in range(1, len(strength) + 1):
            J = bond[min(r, len(bond)) - 1]
            pairs = _pair_weight(state[: n - r], state[r:], J)
            if periodic:
                pairs += _pair_weight(state[n - r :], state[:r], J)
            weight += strength[r - 1] * pairs
        out[t] = weight


@nb.njit(cache=True, nogil=True)
def labels_and_waves(states, step, turn, count, wave):
    """Sites with each label, and the power of the longest wave along the chain.

    Parameters
    ----------
    states : unsigned array (sample, site, rank)
    step : float64 array (2, m)
        Cosine and sine of the phases 2 pi i / n of the first m sites.
    turn : float64 array (2, block)
        The same of the first site of each block of m sites. A table of all n phases would
        not stay in the cache.
    count : int64 array (sample, q)
        Filled in.
    wave : float64 array (sample,)
        Filled in: sum over the labels of |sum over their sites of exp(2 pi i site / n)|^2.
    """
    n_samples, n, k = states.shape
    q, width = count.shape[1], step.shape[1]
    whole, part = np.empty((2, q)), np.empty((2, q))
    for t in range(n_samples):
        count[t] = 0
        whole[:] = 0
        for block in range(turn.shape[1]):
            first = block * width
            part[:] = 0
            for i in range(min(width, n - first)):
                for a in range(k):
                    label = states[t, first + i, a]
                    count[t, label] += 1
                    part[0, label] += step[0, i]
                    part[1, label] += step[1, i]
            for label in range(q):
                whole[0, label] += turn[0, block] * part[0, label] - turn[1, block] * part[1, label]
                whole[1, label] += turn[1, block] * part[0, label] + turn[0, block] * part[1, label]
        wave[t] = (whole**2).sum()


@nb.njit(cache=True, nogil=True)
def site_counts(states, count):
    """Add to `count` (site, q) how often each site has each label."""
    n_samples, n, k = states.shape
    for t in range(n_samples):
        for i in range(n):
            for a in range(k):
                count[i, states[t, i, a]] += 1


@nb.njit(cache=True, nogil=True)
def equal_pairs(states, n_planes, periodic, total, square):
    """Pairs of sites with the same label at each distance.

    Parameters
    ----------
    states : uint8 array (sample, site)
    n_planes : int
        Bits of a label.
    periodic : bool
    total, square : float64 array (distance,)
        The sum over the samples, and that of the squares, are added.

    Notes
    -----
    Each bit of the labels is packed into words, 64 sites to a word; two sites are equal
    where all their bits are, so that 64 pairs are compared at once.
    """
    n_samples, n = states.shape
    n_distances = len(total)
    length = n + n_distances if periodic else n
    n_words = length // _WORD + 2
    plane = np.zeros((n_planes, n_words), np.uint64)
    label = np.zeros(n_words * _WORD, np.uint8)
    eight = label.view(np.uint64)
    for t in range(n_samples):
        label[:n] = states[t]
        if periodic:
            for i in range(n, length):
                label[i] = label[i - n]
        for p in range(n_planes):
            shift = np.uint64(p)
            for w in range(n_words):
                word = np.uint64(0)
                for byte in range(8):
                    bits = ((eight[8 * w + byte] >> shift) & _LOWEST_BITS) * _GATHER
                    word |= (bits >> _TOP_BYTE) << np.uint64(8 * byte)
                plane[p, w] = word
        for d in range(n_distances):
            n_pairs = n if periodic else n - d
            skip = d // _WORD
            right = np.uint64(d % _WORD)
            # In two steps, as a shift by 64 bits is undefined.
            left = np.uint64(_WORD - 1 - d % _WORD)
            equal = 0
            for w in range((n_pairs + _WORD - 1) // _WORD):
                different = np.uint64(0)
                for p in range(n_planes):
                    shifted = plane[p, w + skip] >> right
                    shifted |= (plane[p, w + skip + 1] << left) << _ONE
                    different |= plane[p, w] ^ shifted
                same = ~different
                rest = n_pairs - w * _WORD
                if rest < _WORD:
                    same &= (_ONE << np.uint64(rest)) - _ONE
                equal += count_bits(same)
            total[d] += equal
            square[d] += np.float64(equal) * equal


@nb.njit(cache=True, nogil=True)
def shared_members(states, n_labels, periodic, total, square):
    """Labels that two sites share, summed over the pairs at each distance.

    Parameters
    ----------
    states : unsigned array (sample, site, rank)
    n_labels : int
    periodic : bool
    total, square : float64 array (distance,)
        The sum over the samples, and that of the squares, are added.
    """
    n_samples, n, k = states.shape
    n_words = (n_labels + _WORD - 1) // _WORD
    members = np.empty((n_words, n), np.uint64)
    for t in range(n_samples):
        members[:] = 0
        for i in range(n):
            for a in range(k):
                label = np.uint64(states[t, i, a])
                members[label >> np.uint64(6), i] |= _ONE << (label & np.uint64(63))
        for d in range(len(total)):
            shared = 0
            for w in range(n_words):
                for i in range(n - d):
                    shared += count_bits(members[w, i] & members[w, i + d])
                if periodic:
                    for i in range(n - d, n):
                        shared += count_bits(members[w, i] & members[w, i + d - n])
            total[d] += shared
            square[d] += np.float64(shared) * shared
