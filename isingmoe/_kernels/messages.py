"""Messages along a chain of windows.

Weights are (S, Q): of the letter b after the window x = a * S/Q + y, which leads to the
window y * Q + b; a is the letter that is left behind.
"""

import numba as nb
import numpy as np

# Below this change a step is slow, or lost in rounding.
_NEARLY, _SETTLED = 1e-8, 1e-14
# From these sizes on a library's matrix product beats loops.
_WIDE, _TALL = 8, 256
# Columns gone through together, so that they stay in the cache.
_STRIP = 128


@nb.njit(cache=True, nogil=True)
def onward(weight, message, out):
    """Sum over the letter left behind: out[y Q + b] = sum_a weight[a y, b] message[a y]."""
    n_windows, n_letters = weight.shape
    rest = n_windows // n_letters
    out[:] = 0
    for x in range(n_windows):
        first = x % rest * n_letters
        value = message[x]
        for b in range(n_letters):
            out[first + b] += value * weight[x, b]


@nb.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def ahead(weight, message, out):
    """Sum over the letter to come: out[x] = sum_b weight[x, b] message[y Q + b]."""
    n_windows, n_letters = weight.shape
    rest = n_windows // n_letters
    for x in range(n_windows):
        first = x % rest * n_letters
        total = 0.0
        for b in range(n_letters):
            total += weight[x, b] * message[first + b]
        out[x] = total


@nb.njit(cache=True, nogil=True)
def leading_vector(weight, start, is_left, n_steps):
    """Leading left or right eigenvector of the weights by power iteration.

    Each step takes the mean of a vector and of its product with the weights, so that modes
    of the opposite sign, as of antiferromagnets, die at once. When a step changes no element
    by more than 1e-14 of it, the iteration goes on for as long as it took from 1e-8 to
    there: what is left of the slowest mode is then lost.

    Returns
    -------
    vector : float64 array (S,)
        Its largest element is one.
    is_settled : bool
        False if `n_steps` were not enough, or the vector has left the range of a double.
    """
    vector, new = start / start.max(), np.empty_like(start)
    near, more = -1, -1
    for step in range(n_steps):
        if is_left:
            onward(weight, vector, new)
        else:
            ahead(weight, vector, new)
        total = new.sum()
        if not 0 < total < np.inf:
            return np.zeros_like(start), False
        scale = vector.sum() / total
        largest = 0.0
        for x in range(new.size):
            new[x] = (new[x] * scale + vector[x]) / 2
            largest = max(largest, new[x])
        change = 0.0
        for x in range(new.size):
            new[x] /= largest
            if new[x] > 0:
                change = max(change, abs(new[x] - vector[x]) / new[x])
        vector, new = new, vector
        if near < 0 and change < _NEARLY:
            near = step
        if more >= 0:
            more -= 1
        elif near >= 0 and change < _SETTLED:
            more = step - near + 64
        if more == 0:
            return vector, True
    return vector, False


@nb.njit(cache=True, nogil=True)
def forward_messages(weight, factor, first, start, n_steps, limit, tolerance):
    """Laws of the windows, each summed over all sites before it.

    Parameters
    ----------
    weight : float64 array (S, Q)
    factor : float64 array (1 or n_sites, Q)
        Of the letters of each site, beside `weight`.
    first : int
        Site of the first step.
    start : float64 array (S,)
        The law before it.
    n_steps : int
    limit : float64 array (S,)
        The steps end where a law is this one, element by element, up to ...
    tolerance : float
        ... so much of it; zero if there is no such law.

    Returns
    -------
    messages : float64 array (m, S)
        Each sums to one; all zero from where the weights have left the range of a double.
    log_scale : float64 array (m,)
        Logarithm of the weight divided out at each step.
    """
    n_windows = start.size
    capacity = min(n_steps, 256)
    messages = np.empty((capacity, n_windows))
    log_scale = np.empty(capacity)
    law = start
    weighted = np.empty_like(weight)
    weighted[:] = weight * factor[0]
    done = 0
    while done < n_steps:
        if done == capacity:
            capacity = min(n_steps, 2 * capacity)
            longer = np.empty((capacity, n_windows))
            longer[:done] = messages[:done]
            messages = longer
            longer_scale = np.empty(capacity)
            longer_scale[:done] = log_scale[:done]
            log_scale = longer_scale
        if len(factor) > 1:
            weighted[:] = weight * factor[first + done]
        new = messages[done]
        onward(weighted, law, new)
        total = new.sum()
        if not 0 < total < np.inf:
            messages[done] = 0
            log_scale[done] = -np.inf
            return messages[: done + 1].copy(), log_scale[: done + 1].copy()
        log_scale[done] = np.log(total)
        is_settled = tolerance > 0
        for x in range(n_windows):
            new[x] /= total
            if abs(new[x] - limit[x]) > tolerance * limit[x]:
                is_settled = False
        law = new
        done += 1
        if is_settled:
            break
    return messages[:done].copy(), log_scale[:done].copy()


