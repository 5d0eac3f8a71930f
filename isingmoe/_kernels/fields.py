"""What the other sites say to one: the log-weight of each label, at any reach, and a draw.

A model is a tuple of five, which a kernel takes apart before its loops:

- `site`, float64 (1 or n_sites, q), the log-weight of each label by itself;
- `forward`, float64 (1 or reach, q, q), the log-weight of each label (last) for a label to
  its left at each distance, and `backward`, the same for a label to its right;
- `strength`, float64 (reach,), the factor of each distance;
- `periodic`, bool.

A site holds one or several labels, `members` (site, rank).
"""

import math

import numba as nb
import numpy as np

_PER_LOG_2 = 1 / math.log(2)
# The logarithm of 2 in two parts, of which the first times a small integer is exact.
_LOG_2_UPPER = 0.693145751953125
_LOG_2_LOWER = 1.42860682030941723212e-6
_TAYLOR = tuple(1 / math.factorial(i) for i in range(13, -1, -1))
_FURTHEST = 700.0
_BIAS, _MANTISSA = np.int64(1023), np.int64(52)


@nb.njit(cache=True, nogil=True)
def field_counts(model, k):
    """Scratch space for `label_fields`; empty where it is quicker without.

    With one matrix for all distances, what stands at a distance matters only through the
    sum of the strengths at each label: the matrix is used once for each label instead of
    once for each neighbour.
    """
    forward, strength = model[1], model[3]
    q = forward.shape[1]
    sums = forward.shape[0] == 1 and strength.size * k > q
    return np.empty((2, q if sums else 0))


@nb.njit(cache=True, nogil=True)
def label_fields(field, counts, members, i, site, forward, backward, strength, periodic):
    """Log-weight of each label at site i, given all other sites.

    Parameters
    ----------
    field : float64 array (q,)
        Overwritten with the result.
    counts : float64 array
        Of `field_counts`.
    members : integer array (site, rank)
    i : int
    site, forward, backward, strength, periodic
        The model.
    """
    n, k = members.shape
    n_left, n_right = _reaches(i, n, strength.size, periodic)
    row = i if site.shape[0] > 1 else 0
    for b in range(field.size):
        field[b] = site[row, b]
    if counts.size:
        counts[:] = 0
        for r in range(1, n_left + 1):
            for m in range(k):
                counts[0, members[_wrapped(i - r, n), m]] += strength[r - 1]
        for r in range(1, n_right + 1):
            for m in range(k):
                counts[1, members[_wrapped(i + r, n), m]] += strength[r - 1]
        for a in range(field.size):
            _add(field, counts[0, a], forward, 0, a)
            _add(field, counts[1, a], backward, 0, a)
        return
    last = forward.shape[0] - 1
    for r in range(1, n_left + 1):
        for m in range(k):
            neighbour = members[_wrapped(i - r, n), m]
            _add(field, strength[r - 1], forward, min(r - 1, last), neighbour)
    for r in range(1, n_right + 1):
        for m in range(k):
            neighbour = members[_wrapped(i + r, n), m]
            _add(field, strength[r - 1], backward, min(r - 1, last), neighbour)


@nb.njit(cache=True, nogil=True)
def swap_gain(members, i, old, new, site, forward, backward, strength, periodic):
    """Log-weight that a configuration gains where `new` takes the place of `old` at site i."""
    n, k = members.shape
    n_left, n_right = _reaches(i, n, strength.size, periodic)
    last = forward.shape[0] - 1
    row = i if site.shape[0] > 1 else 0
    gain = site[row, new] - site[row, old]
    for r in range(1, n_left + 1):
        for m in range(k):
            a = members[_wrapped(i - r, n), m]
            here = min(r - 1, last)
            gain += strength[r - 1] * (forward[here, a, new] - forward[here, a, old])
    for r in range(1, n_right + 1):
        for m in range(k):
            a = members[_wrapped(i + r, n), m]
            here = min(r - 1, last)
            gain += strength[r - 1] * (backward[here, a, new] - backward[here, a, old])
    return gain


@nb.njit(cache=True, nogil=True)
def exponentiate(field, zero, furthest):
    """exp(field - zero) in place, within an ulp, many at once; e^+-furthest at the most.

    Parameters
    ----------
    field : float64 array (q,)
        Overwritten with the result.
    zero : float
    furthest : float
        At most 700.

    Notes
    -----
    A power of 2 times a Taylor series of degree 13 within log(2) / 2 of zero.
    """
    for b in range(field.size):
        x = min(max(field[b] - zero, -furthest), furthest)
        power = np.floor(x * _PER_LOG_2 + 0.5)
        rest = (x - power * _LOG_2_UPPER) - power * _LOG_2_LOWER
        value = 0.0
        for term in range(14):
            value = value * rest + _TAYLOR[term]
        bits = np.int64((np.int64(power) + _BIAS) << _MANTISSA)
        field[b] = value * bits.view(np.float64)


@nb.njit(cache=True, nogil=True, inline="always")
def _reaches(i, n, reach, periodic):
    """How many neighbours site i has to its left and to its right."""
    if periodic:
        return reach, reach
    return min(reach, i), min(reach, n - 1 - i)


@nb.njit(cache=True, nogil=True, inline="always")
def _wrapped(j, n):
    """A site of the ring, from one at most a turn away."""
    if j < 0:
        return j + n
    return j - n if j >= n else j


@nb.njit(cache=True, nogil=True, inline="always")
def _add(field, factor, bond, here, neighbour):
    for b in range(field.size):
        field[b] += factor * bond[here, neighbour, b]


@nb.njit(cache=True, nogil=True)
def drawn(field, u):
    """A label from log-weights, which are overwritten, and a random number below 1."""
    top = field[0]
    for b in range(1, field.size):
        top = max(top, field[b])
    exponentiate(field, top, _FURTHEST)
    total = 0.0
    for b in range(field.size):
        total += field[b]
        field[b] = total
    # Below the total, as the random number is below one.
    label = 0
    while field[label] <= u * total:
        label += 1
    return label
