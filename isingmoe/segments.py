"""Finite chains with open ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isingmoe._kernels.messages import backward_messages, forward_messages
from isingmoe._kernels.responses import respond
from isingmoe._windows import Windows
from isingmoe.infinite import (
    Solution,
    StationaryChain,
    Track,
    next_windows,
    out_of_range,
    transition_matrix,
    untracked,
)

__all__ = ["solve_open"]

Array = NDArray[np.floating]

# Numbers held in the messages of a stretch, and in the columns of a group of observables.
_STRETCH, _COLUMNS = 1 << 24, 1 << 25
# Additions between two moves of a progress bar.
_WORK = 4e9
# Of a law, for each site that it remembers.
_ROUNDING = 128 * float(np.finfo(float).eps)
# Farther from the law of the infinite chain than this nothing has settled.
_COARSEST = 1e-9
# Times a memory after which what is left of the ends is lost in rounding.
_LOST, _MARGIN = 45, 8
# Correlations that are smaller everywhere add nothing to any sum.
_NOTHING, _GONE = 1e-24, 55


def solve_open(
    windows: Windows,
    infinite: StationaryChain | None,
    n_sites: int,
    longest: int,
    track: Track = untracked,
) -> Solution:
    """Solve a chain with open ends.

    Parameters
    ----------
    windows : Windows
    infinite : StationaryChain or None
        The same chain without ends; None where the field differs from site to site.
    n_sites : int
    longest : int
        Largest distance of the correlations, which are averaged over all pairs of sites.
    track : callable, optional
        Called with steps and what they do, for a progress bar.

    Returns
    -------
    Solution

    Raises
    ------
    ValueError
        If the weights span more than the range of a double.

    Notes
    -----
    One way along the chain gives the forward messages. The way back gives the law of every
    site and, given a window, the mean of each sum over the sites after it; its covariances
    with the sites are the variances of the sums. Away from the ends all sites are alike, and
    one stands for many.
    """
    line = _line(windows, infinite, n_sites)
    observable, by_power = windows.observable, windows.reach == 1 and infinite is not None
    lasting = longest if by_power else min(longest, _lasting(line, longest))
    fold = _folded(line, lasting)
    by_power = by_power and fold.n_sites * windows.n_windows <= 2 * _STRETCH
    group = len(observable)
    if not by_power:
        group = max(1, min(group, _COLUMNS // max(1, lasting * windows.n_windows)))
    log_z, opening, starts = _forward(line, fold)
    marginal, cumulant = np.empty(0), np.empty(0)
    pairs = np.zeros((longest + 1, len(observable)))
    for first in range(0, len(observable), group):
        chosen = slice(first, first + group)
        summed = observable if first == 0 else observable[:0]
        paired = observable[:0] if by_power else observable[chosen]
        found = _backward(line, fold, opening, starts, summed, paired, lasting, track)
        if first == 0:
            marginal, cumulant = found[0], found[1] / n_sites
        if not by_power:
            pairs[: lasting + 1, chosen] = found[2]
    if by_power and infinite is not None:
        pairs = _pairs_by_power(line, fold, infinite, opening, longest, track)
    if not all(np.isfinite(found).all() for found in (marginal, cumulant, pairs)):
        raise out_of_range(windows)
    mean, variance = cumulant[0], cumulant[1]
    # Rounding can take a variance that is zero below it.
    variance = np.maximum(variance, 0)
    return Solution(
        log_z,
        mean[0],
        variance[0],
        mean[1:],
        variance[1:],
        fold.unfolded(marginal @ windows.held.T),
        pairs / (n_sites - np.arange(longest + 1))[:, None],
    )


@dataclass(frozen=True)
class _Line:
    """An open chain that grows site by site.

    The weight of a step is that of a letter after a window, times the letter's own factor.
    A chain with one field has the probabilities of the infinite chain for weights: forward
    messages tend to its stationary law, backward messages to a constant. The first `reach`
    sites have fewer before them, and weights of their own.
    """

    windows: Windows
    infinite: StationaryChain | None
    n_sites: int
    weight: Array
    log_weight: Array
    factor: Array
    log_factor: Array
    end: Array

    @property
    def limit(self) -> Array:
        """The law that forward messages tend to, if there is one."""
        return np.empty(0) if self.infinite is None else self.infinite.stationary

    def opening(self, site: int) -> tuple[Array, Array, float]:
        """Weight of one of the first sites and its log-weight, without and with its factor."""
        log_weight = self.windows.step_after(site)
        if self.infinite is not None:
            log_weight = log_weight + self.windows.site[0]
        scale = float(log_weight.max())
        weight = np.exp(log_weight - scale)
        if self.infinite is not None and site == self.windows.reach - 1:
            n_letters = self.windows.n_letters
            weight *= np.tile(self.infinite.right.reshape(-1, n_letters), (n_letters, 1))
        return weight, log_weight, scale

    def rows(self, first: int, last: int) -> slice:
        """Rows of the factors that belong to these sites."""
        return slice(None) if len(self.factor) == 1 else slice(first, last)


def _line(windows: Windows, infinite: StationaryChain | None, n_sites: int) -> _Line:
    if infinite is None:
        site = windows.site
        weight = np.exp(windows.step - windows.step.max())
        factor = np.exp(site - site.max(1, keepdims=True))
        end = np.ones(windows.n_windows)
        return _Line(windows, None, n_sites, weight, windows.step, factor, site, end)
    none = np.zeros((1, windows.n_letters))
    end = infinite.right.min() / infinite.right
    log_weight, right = infinite.log_weight, infinite.right
    # Rows that sum to one but for rounding are left as they are: whatever error there is in
    # the eigenvector cancels along the chain.
    balance = np.exp(log_weight - infinite.log_eigenvalue) / right[:, None]
    weight = balance * right[next_windows(windows)]
    return _Line(windows, infinite, n_sites, weight, log_weight, none + 1, none, end)


@dataclass(frozen=True)
class _Fold:
    """A chain shortened by sites that are all alike: site `bulk` stands for `repeats` more."""

    n_sites: int
    bulk: int
    repeats: int

    @property
    def copies(self) -> Array:
        copies = np.ones(self.n_sites)
        copies[self.bulk] += self.repeats
        return copies

    def unfolded(self, rows: Array) -> Array:
        """A row for each site of the chain."""
        return np.repeat(rows, self.copies.astype(int), 0) if self.repeats else rows


def _folded(line: _Line, longest: int) -> _Fold:
    """How much of a chain has to be gone through."""
    n, infinite = line.n_sites, line.infinite
    plain = _Fold(n, 0, 0)
    if infinite is None:
        return plain
    memory, reach = infinite.memory, line.windows.reach
    tolerance = _ROUNDING * (1 + memory)
    if tolerance > _COARSEST or 2 * _LOST * memory > n:
        return plain

    def forward(law: Array, count: int) -> Array:
        return forward_messages(line.weight, line.factor, 0, law, count, line.limit, tolerance)[0]

    def backward(message: Array, count: int) -> Array:
        return backward_messages(line.weight, message, count, tolerance)[1:]

    # A little farther than within the tolerance.
    margin = math.ceil(_MARGIN * memory)
    n_left = _settled_after(line, forward, _opened(line)[0][-1]) + margin
    n_right = _settled_after(line, backward, line.end) + margin
    # The means of the sums to come settle after the messages that they are made with.
    n_right += math.ceil(_LOST * memory) + 4 * reach + max(n_left, n_right)
    bulk = reach - 1 + n_left
    short = bulk + 1 + n_right + longest
    return _Fold(short, bulk, n - short) if short < n else plain


def _stretch(line: _Line) -> int:
    return max(1, _STRETCH // line.windows.n_windows)


def _settled_after(line: _Line, advance: Callable[[Array, int], Array], message: Array) -> int:
    """Steps after which messages no longer change; `advance` makes so many more of them."""
    done = 0
    while done < line.n_sites:
        count = min(_stretch(line), line.n_sites - done)
        messages = advance(message, count)
        done += len(messages)
        if len(messages) < count:
            break
        message = messages[-1].copy()
    return done


def _opened(line: _Line) -> tuple[Array, float]:
    """Laws before the first site and at the first `reach` sites, and the log of their weight."""
    reach = min(line.windows.reach, line.n_sites)
    laws = np.zeros((reach + 1, line.windows.n_windows))
    laws[0, 0] = 1
    log_z = 0.0
    for site in range(reach):
        weight, _, scale = line.opening(site)
        factor = line.factor[line.rows(site, site + 1)]
        message, log_scale = forward_messages(weight, factor, 0, laws[site], 1, laws[0], 0.0)
        laws[site + 1] = message[0]
        log_z += scale + log_scale[0]
    if not math.isfinite(log_z):
        raise out_of_range(line.windows)
    return laws, log_z


def _forward(line: _Line, fold: _Fold) -> tuple[float, Array, list[Array]]:
    """Log Z, the laws at the opening, and the law before each stretch after it."""
    opening, log_z = _opened(line)
    reach = len(opening) - 1
    starts, law = [], opening[-1]
    for first in range(reach, fold.n_sites, _stretch(line)):
        starts.append(law)
        messages, log_scale = _messages(line, fold, first, law)
        law = messages[-1].copy()
        log_z += log_scale.sum()
        if first <= fold.bulk < first + len(messages):
            log_z += fold.repeats * log_scale[fold.bulk - first]
    last = law @ line.end
    if not last > 0 or not math.isfinite(log_z):
        raise out_of_range(line.windows)
    log_z += math.log(last)
    n_steps = line.n_sites - reach
    if line.infinite is None:
        log_z += n_steps * float(line.windows.step.max()) + float(line.windows.site.max(1).sum())
    else:
        log_z += n_steps * line.infinite.log_eigenvalue - math.log(line.infinite.right.min())
    return log_z, opening, starts


def _messages(line: _Line, fold: _Fold, first: int, law: Array) -> tuple[Array, Array]:
    """Forward messages of the stretch that begins at a site."""
    count = min(_stretch(line), fold.n_sites - first)
    return forward_messages(line.weight, line.factor, first, law, count, law, 0.0)


def _backward(
    line: _Line,
    fold: _Fold,
    opening: Array,
    starts: list[Array],
    summed: Array,
    paired: Array,
    longest: int,
    track: Track,
) -> tuple[Array, Array, Array]:
    """Marginals, cumulants of the sums and sums over pairs, in one way back."""
    windows, copies = line.windows, fold.copies
    n_windows, reach = windows.n_windows, len(opening) - 1
    backward = line.end.copy()
    total = np.zeros((n_windows, 1 + len(summed)))
    ages, n_ages = np.zeros((n_windows, longest * len(paired))), 0
    marginal = np.empty((fold.n_sites, windows.n_letters))
    cumulant = np.zeros((2, 1 + len(summed)))
    covariance = np.zeros((longest + 1, len(paired)))

    def go(first: int, last: int, weight: Array, log_weight: Array, forward: Array) -> None:
        nonlocal ages, n_ages
        rows = line.rows(first, last)
        n_ages, ages = respond(
            weight,
            log_weight,
            line.factor[rows],
            line.log_factor[rows],
            forward,
            copies[first:last],
            summed,
            paired,
            backward,
            total,
            ages,
            n_ages,
            marginal[first:last],
            cumulant,
            covariance,
        )

    width = 1 + len(summed) + len(paired) * longest
    chunk = max(1, int(_WORK / (line.weight.size * width)))
    parts = [
        (stretch, first)
        for stretch in range(len(starts))
        for first in range(
            reach + stretch * _stretch(line),
            min(fold.n_sites, reach + (stretch + 1) * _stretch(line)),
            chunk,
        )
    ]
    current, messages, base = -1, np.empty(0), 0
    for stretch, first in track(parts[::-1], "sites"):
        if stretch != current:
            current, base = stretch, reach + stretch * _stretch(line)
            law = starts[stretch]
            messages = np.concatenate([law[None], _messages(line, fold, base, law)[0]])
        last = min(first + chunk, base + len(messages) - 1)
        forward = messages[first - base : last - base + 1]
        go(first, last, line.weight, line.log_weight, forward)
    for site in range(reach - 1, -1, -1):
        weight, log_weight, _ = line.opening(site)
        go(site, site + 1, weight, log_weight, opening[site : site + 2])
    return marginal, cumulant, covariance


def _lasting(line: _Line, longest: int) -> int:
    """Distance at which the correlations are lost, as far as it is known."""
    if line.infinite is None or not math.isfinite(line.infinite.memory):
        return longest
    return math.ceil(_GONE * line.infinite.memory)


def _pairs_by_power(
    line: _Line,
    fold: _Fold,
    infinite: StationaryChain,
    opening: Array,
    longest: int,
    track: Track,
) -> Array:
    """Sums over pairs by powers of the transition matrix, of which all pairs need the same."""
    n, observable = fold.n_sites, line.windows.observable
    forward = opening[1:]
    if n > 1:
        more, _ = forward_messages(line.weight, line.factor, 0, opening[1], n - 1, line.limit, 0.0)
        forward = np.concatenate([forward, more])
    backward = backward_messages(line.weight, line.end, n - 1, 0.0)
    missing = n - len(backward)
    backward = np.concatenate([backward, np.repeat(backward[-1:], missing, 0)])[::-1]
    backward = backward / (forward * backward).sum(1, keepdims=True)
    before = forward @ observable.T
    after = (backward * infinite.stationary) @ observable.T
    mean = (forward * backward) @ observable.T
    copies = fold.copies[:, None]
    transition = transition_matrix(infinite)
    # P^d less its limit; the limit is the product of what comes before and after.
    apart = np.eye(len(transition)) - infinite.stationary
    decaying = transition - infinite.stationary
    is_over = False
    result = np.zeros((longest + 1, len(observable)))
    for d in track(range(longest + 1), "correlations"):
        left, right = slice(n - d), slice(d, None)
        products = before[left] * after[right] - mean[left] * mean[right]
        result[d] = (copies[left] * products).sum(0)
        if not is_over:
            weight = (forward[left] * copies[left]).T @ backward[right]
            result[d] += ((observable @ (apart * weight)) * observable).sum(1)
            apart = apart @ decaying
            is_over = bool(np.abs(apart).max() < _NOTHING)
    return result
