"""Decay of a chain of sets, exact or from a long run, and its error."""

from __future__ import annotations

from collections.abc import Callable
from math import comb
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from isingmoe._text import about
from isingmoe.chains import KineticChain, PottsChain
from isingmoe.decay import decay_fit
from isingmoe.forward import Decay, stationary_correlation
from isingmoe.transfer import solve

__all__ = [
    "CURVES",
    "MAX_DISTANCE",
    "ChainDecay",
    "chain_correlation",
    "chain_decay",
    "curve_distance",
]

Array = NDArray[np.floating]

# More windows than this take longer to solve than to simulate.
_FEW_WINDOWS = 256
_N_TOKENS = 1 << 17
# Largest distance of the curves of fitted chains.
MAX_DISTANCE = 64
# What fits of every kind say of them: dims, long name and units.
CURVES = {
    "correlation": (
        ("layer", "correlation_distance"),
        "correlation C(d) of the chain, summed over experts",
        "1",
    ),
    "correlation_error": (
        ("layer", "correlation_distance"),
        "standard error of that correlation",
        "1",
    ),
    "expert_correlation": (
        ("layer", "expert", "correlation_distance"),
        "correlation C(d) of each expert in the chain",
        "1",
    ),
    "expert_correlation_error": (
        ("layer", "expert", "correlation_distance"),
        "standard error of that correlation",
        "1",
    ),
}
# Tokens in which a sequence forgets how it began.
_N_BURN = 4 * MAX_DISTANCE
# Chains drawn about the fitted one for the error, where they are solved and where they are
# run, and tokens of each run.
_N_SOLVED, _N_RUN, _N_TOKENS_DRAWN = 32, 8, 1 << 15


class ChainDecay(NamedTuple):
    """How the correlations of a fitted chain decay, with errors by the uncertainty of the fit.

    Attributes
    ----------
    length, length_error : float
        Correlation length. -1 / ln of the second eigenvalue's modulus where the chain can be
        solved; else the decay of C(d), in a run of 131,072 tokens, over the distances where
        it is above twice its error. NaN of an equilibrium chain with more windows than are
        solved. The error is infinite where a chain that was drawn does not decay.
    decay : Decay
        C(d) at the distances 0 to `MAX_DISTANCE`, with the errors of the fit.
    """

    length: float
    length_error: float
    decay: Decay

    def variables(self) -> dict[str, Any]:
        """What a fit reports of it."""
        return {
            "correlation_length": self.length,
            "correlation_length_error": self.length_error,
            "correlation": self.decay.curve,
            "correlation_error": self.decay.error,
            "expert_correlation": self.decay.expert_curve,
            "expert_correlation_error": self.decay.expert_error,
        }


def chain_decay(
    chain: Callable[[Array], KineticChain | PottsChain],
    x: Array,
    columns: Array,
    *,
    seed: int = 0,
) -> ChainDecay:
    """Decay of a fitted chain: that of the chain itself, and its spread over chains drawn.

    Parameters
    ----------
    chain : callable
        The chain of parameters.
    x : ndarray (parameter,)
    columns : ndarray (column, parameter)
        Factor of the covariance of the parameters; without any, errors are NaN.
    seed : int

    Returns
    -------
    ChainDecay

    Notes
    -----
    Chains are drawn from the normal distribution of the parameters: 32 that are solved, or 8
    that are run, so that errors are known to an eighth or a quarter. What the runs add to the
    spread of the curves is taken off.
    """
    length, own = _decay(chain(x), _N_TOKENS, seed)
    if not len(columns) or np.isnan(length):
        unknown = np.full_like(own.expert_curve, np.nan)
        return ChainDecay(length, np.nan, own._replace(error=unknown[0], expert_error=unknown))
    rng = np.random.default_rng(seed)
    drawn = [
        _decay(chain(x + rng.normal(size=len(columns)) @ columns), _N_TOKENS_DRAWN, seed + 1 + draw)
        for draw in range(_N_RUN if own.error.any() else _N_SOLVED)
    ]
    lengths = [length for length, _ in drawn]
    error = float(np.std(lengths, ddof=1)) if np.isfinite(lengths).all() else np.inf
    curve, noise, expert_curve, expert_noise = (
        np.array(part) for part in zip(*(decay for _, decay in drawn), strict=True)
    )
    spread = Decay(
        own.curve, _beyond(curve, noise), own.expert_curve, _beyond(expert_curve, expert_noise)
    )
    return ChainDecay(length, error, spread)


def _beyond(drawn: Array, noise: Array) -> Array:
    """Spread of curves (draw, ...) beyond what the runs behind them add."""
    return np.sqrt(np.maximum(drawn.var(0, ddof=1) - (noise**2).mean(0), 0))


def chain_correlation(
    chain: KineticChain, max_distance: int, *, n_tokens: int = _N_TOKENS, seed: int = 0
) -> Decay:
    """C(d) of a chain of sets, exact where it can be solved.

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
    Decay
    """
    if _n_windows(chain) <= _FEW_WINDOWS:
        exact = solve(chain, max_distance=max_distance)
        return Decay.exact(exact["expert_correlation"].values.T)
    return stationary_correlation(chain, max_distance, n_tokens, seed)


def curve_distance() -> tuple[str, NDArray[np.int64], dict[str, str]]:
    """Coordinate of the curves of fits."""
    return "correlation_distance", np.arange(MAX_DISTANCE + 1), about("distance", "token")


def _decay(chain: KineticChain | PottsChain, n_tokens: int, seed: int) -> tuple[float, Decay]:
    """Correlation length and C(d), with the error of C(d) by the run behind it."""
    if _n_windows(chain) <= _FEW_WINDOWS:
        exact = solve(chain, max_distance=MAX_DISTANCE)
        return float(exact["correlation_length"]), Decay.exact(exact["expert_correlation"].values.T)
    if isinstance(chain, PottsChain):
        return np.nan, Decay.exact(np.full((chain.n_states, MAX_DISTANCE + 1), np.nan))
    decay = stationary_correlation(chain, MAX_DISTANCE, n_tokens, seed, n_burn=_N_BURN)
    return float(decay_fit(decay.curve, decay.error)[0]), decay


def _n_windows(chain: KineticChain | PottsChain) -> float:
    alphabet = comb(chain.n_states, chain.top_k)
    return float(alphabet) ** max(len(chain.strength), 1)