@nb.njit(cache=True, nogil=True)
def backward_messages(weight, end, n_steps, tolerance):
    """Weights of all sites after a window, from the last window on, (m, S).

    Each has the mean one. They end where all elements are one up to `tolerance`.
    """
    n_windows = end.size
    capacity = min(n_steps, 256)
    messages = np.empty((capacity + 1, n_windows))
    messages[0] = end / end.mean()
    done = 0
    while done < n_steps and np.abs(messages[done] - 1).max() > tolerance:
        if done == capacity:
            capacity = min(n_steps, 2 * capacity)
            longer = np.empty((capacity + 1, n_windows))
            longer[: done + 1] = messages[: done + 1]
            messages = longer
        done += 1
        ahead(weight, messages[done - 1], messages[done])
        messages[done] /= messages[done].mean()
    return messages[: done + 1].copy()


@nb.njit(cache=True, nogil=True)
def averaged(weight, value, width, out, shift):
    """Columns of `value` summed over the letter to come, into the columns from `shift` on.

    Parameters
    ----------
    weight : float64 array (S/Q, Q, Q)
        Of the letter b after the window of a and y, at [y, a, b].
    value, out : float64 array (S, at least width)
    """
    rest, n_letters, _ = weight.shape
    if width >= _WIDE and n_letters >= _TALL:
        for y in range(rest):
            block = value[y * n_letters : (y + 1) * n_letters, :width].copy()
            product = np.dot(weight[y], block)
            for a in range(n_letters):
                out[a * rest + y, shift : shift + width] = product[a]
        return
    for y in range(rest):
        for first in range(0, width, _STRIP):
            last = min(first + _STRIP, width)
            for a in range(n_letters):
                summed = out[a * rest + y, shift + first : shift + last]
                summed[:] = 0
                for b in range(n_letters):
                    share = weight[y, a, b]
                    row = value[y * n_letters + b, first:last]
                    for c in range(last - first):
                        summed[c] += share * row[c]


@nb.njit(cache=True, nogil=True)
def gathered(weight, value, out):
    """Columns of `value` summed over the letter left behind, arguments as `averaged` has them."""
    rest, n_letters, _ = weight.shape
    width = value.shape[1]
    if width >= _WIDE and n_letters >= _TALL:
        block = np.empty((n_letters, width))
        for y in range(rest):
            for a in range(n_letters):
                block[a] = value[a * rest + y]
            out[y * n_letters : (y + 1) * n_letters] = np.dot(weight[y].T, block)
        return
    for y in range(rest):
        for b in range(n_letters):
            summed = out[y * n_letters + b]
            summed[:] = 0
            for a in range(n_letters):
                share = weight[y, a, b]
                row = value[a * rest + y]
                for c in range(width):
                    summed[c] += share * row[c]


@nb.njit(cache=True, nogil=True)
def meeting(left, right, n_letters):
    """Products of columns (S, width), summed over windows with the same last letter."""
    width = left.shape[1]
    result = np.zeros((n_letters, width))
    for x in range(len(left)):
        summed, one, other = result[x % n_letters], left[x], right[x]
        for c in range(width):
            summed[c] += one[c] * other[c]
    return result


@nb.njit(cache=True, nogil=True)
def centred(law, value, width):
    """Take the mean over a law off each of the first columns."""
    mean = np.zeros(width)
    for x in range(law.size):
        share, row = law[x], value[x]
        for c in range(width):
            mean[c] += share * row[c]
    for x in range(law.size):
        row = value[x]
        for c in range(width):
            row[c] -= mean[c]
