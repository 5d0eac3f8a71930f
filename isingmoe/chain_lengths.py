"""Correlation length of a chain of sets, exact or from a long run, and its error."""

from __future__ import annotations

from collections.abc import Callable
from math import comb

import numpy as np
from numpy.typing import NDArray

from isingmoe.chains import KineticChain, PottsChain
from isingmoe.decay import decay_fit
from isingmoe.forward import stationary_correlation
from isingmoe.transfer import solve

__all__ = ["chain_correlation", "chain_length"]

Array = NDArray[np.floating]

# More windows than this take longer to solve than to simulate.
_FEW_WINDOWS = 256
_N_TOKENS, _MAX_DISTANCE = 1 << 17, 64
# Tokens in which a sequence forgets how it began.
_N_BURN = 4 * _MAX_DISTANCE
# Chains drawn about the fitted one for the error, and tokens of each.
_N_DRAWS, _N_TOKENS_DRAWN = 8, 1 << 15


def chain_length(
    chain: Callable[[Array], KineticChain | PottsChain],
    x: Array,
    columns: Array,
    *,
    seed: int = 0,
) -> tuple[float, float]:
    """Correlation length of a fitted chain, with its error.

    Parameters
    ----------
    chain : callable
        The chain of parameters.
    x : ndarray (parameter,)
    columns : ndarray (column, parameter)
        Factor of the covariance of the parameters.
    seed : int

    Returns
    -------
    float
        -1 / ln of the second eigenvalue's modulus where the chain can be solved; else the
        decay of C(d), in a run of 131,072 tokens, over the distances where it is above
        twice its error. NaN of an equilibrium chain with more windows than are solved.
    float
        Spread of the same for chains drawn from the parameters' normal distribution; infinite
        where one of them does not decay.
    """
    length = _length(chain(x), _N_TOKENS, seed)
    if not len(columns) or np.isnan(length):
        return length, np.nan
    rng = np.random.default_rng(seed)
    drawn = [
        _length(
            chain(x + rng.normal(size=len(columns)) @ columns), _N_TOKENS_DRAWN, seed + 1 + draw
        )
        for draw in range(_N_DRAWS)
    ]
    return length, float(np.std(drawn, ddof=1)) if np.isfinite(drawn).all() else np.inf


def chain_correlation(
    chain: KineticChain, max_distance: int, *, n_tokens: int = _N_TOKENS, seed: int = 0
) -> tuple[Array, Array]:
    """C(d) summed over experts, and its error: zero where it is exact.

    Parameters
    ----------
    chain : KineticChain
        Infinite.
    max_distance : int
    n_tokens : int
        Of the run, where one is needed.
    seed : int

    Returns
    -------
    curve, error : ndarray (distance,)
    """
    if _n_windows(chain) <= _FEW_WINDOWS:
        curve = solve(chain, max_distance=max_distance)["correlation"].values
        return curve, np.zeros_like(curve)
    return stationary_correlation(chain, max_distance, n_tokens, seed)


def _length(chain: KineticChain | PottsChain, n_tokens: int, seed: int) -> float:
    if _n_windows(chain) <= _FEW_WINDOWS:
        return float(solve(chain, max_distance=1)["correlation_length"])
    if isinstance(chain, PottsChain):
        return np.nan
    curve, error = stationary_correlation(chain, _MAX_DISTANCE, n_tokens, seed, n_burn=_N_BURN)
    return float(decay_fit(curve, error)[0])


def _n_windows(chain: KineticChain | PottsChain) -> float:
    alphabet = comb(chain.n_states, chain.top_k)
    return float(alphabet) ** max(len(chain.strength), 1)
