"""Sequences of a kinetic chain, and what long ones tell of the infinite one."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from isingmoe._kernels.forward import draw_sequences
from isingmoe._kernels.overlaps import occupancy_counts, pack_sets
from isingmoe._kernels.planes import STRETCH, pair_counts
from isingmoe._seeds import Seed, generators
from isingmoe.chains import KineticChain

__all__ = ["Decay", "Tables", "draw", "stationary_correlation", "tables"]

Array = NDArray[np.floating]

# Sequences that a long run is divided into: enough for an error by their spread.
_N_SEQUENCES = 64


class Tables(NamedTuple):
    """What the kernels read of a chain.

    Attributes
    ----------
    coupling : float64 ndarray (reach, q, q)
    by_position : float64 ndarray (1 or position, q)
    block : int64 ndarray (1 or sequence, position)
        Row of `by_position` for each position.
    """

    coupling: Array
    by_position: Array
    block: NDArray[np.int64]


def tables(chain: KineticChain, length: int) -> Tables:
    """What the kernels read of a chain, for sequences of some length.

    Raises
    ------
    ValueError
        If the chain has another length.
    """
    if length < 1 or chain.n_sites not in (None, length):
        expected = "at least 1" if chain.n_sites is None else f"{chain.n_sites}, that of the chain"
        raise ValueError(f"length: expected {expected}, got {length}")
    site = chain.site
    block = np.arange(length) if len(site) > 1 else np.zeros(length, np.int64)
    return Tables(np.ascontiguousarray(chain.bond), site, block[None])


def draw(
    chain: KineticChain,
    n_sequences: int,
    length: int,
    *,
    by_sequence: Array | None = None,
    first: NDArray[np.integer] | None = None,
    n_burn: int = 0,
    seed: Seed = 0,
) -> NDArray[np.int16]:
    """Draw sequences from nothing before them.

    Parameters
    ----------
    chain : KineticChain
        Infinite, or of the same length; with `first`, of any length that holds them all.
    n_sequences, length : int
    by_sequence : ndarray (sequence, expert), optional
        Log-weights added to those of the chain in each sequence.
    first : int ndarray (sequence,), optional
        Site of the chain whose field the first set of each sequence has; 0 by default.
    n_burn : int
        Sets drawn and discarded before the first, with the field of the first.
    seed : int, SeedSequence or Generator
        Each sequence draws from a child of its own: neither the number of threads nor that
        of the sequences matters to it.

    Returns
    -------
    int16 ndarray (sequence, position, rank)
        Members of each set, rising.

    Raises
    ------
    ValueError
        If the chain has another length, or `by_sequence` or `first` another shape.
    """
    expected = (n_sequences, chain.n_states)
    more = np.zeros((1, chain.n_states)) if by_sequence is None else by_sequence
    if by_sequence is not None and np.shape(by_sequence) != expected:
        raise ValueError(f"by_sequence: expected shape {expected}, got {np.shape(by_sequence)}")
    if first is None:
        known = tables(chain, length)
    else:
        known = _tables_from(chain, np.asarray(first), n_sequences, length)
    out = np.empty((n_sequences, length, chain.top_k), np.int16)
    draw_sequences(
        *known,
        np.ascontiguousarray(more, float),
        chain.top_k,
        n_burn,
        generators(seed, n_sequences),
        out,
    )
    return out


def _tables_from(
    chain: KineticChain, first: NDArray[np.integer], n_sequences: int, length: int
) -> Tables:
    """The same for sequences that begin at sites of their own."""
    if first.shape != (n_sequences,) or first.min(initial=0) < 0:
        raise ValueError(f"first: expected a site for each of {n_sequences} sequences, got {first}")
    n_sites = chain.n_sites
    if n_sites is None:
        return tables(chain, length)
    whole = tables(chain, n_sites)
    last = int(first.max(initial=0)) + length
    if last > n_sites:
        raise ValueError(f"first: expected at most {n_sites - length}, got {last - length}")
    return whole._replace(block=whole.block[0][first[:, None] + np.arange(length)])


class Decay(NamedTuple):
    """Connected correlation of the occupancies of a chain.

    Attributes
    ----------
    curve, error : ndarray (distance,)
        Summed over experts, and its standard error; zero where it is exact.
    expert_curve, expert_error : ndarray (expert, distance)
    """

    curve: Array
    error: Array
    expert_curve: Array
    expert_error: Array

    @staticmethod
    def exact(expert_curve: Array) -> Decay:
        """One that is known without error."""
        curve = expert_curve.sum(0)
        return Decay(curve, np.zeros_like(curve), expert_curve, np.zeros_like(expert_curve))


def stationary_correlation(
    chain: KineticChain,
    max_distance: int,
    n_tokens: int = 1_000_000,
    seed: Seed = 0,
    *,
    n_burn: int = 1024,
) -> Decay:
    """Correlation of the infinite chain, from long sequences; for more windows than are solved.

    Parameters
    ----------
    chain : KineticChain
        Infinite.
    max_distance : int
    n_tokens : int
        At least, of all sequences.
    seed : int, SeedSequence or Generator
    n_burn : int
        Tokens of each sequence that are discarded, for it to forget how it began.

    Returns
    -------
    Decay
        At the distances 0 to `max_distance`, about one mean for each expert; errors by the
        spread of the sequences.

    Raises
    ------
    ValueError
        If the chain is finite.

    Notes
    -----
    The squares of the means are products of means of different sequences, which are
    independent: their noise does not add to the square.
    """
    if chain.n_sites is not None:
        raise ValueError(f"n_sites: expected None, the infinite chain, got {chain.n_sites}")
    n = _N_SEQUENCES
    length = max(-(-n_tokens // n), 2 * max_distance + 2)
    index = draw(chain, n, length, n_burn=n_burn, seed=seed)
    both, pairs = _counted(index, chain.n_states, max_distance)
    sets, _, _ = pack_sets(index, (chain.n_states + 63) // 64)
    _, occupied = occupancy_counts(sets, chain.n_states)
    overlap, rate = both / pairs[:, None], occupied / length
    total = rate.sum(0)
    expert_curve = overlap.mean(0) - ((total**2 - (rate**2).sum(0)) / (n * (n - 1)))[:, None]
    # What each sequence moves the curves by, to first order.
    moved = overlap - 2 * (rate * total / n)[..., None]

    def error(values: Array) -> Array:
        return values.std(0, ddof=1) / np.sqrt(n)

    return Decay(expert_curve.sum(0), error(moved.sum(1)), expert_curve, error(moved))


def _counted(
    index: NDArray[np.int16], n_experts: int, max_distance: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs with an expert at both ends (sequence, expert, distance), and all pairs."""
    starts = np.arange(0, index.shape[1], STRETCH)
    unit = np.stack(np.meshgrid(np.arange(len(index)), starts, indexing="ij"), -1).reshape(-1, 2)
    bounds = np.arange(0, len(unit) + 1, len(starts))
    workers = numba.get_num_threads()
    return pair_counts(index, unit, bounds, n_experts, max_distance, False, workers)
