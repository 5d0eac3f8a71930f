"""How chains are estimated: the estimators and their settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["MaximumLikelihood", "Pseudolikelihood"]


@dataclass(frozen=True, kw_only=True)
class MaximumLikelihood:
    """Exact maximum likelihood, conditional on the first tokens of every sequence.

    Parameters
    ----------
    pseudocount : float, optional
        Added to the pair counts of Potts and Ising chains, on average over the pairs, so that
        the coupling of a pair that never occurs is finite. To a Potts chain it is added in
        proportion to the load of the second state; by default as much as makes the counts
        most probable (maximum evidence), a little where rows differ and more where they are
        alike but for noise. To every pair of an Ising chain it is added evenly, one half by
        default. Zero is the bare maximum likelihood.
    l2 : float or "cv", optional
        Of kinetic chains: a penalty of l2 / 2 times the squares of all couplings in the
        zero-sum gauge, in nats. By default that of maximum evidence, one for each distance,
        of symmetric and full couplings, and 0.01 of uniform and diagonal ones; "cv" takes the
        one of the best held-out score over folds of the sequences. Zero is the bare maximum
        likelihood.
    max_iterations : int
        Limit of the fits without a closed form.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """

    pseudocount: float | None = None
    l2: float | str | None = None
    max_iterations: int = 500

    def __post_init__(self) -> None:
        given = self.pseudocount
        if given is not None and not (np.isfinite(given) and given >= 0):
            raise ValueError(f"pseudocount: expected a number from 0 up, got {given!r}")
        _check(self.l2, self.max_iterations)


@dataclass(frozen=True, kw_only=True)
class Pseudolikelihood:
    """Maximum pseudolikelihood of an equilibrium chain: each token given those on both sides.

    Consistent for any reach and any number of experts to a token, where the likelihood itself
    would need the transfer matrix.

    Parameters
    ----------
    l2 : float or "cv", optional
        As for `MaximumLikelihood`.
    max_iterations : int

    Raises
    ------
    ValueError
        If an argument is out of range.

    References
    ----------
    J. Besag, J. R. Stat. Soc. D 24, 179 (1975); M. Ekeberg et al., Phys. Rev. E 87, 012707
    (2013).
    """

    l2: float | str | None = None
    max_iterations: int = 500

    def __post_init__(self) -> None:
        _check(self.l2, self.max_iterations)


def _check(l2: Any, max_iterations: int) -> None:
    is_number = isinstance(l2, int | float) and not isinstance(l2, bool)
    if not (l2 is None or l2 == "cv" or (is_number and np.isfinite(l2) and l2 >= 0)):
        raise ValueError(f"l2: expected a number from 0 up or 'cv', got {l2!r}")
    if max_iterations < 1:
        raise ValueError(f"max_iterations: expected at least 1, got {max_iterations}")
