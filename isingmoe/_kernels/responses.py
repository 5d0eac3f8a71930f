"""Sums over the sites to come, given a window: their means, variances and correlations."""

import numba as nb
import numpy as np

from isingmoe._kernels.messages import averaged, centred

# Correlations that are smaller everywhere add nothing to any sum.
_NOTHING = 1e-24


@nb.njit(cache=True, nogil=True)
def _law(forward, backward, out):
    """Law of the windows at a site, from what comes before and what comes after."""
    total = 0.0
    for x in range(out.size):
        out[x] = forward[x] * backward[x]
        total += out[x]
    # Not a number where everything is below the range of a double: the caller says so.
    share = 1 / total if total > 0 else np.nan
    for x in range(out.size):
        out[x] *= share


@nb.njit(cache=True, nogil=True)
def _conditional(weight, factor, backward, before, out):
    """Chance of each letter after a window, [y, a, b], and the backward message there."""
    n_windows, n_letters = weight.shape
    rest = n_windows // n_letters
    for x in range(n_windows):
        a, y = x // rest, x % rest
        total = 0.0
        for b in range(n_letters):
            value = weight[x, b] * factor[b] * backward[y * n_letters + b]
            out[y, a, b] = value
            total += value
        before[x] = total
        share = 1 / total if total > 0 else 0.0
        for b in range(n_letters):
            out[y, a, b] *= share
    before /= before.max()


@nb.njit(cache=True, nogil=True)
def _log_weight_sums(law, chance, log_weight, log_factor, total, tilted):
    """Mean and variance that one step adds to the log-weight, and its mean given a window.

    `total` (S, at least 1) holds in its first column the mean of all later steps.
    """
    n_windows, n_letters = log_weight.shape
    rest = n_windows // n_letters
    mean = 0.0
    for x in range(n_windows):
        a, y = x // rest, x % rest
        expected = 0.0
        for b in range(n_letters):
            if chance[y, a, b] > 0:
                expected += chance[y, a, b] * (log_weight[x, b] + log_factor[b])
        tilted[x] = expected
        mean += law[x] * expected
    variance = 0.0
    for x in range(n_windows):
        a, y = x // rest, x % rest
        tilted[x] -= mean
        inner = 0.0
        for b in range(n_letters):
            if chance[y, a, b] > 0:
                excess = log_weight[x, b] + log_factor[b] - mean
                later = total[y * n_letters + b, 0]
                inner += chance[y, a, b] * excess * (excess + 2 * later)
        variance += law[x] * inner
    return mean, variance


@nb.njit(cache=True, nogil=True)
def respond(
    weight,
    log_weight,
    factor,
    log_factor,
    forward,
    copies,
    summed,
    paired,
    backward,
    total,
    ages,
    n_ages,
    marginal,
    cumulant,
    covariance,
):
    """Go back over some sites, and add up what they contribute.

    Parameters
    ----------
    weight : float64 array (S, Q)
        Up to factors of windows that cancel.
    log_weight : float64 array (S, Q)
        What a step adds to the log-weight, less `log_factor`.
    factor, log_factor : float64 array (1 or m, Q)
        Of the letters of these sites.
    forward : float64 array (m + 1, S)
        Forward messages, the first of the site before these.
    copies : float64 array (m,)
        How many sites each one stands for.
    summed : float64 array (k, Q)
        Observables of which mean and variance of the sum over sites are wanted.
    paired : float64 array (l, Q)
        Observables of which the correlations are wanted.
    backward : float64 array (S,)
        Backward message of the last of these sites; left as that of the site before.
    total : float64 array (S, 1 + k)
        Mean of all sums over later sites given the window: log-weight, observables.
        Advanced in place.
    ages : float64 array (S, d l)
        Mean of the observables 1 to d sites on, given the window, the nearest first.
    n_ages : int
        How many of them there are so far.
    marginal : float64 array (m, Q)
        Set to the chance of each letter.
    cumulant : float64 array (2, 1 + k)
        Means and variances of the sums, added to.
    covariance : float64 array (d + 1, l)
        Sum over pairs of sites, added to.

    Returns
    -------
    n_ages : int
        From here.
    ages : float64 array (S, d l)
    """
    n_windows, n_letters = weight.shape
    n_summed, n_paired = len(summed), len(paired)
    longest = len(covariance) - 1
    law, before, tilted = np.empty(n_windows), np.empty(n_windows), np.empty(n_windows)
    chance = np.empty((n_windows // n_letters, n_letters, n_letters))
    next_total = np.empty_like(total)
    next_ages = np.empty_like(ages)
    apart = np.empty((n_windows, n_paired))
    here, weighted = np.empty_like(covariance), np.empty(n_paired)
    for j in range(len(copies) - 1, -1, -1):
        row = j if len(factor) > 1 else 0
        _law(forward[j + 1], backward, law)
        marginal[j] = 0
        for x in range(n_windows):
            marginal[j, x % n_letters] += law[x]

        for c in range(n_paired):
            average = 0.0
            for b in range(n_letters):
                average += marginal[j, b] * paired[c, b]
            for x in range(n_windows):
                apart[x, c] = paired[c, x % n_letters] - average
        if n_paired:
            # Site by site: small terms would drown in the sums over all sites.
            here[: n_ages + 1] = 0
            for x in range(n_windows):
                value, old = apart[x], ages[x]
                for c in range(n_paired):
                    weighted[c] = law[x] * value[c]
                    here[0, c] += weighted[c] * value[c]
                for d in range(n_ages):
                    summed_here, first = here[d + 1], d * n_paired
                    for c in range(n_paired):
                        summed_here[c] += weighted[c] * old[first + c]
            for d in range(n_ages + 1):
                for c in range(n_paired):
                    covariance[d, c] += copies[j] * here[d, c]

        for c in range(n_summed):
            average = 0.0
            for b in range(n_letters):
                average += marginal[j, b] * summed[c, b]
            variance = 0.0
            for x in range(n_windows):
                excess = summed[c, x % n_letters] - average
                later = total[x, 1 + c]
                variance += law[x] * excess * (excess + 2 * later)
                total[x, 1 + c] = later + excess
            cumulant[0, 1 + c] += copies[j] * average
            cumulant[1, 1 + c] += copies[j] * variance

        _conditional(weight, factor[row], backward, before, chance)
        backward[:] = before
        _law(forward[j], backward, law)
        step_mean, step_variance = _log_weight_sums(
            law, chance, log_weight, log_factor[row], total, tilted
        )
        cumulant[0, 0] += copies[j] * step_mean
        cumulant[1, 0] += copies[j] * step_variance
        averaged(chance, total, 1 + n_summed, next_total, 0)
        for x in range(n_windows):
            next_total[x, 0] += tilted[x]
        centred(law, next_total, 1 + n_summed)
        total[:] = next_total

        if n_paired and longest:
            kept = min(n_ages, longest - 1)
            if kept:
                averaged(chance, ages, kept * n_paired, next_ages, n_paired)
            averaged(chance, apart, n_paired, next_ages, 0)
            n_ages = kept + 1
            centred(law, next_ages, n_ages * n_paired)
            ages, next_ages = next_ages, ages
            while n_ages:
                oldest = np.abs(ages[:, (n_ages - 1) * n_paired : n_ages * n_paired]).max()
                if oldest > _NOTHING:
                    break
                n_ages -= 1
    return n_ages, ages
